"""The bundled network: a small feature-bank segmenter in the manner of AFB-URR, made for CPUs.

One encoder sees every frame; its stride-16 keys serve as query and as memory (as in STCN, Cheng et al. 2021), so that
memorizing costs only a light mask path. The decoder turns the read-out of the bank into a coarse mask at 1/4 of the
resolution; where the best two classes are close it is refined at 1/2 with what the object looks like nearby
(uncertain-region refinement, Liang et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskbank.networks.aggregation import HIDDEN_LOGIT, aggregate, uncertainty
from maskbank.networks.efficientnet_lite import Encoder
from maskbank.networks.novelty import NO_THRESHOLD
from maskbank.networks.search_area import SearchArea

STRIDE = 16
KEY_CHANNELS = 64
VALUE_CHANNELS = 128
# The refinement's receptive field in pixels at 1/4: three 3x3 convolutions at 1/2, upsampling, a 3x3 window.
REFINE_MARGIN = 4


class Lite(nn.Module):
    """The network of this module. Frames and masks are padded at the right and bottom to a multiple of 16.

    Attributes:
        novelty_threshold: the `object_novelty` above which what was found is something else. Distances between keys
            differ from network to network, so it comes with the weights; see `maskbank.training.novelty`.
    """

    novelty_threshold: Tensor  # ()

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("novelty_threshold", torch.tensor(NO_THRESHOLD))
        self.encoder = Encoder()
        self.neck = Residual(112, 192)
        self.key = nn.Conv2d(192, KEY_CHANNELS, 3, 1, 1)
        self.mask_encoder = MaskEncoder()
        self.decoder = Decoder()

    def encode(self, images: Tensor) -> LiteFeatures:
        """images: (B, 3, H, W) RGB in [0, 1]."""
        f2, f4, f8, f16 = self.encoder(pad_to_stride(images * (255 / 128) - 127 / 128))  # as it was pretrained
        f16 = self.neck(f16)
        return LiteFeatures(self.key(f16).flatten(2), f16, f8, f4, f2, images.shape[-2:])

    def value(self, features: LiteFeatures, masks: Tensor) -> Tensor:
        """What to remember of each object: masks (B, n, H, W) in [0, 1] → values (B, n, 128, h·w)."""
        values: Tensor = self.mask_encoder(features.f16, pad_to_stride(masks))
        return values

    def decode(
        self,
        features: LiteFeatures,
        readout: Tensor,
        prev_mask: Tensor,
        areas: Sequence[SearchArea] | None = None,
        decoder: Decoder | None = None,
    ) -> LiteDecoded:
        """Masks from the read-out of the bank.

        Args:
            readout: (B, n, 128, h·w).
            prev_mask: (B, n, 4h, 4w), see `to_prev_mask`.
            areas: of a single frame, where each object is looked for; the others by themselves are then decoded one by
                one, which on a CPU is as fast and takes less memory. None: everywhere, all at once.
            decoder: instead of the network's own.
        """
        decoder, readout = decoder or self.decoder, readout.unflatten(3, features.f16.shape[-2:])
        if areas is not None:
            return decoder.decode_in_areas(features, readout, prev_mask, areas)
        decoded: LiteDecoded = decoder(features, readout, prev_mask)
        return decoded


@dataclass(frozen=True)
class LiteFeatures:
    """What `Lite.encode` sees in B frames; h, w are the padded height and width over 16."""

    key: Tensor  # (B, 64, h·w)
    f16: Tensor  # (B, 192, h, w)
    f8: Tensor  # (B, 40, 2h, 2w)
    f4: Tensor  # (B, 24, 4h, 4w)
    f2: Tensor  # (B, 16, 8h, 8w)
    size: tuple[int, ...]  # height and width of the frame before padding


@dataclass(frozen=True)
class LiteDecoded:
    """What `Lite.decode` makes of n objects in each of B frames."""

    coarse: Tensor  # (B, n, 4h, 4w) logits against the background, before refinement
    logits: Tensor  # (B, n, 8h, 8w) logits against the background
    presence: Tensor  # (B, n) logit: the object is in the frame
    quality: Tensor  # (B, n) logit of the expected Jaccard index of the mask


class MaskEncoder(nn.Module):
    """The value of each object: what the frame looks like there, and whose pixel it is."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_path = nn.Sequential(
            conv_bn_relu(2, 16, 2), conv_bn_relu(16, 32, 2), conv_bn_relu(32, 48, 2), conv_bn_relu(48, 64, 2)
        )
        # The frame's part of the first convolution is the same for all objects: computed once, then added.
        self.from_frame = nn.Conv2d(192, VALUE_CHANNELS, 3, 1, 1)
        self.from_mask = nn.Conv2d(64, VALUE_CHANNELS, 3, 1, 1)
        self.fuse = nn.Sequential(
            Residual(VALUE_CHANNELS, VALUE_CHANNELS),
            nn.Conv2d(VALUE_CHANNELS, VALUE_CHANNELS, 3, 1, 1),
        )

    def forward(self, f16: Tensor, masks: Tensor) -> Tensor:
        """f16 (B, 192, h, w), masks (B, n, 16h, 16w) → values (B, n, 128, h·w)."""
        frame = self.from_frame(f16)[:, None]
        # A CPU is as fast one by one, and needs less memory.
        at_once = 1 if torch.is_inference_mode_enabled() and masks.device.type == "cpu" else masks.shape[1]
        values = []
        for some in with_others(masks).split(at_once, 1):
            path = self.from_mask(self.mask_path(some.flatten(0, 1)))
            x = path.unflatten(0, some.shape[:2]) + frame
            values.append(self.fuse(x.flatten(0, 1).relu()).flatten(2).unflatten(0, some.shape[:2]))
        return torch.cat(values, 1)


class FrameParts(NamedTuple):
    """What the decoder makes of a frame, whatever the object."""

    at16: Tensor  # (B, 160, h, w)
    at8: Tensor  # (B, 96, 2h, 2w)
    at4: Tensor  # (B, 48, 4h, 4w)


class Decoder(nn.Module):
    """From the read-out of the bank to masks, for all objects at once."""

    def __init__(self) -> None:
        super().__init__()
        self.frame16 = nn.Conv2d(192, 160, 3, 1, 1)
        self.read16 = nn.Conv2d(VALUE_CHANNELS, 160, 3, 1, 1)
        self.prev_mask16 = nn.Conv2d(2, 160, 3, 1, 1)
        self.fuse16 = Residual(160, 160)
        self.frame8 = nn.Conv2d(40, 96, 1)
        self.up16 = nn.Conv2d(160, 96, 1)
        self.fuse8 = Residual(96, 96)
        self.frame4 = nn.Conv2d(24, 48, 1)
        self.up8 = nn.Conv2d(96, 48, 1)
        self.prev_mask4 = nn.Sequential(conv_bn_relu(2, 16), nn.Conv2d(16, 48, 1))
        self.fuse4 = Residual(48, 48)
        self.coarse = nn.Conv2d(48, 1, 3, 1, 1)
        self.refinement = Refinement()
        self.quality_head = QualityHead()

    def forward(self, features: LiteFeatures, readout: Tensor, prev_mask: Tensor) -> LiteDecoded:
        """readout (B, n, 128, h, w), prev_mask (B, n, 4h, 4w) → masks, presence and quality of n objects."""
        batch, objects = readout.shape[:2]
        frame = self._frame(features)
        x16, x4, coarse = self._coarse(frame, readout.flatten(0, 1), with_others(prev_mask).flatten(0, 1))
        coarse = coarse.view(batch, objects, *coarse.shape[-2:])
        p4, u4 = (each.detach().flatten(0, 1)[:, None] for each in (aggregate(coarse), uncertainty(coarse)))
        presence, quality = self.quality_head(x16, x4, p4, u4).view(batch, objects, 2).unbind(-1)
        logits = upsample2(coarse)
        correction: Tensor = self.refinement(
            self.refinement.from_frame(features.f2).repeat_interleave(objects, 0),
            self.refinement.from_decoder(x4),
            aggregate(logits).flatten(0, 1)[:, None],
        )
        logits = logits + uncertainty(logits.detach()) * correction.view_as(logits)
        return LiteDecoded(coarse, logits, presence, quality)

    def decode_in_areas(
        self, features: LiteFeatures, readout: Tensor, prev_mask: Tensor, areas: Sequence[SearchArea]
    ) -> LiteDecoded:
        """The same for one frame, each object in its area and by itself; outside, its logits are `HIDDEN_LOGIT`.

        The refinement sees only what is in dispute.
        """
        frame, prev_masks = self._frame(features), with_others(prev_mask)[0]
        coarse = torch.full_like(prev_mask, HIDDEN_LOGIT)
        decoded = []
        for k, area in enumerate(areas):
            own = FrameParts(*(area.cut(part, cell) for part, cell in zip(frame, (1, 2, 4), strict=True)))
            x16, x4, found = self._coarse(own, area.cut(readout[:, k], 1), area.cut(prev_masks[k : k + 1], 4))
            area.cut(coarse[0, k], 4).copy_(found[0, 0])
            decoded.append((x16, x4))
        p4, u4 = aggregate(coarse), uncertainty(coarse)
        logits = upsample2(coarse)
        gate, probability = uncertainty(logits), aggregate(logits)
        fine = self.refinement.from_frame(features.f2)
        judged = []
        for k, (area, (x16, x4)) in enumerate(zip(areas, decoded, strict=True)):
            judged.append(self.quality_head(x16, x4, area.cut(p4[:, k : k + 1], 4), area.cut(u4[:, k : k + 1], 4)))
            own_gate = area.cut(gate[0, k], 8)
            if not own_gate.any():
                continue
            rows4, columns4, rows2, columns2 = disputed_window(own_gate)
            correction = self.refinement(
                area.cut(fine, 8)[..., rows2, columns2],
                self.refinement.from_decoder(x4[..., rows4, columns4]),
                area.cut(probability[:, k : k + 1], 8)[..., rows2, columns2],
            )
            area.cut(logits[0, k], 8)[rows2, columns2] += own_gate[rows2, columns2] * correction[0, 0]
        presence, quality = torch.stack(judged, 1).unbind(-1)
        return LiteDecoded(coarse, logits, presence, quality)

    def _frame(self, features: LiteFeatures) -> FrameParts:
        return FrameParts(self.frame16(features.f16), self.frame8(features.f8), self.frame4(features.f4))

    def _coarse(self, frame: FrameParts, readout: Tensor, prev_masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """m objects of B frames, m a multiple of B: features at 1/16 (m, 160, h, w) and 1/4 (m, 48, 4h, 4w), logits.

        readout: (m, 128, h, w); prev_masks: (m, 2, 4h, 4w), see `with_others`. Returns logits as (m, 1, 4h, 4w).
        """

        def per_object(shared: Tensor, own: Tensor) -> Tensor:
            """Adds what all objects of a frame share, (B, C, H, W), to what each has, (m, C, H, W)."""
            together: Tensor = own.unflatten(0, (len(shared), -1)) + shared[:, None]
            return together.flatten(0, 1)

        own16 = self.read16(readout) + self.prev_mask16(F.avg_pool2d(prev_masks, 4))
        x16 = self.fuse16(per_object(frame.at16, own16).relu())
        x8 = self.fuse8(per_object(frame.at8, upsample2(self.up16(x16))))
        x4 = self.fuse4(per_object(frame.at4, upsample2(self.up8(x8)) + self.prev_mask4(prev_masks)))
        return x16, x4, self.coarse(x4)


class Refinement(nn.Module):
    """Corrects the coarse logits at 1/2 where they are in dispute (AFB-URR, section 3.3)."""

    CHANNELS = 16
    HIDDEN = 24

    def __init__(self) -> None:
        super().__init__()
        self.from_frame = nn.Conv2d(16, self.CHANNELS, 1)
        self.from_decoder = nn.Conv2d(48, self.CHANNELS, 1)
        self.head = nn.Sequential(
            conv_bn_relu(3 * self.CHANNELS + 1, self.HIDDEN),
            conv_bn_relu(self.HIDDEN, self.HIDDEN),
            nn.Conv2d(self.HIDDEN, 1, 3, 1, 1),
        )

    def forward(self, fine: Tensor, decoded: Tensor, coarse: Tensor) -> Tensor:
        """Logits to add at 1/2.

        fine: (m, 16, H, W) of the frame at 1/2; decoded: (m, 16, H/2, W/2); coarse: (m, 1, H, W) probabilities.
        Returns (m, 1, H, W).
        """
        # What the object looks like around each pixel: over 6x6 pixels, pooled in two steps because one is slow.
        weight = F.avg_pool2d(F.avg_pool2d(coarse, 2), 3, 1, 1)
        local = F.avg_pool2d(F.avg_pool2d(fine * coarse, 2), 3, 1, 1) / (weight + 1e-3)
        around = upsample2(torch.cat([decoded, local], 1))
        correction: Tensor = self.head(torch.cat([fine, around, coarse], 1))
        return correction


class QualityHead(nn.Module):
    """Says of each mask whether the object is there and how good the mask is, from what the decoder saw.

    It watches and does not steer: no gradient flows back into the decoder.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * 160 + 2 * 48 + 3, 64), nn.ReLU(inplace=True), nn.Linear(64, 2))

    def forward(self, x16: Tensor, x4: Tensor, p4: Tensor, u4: Tensor) -> Tensor:
        """Logits of presence and quality, (m, 2), of m objects.

        x16: (m, 160, h, w); x4: (m, 48, 4h, 4w); p4, u4: (m, 1, 4h, 4w), probability and uncertainty of their pixels.
        """
        x16, x4, p4, u4 = (each.detach().float() for each in (x16, x4, p4, u4))
        p16 = F.avg_pool2d(p4, 4)

        def mean_where(x: Tensor, weight: Tensor) -> Tensor:
            return (x * weight).sum((2, 3)) / (weight.sum((2, 3)) + 1e-2)

        seen = [
            mean_where(x16, p16),
            x16.amax((2, 3)),
            mean_where(x4, p4),
            mean_where(x4, u4),
            (p4.sum((2, 3)) + 1).log() / 10,
            u4.sum((2, 3)) / (p4.sum((2, 3)) + 1),
            mean_where(p4, p4),
        ]
        judged: Tensor = self.layers(torch.cat(seen, 1))
        return judged


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first = conv_bn_relu(inputs, outputs)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = (
            nn.Identity()
            if inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(m, inputs, H, W) → (m, outputs, H, W)."""
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


def conv_bn_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution, batch norm and ReLU: (m, inputs, H, W) → (m, outputs, H / stride, W / stride)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def similarity(keys: Tensor, query: Tensor) -> Tensor:
    """Negative squared distance up to a term per query: (B, C, N), (B, C, M) → (B, M, N) (STCN, eq. 4)."""
    scale = 1 / math.sqrt(keys.shape[1])
    # As one product, where squares have a row of their own: (M, N) is so large that each pass over it counts.
    keys = torch.cat([keys, keys.pow(2).sum(1, keepdim=True)], 1)
    query = torch.cat([2 * scale * query, query.new_full((len(query), 1, query.shape[2]), -scale)], 1)
    return query.transpose(1, 2) @ keys


def with_others(masks: Tensor) -> Tensor:
    """Each object's mask beside that of all others together: (B, n, H, W) → (B, n, 2, H, W)."""
    return torch.stack([masks, masks.sum(1, keepdim=True) - masks], 2)


def to_prev_mask(probabilities: Tensor) -> Tensor:
    """What the decoder is told of the frame before: (..., H, W) probabilities → (..., 4h, 4w), at 1/4."""
    return F.avg_pool2d(pad_to_stride(probabilities), 4)


def pad_to_stride(x: Tensor) -> Tensor:
    """Zeros at the right and bottom up to a multiple of the stride, at least two: (..., H, W) → (..., 16h, 16w).

    For features of a single column, other confidences at each call, and NaN among them, were reported from a CPU with
    bfloat16. On another such CPU it could not be made to happen, so the operation is not known; two columns avoid it.
    """
    padding = [max(-side % STRIDE, 2 * STRIDE - side) for side in x.shape[-2:]]
    return F.pad(x, (0, padding[1], 0, padding[0]))


def full_size(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """Logits at 1/2, (B, n, 8h, 8w), to the frame's own size (height, width), the padding cut off."""
    return upsample2(logits)[..., : size[0], : size[1]]


def upsample2(x: Tensor) -> Tensor:
    """(m, C, H, W) → (m, C, 2H, 2W), bilinear."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def disputed_window(gate: Tensor) -> tuple[slice, slice, slice, slice]:
    """The rows and columns around all of gate > 0 that the refinement must see: at 1/4, then the same at 1/2.

    gate: (H, W) at 1/2, some of it > 0. Outside, the gate is 0; the margin makes the crop equal to the whole.
    """
    windows = []
    for axis in (1, 0):
        inside = gate.amax(axis).nonzero()
        length = gate.shape[1 - axis] // 2
        start = max(int(inside[0]) // 2 - REFINE_MARGIN, 0)
        stop = min(int(inside[-1]) // 2 + 1 + REFINE_MARGIN, length)
        windows.append(slice(start, stop))
    rows, columns = windows
    return rows, columns, slice(rows.start * 2, rows.stop * 2), slice(columns.start * 2, columns.stop * 2)
