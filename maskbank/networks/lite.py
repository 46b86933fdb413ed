"""The bundled network: a small feature-bank segmenter in the manner of AFB-URR, made for CPUs.

One encoder looks at every frame; its stride-16 keys serve as query and as memory (as in STCN, Cheng et al.
2021), so that memorizing costs only a light mask path. The decoder turns what the bank answers into a rough
mask at 1/4 of the resolution; where the best two classes are close it is refined at 1/2 with the local look
of the object (uncertain-region refinement, Liang et al. 2020).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 16
KEY_CHANNELS = 64
VALUE_CHANNELS = 128
# Refinement counts only where it can move a pixel; below this the gate is exactly 0 and nothing is computed.
MIN_UNCERTAINTY = 0.02
STRANGE_WITHIN = 1.0  # of `Lite.strange`, to either side: where the answer of `recognition` turns
NEVER_STRANGE = -1e4
# The refinement's receptive field in pixels at 1/4: three 3x3 convolutions at 1/2, upsampling, a 3x3 window.
REFINE_MARGIN = 4


def conv_bn_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.first = conv_bn_relu(inputs, outputs, stride)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = (
            nn.Identity()
            if inputs == outputs and stride == 1
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


@dataclass(frozen=True)
class LiteFeatures:
    """What `Lite.encode` sees in B frames; h, w are the padded height and width over 16."""

    key: Tensor  # (B, 64, h·w)
    f16: Tensor  # (B, 192, h, w)
    f8: Tensor  # (B, 40, 2h, 2w)
    f4: Tensor  # (B, 24, 4h, 4w)
    f2: Tensor  # (B, 16, 8h, 8w)
    size: tuple[int, int]  # height and width of the frame before padding


@dataclass(frozen=True)
class LiteDecoded:
    """What `Lite.decode` makes of n objects in each of B frames."""

    rough: Tensor  # (B, n, 4h, 4w) logits against the background, before refinement
    logits: Tensor  # (B, n, 8h, 8w) logits against the background
    presence: Tensor  # (B, n) logit: the object is in the frame
    quality: Tensor  # (B, n) logit of the expected Jaccard index of the mask


def upsample2(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def compete(logits: Tensor) -> Tensor:
    """Class probabilities of objects that compete for pixels with each other and the background.

    logits: (B, n, H, W), each against the background, whose own logit is 0. Returns (B, n, H, W).
    """
    return with_background(logits).softmax(1)[:, 1:]


def with_background(logits: Tensor) -> Tensor:
    """(B, n, H, W) logits against the background → (B, 1 + n, H, W) with the background's 0 in front."""
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], 1)


def uncertainty(logits: Tensor) -> Tensor:
    """How much each object's pixel is in dispute: (B, n, H, W) logits → (B, n, H, W) in [0, 1].

    exp(1 - best / second best) as in AFB-URR (eq. 7), counted for the objects that are one of the two; exactly 0
    below `MIN_UNCERTAINTY`.
    """
    scores = with_background(logits)
    top, classes = scores.topk(2, dim=1)
    u = torch.exp(1 - torch.exp((top[:, :1] - top[:, 1:]).clamp(max=10)))  # ratio of two softmax scores
    objects = torch.arange(1, scores.shape[1], device=logits.device).view(1, -1, 1, 1)
    in_dispute = (classes[:, :1] == objects) | (classes[:, 1:] == objects)
    return u * in_dispute * (u > MIN_UNCERTAINTY)


def same_padding(x: Tensor, kernel: int) -> Tensor:
    """Zeros around x for a convolution of stride 2, more at the right and bottom, as in TensorFlow (even sizes)."""
    before = (kernel - 2) // 2
    return F.pad(x, (before, kernel - 2 - before) * 2)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project (MobileNetV2, Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        hidden = inputs * expansion
        self.kernel, self.stride = kernel, stride
        self.expand = (
            nn.Sequential(nn.Conv2d(inputs, hidden, 1), nn.ReLU6(inplace=True)) if expansion > 1 else nn.Identity()
        )
        padding = kernel // 2 if stride == 1 else 0
        self.filter = nn.Sequential(
            nn.Conv2d(hidden, hidden, kernel, stride, padding, groups=hidden), nn.ReLU6(inplace=True)
        )
        self.project = nn.Conv2d(hidden, outputs, 1)
        self.shortcut = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.expand(x)
        if self.stride == 2:
            hidden = same_padding(hidden, self.kernel)
        y = self.project(self._filtered(hidden))
        return x + y if self.shortcut else y

    def _filtered(self, hidden: Tensor) -> Tensor:
        if not (hidden.requires_grad and hidden.device.type == "cpu"):
            return self.filter(hidden)
        with torch.autocast("cpu", enabled=False):  # in full precision the gradient is two to four times as fast there
            return self.filter(hidden.float())


class Encoder(nn.Module):
    """EfficientNet-Lite0 (Tan and Le 2019, in Google's variant for small devices) down to stride 16.

    Its modules come in the order of the published weights, which `maskbank.training.pretrained` relies on.
    """

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2), nn.ReLU6(inplace=True))
        self.to2 = InvertedResidual(32, 16, 1, 3, 1)
        self.to4 = nn.Sequential(InvertedResidual(16, 24, 6, 3, 2), InvertedResidual(24, 24, 6, 3, 1))
        self.to8 = nn.Sequential(InvertedResidual(24, 40, 6, 5, 2), InvertedResidual(40, 40, 6, 5, 1))
        self.to16 = nn.Sequential(
            InvertedResidual(40, 80, 6, 3, 2),
            InvertedResidual(80, 80, 6, 3, 1),
            InvertedResidual(80, 80, 6, 3, 1),
            InvertedResidual(80, 112, 6, 5, 1),
            InvertedResidual(112, 112, 6, 5, 1),
            InvertedResidual(112, 112, 6, 5, 1),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        f2 = self.to2(self.stem(same_padding(images, 3)))
        f4 = self.to4(f2)
        f8 = self.to8(f4)
        return f2, f4, f8, self.to16(f8)


class MaskEncoder(nn.Module):
    """The value of each object: what the frame looks like there, and whose pixel it is."""

    def __init__(self):
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
        batch, objects = masks.shape[:2]
        others = masks.sum(1, keepdim=True) - masks
        path = self.mask_path(torch.stack([masks, others], 2).flatten(0, 1))
        x = self.from_mask(path).unflatten(0, (batch, objects)) + self.from_frame(f16)[:, None]
        return self.fuse(x.flatten(0, 1).relu()).flatten(2).unflatten(0, (batch, objects))


class Refinement(nn.Module):
    """Corrects the rough logits at 1/2 where they are in dispute (AFB-URR, section 3.3)."""

    CHANNELS = 16
    HIDDEN = 24

    def __init__(self):
        super().__init__()
        self.from_frame = nn.Conv2d(16, self.CHANNELS, 1)
        self.from_decoder = nn.Conv2d(48, self.CHANNELS, 1)
        self.head = nn.Sequential(
            conv_bn_relu(3 * self.CHANNELS + 1, self.HIDDEN),
            conv_bn_relu(self.HIDDEN, self.HIDDEN),
            nn.Conv2d(self.HIDDEN, 1, 3, 1, 1),
        )

    def forward(self, look: Tensor, decoded: Tensor, rough: Tensor) -> Tensor:
        """Logits to add at 1/2.

        look: (m, 16, H, W) of the frame at 1/2; decoded: (m, 16, H/2, W/2); rough: (m, 1, H, W) probabilities.
        Returns (m, 1, H, W).
        """
        # How the object looks around each pixel: over 6x6 pixels, pooled in two steps because one is slow.
        weight = F.avg_pool2d(F.avg_pool2d(rough, 2), 3, 1, 1)
        local = F.avg_pool2d(F.avg_pool2d(look * rough, 2), 3, 1, 1) / (weight + 1e-3)
        around = upsample2(torch.cat([decoded, local], 1))
        return self.head(torch.cat([look, around, rough], 1))


class Judge(nn.Module):
    """Says of each mask whether the object is there and how good the mask is, from what the decoder saw.

    It watches and does not steer: no gradient flows back into the decoder.
    """

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * 160 + 2 * 48 + 3, 64), nn.ReLU(inplace=True), nn.Linear(64, 2))

    def forward(self, x16: Tensor, x4: Tensor, rough: Tensor) -> tuple[Tensor, Tensor]:
        """x16 (B·n, 160, h, w), x4 (B·n, 48, 4h, 4w), rough logits (B, n, 4h, 4w) → presence, quality (B, n)."""
        batch, objects = rough.shape[:2]
        x16, x4, rough = x16.detach().float(), x4.detach().float(), rough.detach().float()
        p4 = compete(rough).flatten(0, 1)[:, None]
        u4 = uncertainty(rough).flatten(0, 1)[:, None]
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
        presence, quality = self.layers(torch.cat(seen, 1)).view(batch, objects, 2).unbind(-1)
        return presence, quality


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.frame16 = nn.Conv2d(192, 160, 3, 1, 1)
        self.read16 = nn.Conv2d(VALUE_CHANNELS, 160, 3, 1, 1)
        self.hint16 = nn.Conv2d(2, 160, 3, 1, 1)
        self.fuse16 = Residual(160, 160)
        self.frame8 = nn.Conv2d(40, 96, 1)
        self.up16 = nn.Conv2d(160, 96, 1)
        self.fuse8 = Residual(96, 96)
        self.frame4 = nn.Conv2d(24, 48, 1)
        self.up8 = nn.Conv2d(96, 48, 1)
        self.hint4 = nn.Sequential(conv_bn_relu(2, 16), nn.Conv2d(16, 48, 1))
        self.fuse4 = Residual(48, 48)
        self.rough = nn.Conv2d(48, 1, 3, 1, 1)
        self.refinement = Refinement()
        self.judge = Judge()

    def forward(self, features: LiteFeatures, readout: Tensor, hint: Tensor) -> LiteDecoded:
        batch, objects = readout.shape[:2]

        def per_object(shared: Tensor, own: Tensor) -> Tensor:
            """Adds what all objects of a frame share, (B, C, H, W), to what each has, (B·n, C, H, W)."""
            return (own.unflatten(0, (batch, objects)) + shared[:, None]).flatten(0, 1)

        others = hint.sum(1, keepdim=True) - hint
        hints = torch.stack([hint, others], 2).flatten(0, 1)
        own16 = self.read16(readout.flatten(0, 1)) + self.hint16(F.avg_pool2d(hints, 4))
        x16 = self.fuse16(per_object(self.frame16(features.f16), own16).relu())
        x8 = self.fuse8(per_object(self.frame8(features.f8), upsample2(self.up16(x16))))
        own4 = upsample2(self.up8(x8)) + self.hint4(hints)
        x4 = self.fuse4(per_object(self.frame4(features.f4), own4))
        rough = self.rough(x4).view(batch, objects, *x4.shape[-2:])
        presence, quality = self.judge(x16, x4, rough)
        return LiteDecoded(rough, self._refine(features, x4, rough), presence, quality)

    def _refine(self, features: LiteFeatures, x4: Tensor, rough: Tensor) -> Tensor:
        batch, objects = rough.shape[:2]
        logits = upsample2(rough)
        gate = uncertainty(logits.detach())  # (B, n, 8h, 8w)
        probability = compete(logits)
        look = self.refinement.from_frame(features.f2)  # (B, 16, 8h, 8w)
        decoded = self.refinement.from_decoder(x4).unflatten(0, (batch, objects))  # (B, n, 16, 4h, 4w)
        if self.training:
            correction = self.refinement(
                look.repeat_interleave(objects, 0),
                decoded.flatten(0, 1),
                probability.flatten(0, 1)[:, None],
            )
            return logits + gate * correction.view_as(logits)
        refined = logits.clone()
        for b, o in gate.flatten(2).any(2).nonzero().tolist():
            rows4, columns4, rows2, columns2 = disputed_window(gate[b, o])
            correction = self.refinement(
                look[b : b + 1, :, rows2, columns2],
                decoded[b, o : o + 1, :, rows4, columns4],
                probability[b : b + 1, o : o + 1, rows2, columns2],
            )
            refined[b, o, rows2, columns2] += gate[b, o, rows2, columns2] * correction[0, 0]
        return refined


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


def similarity(keys: Tensor, query: Tensor) -> Tensor:
    """Negative squared distance up to a term per query: (B, C, N), (B, C, M) → (B, M, N) (STCN, eq. 4)."""
    scale = 1 / math.sqrt(keys.shape[1])
    squares = keys.pow(2).sum(1)[:, None]
    return torch.baddbmm(squares, query.transpose(1, 2), keys, beta=-scale, alpha=2 * scale)  # one pass over (M, N)


def familiarity(scores: Tensor, query: Tensor) -> Tensor:
    """How much each place looks like something remembered, whatever it was: 0 for the same key, less for others.

    The softmax of a read-out cannot tell: its weights sum to 1 even where nothing in the bank is alike.

    scores: (B, M, N) from `similarity`; query: (B, C, M). Returns (B, M), minus the squared distance to the nearest key
    over the root of C.
    """
    return scores.amax(2) - query.pow(2).sum(1) / math.sqrt(query.shape[1])


def resemblance(familiar: Tensor, rough: Tensor) -> Tensor:
    """How much a frame and what was found in it look like what is remembered: 0 for just the same, less for others.

    familiar: (B, n, h·w), see `familiarity`; rough: (B, n, 4h, 4w) logits. Returns (B, n): twice the mean familiarity
    of the frame plus that of what was found.
    """
    found = F.avg_pool2d(compete(rough), STRIDE // 4).flatten(2)
    inside = (familiar * found).sum(2) / (found.sum(2) + 1e-2)
    return 2 * familiar.mean(2) + inside


def recognition(familiar: Tensor, rough: Tensor, strange: Tensor) -> Tensor:
    """Whether what was found can be the objects at all: 0 where it and the frame around it look like nothing known.

    So it is after a cut, when the decoder still finds something. Otherwise it is 1, which says nothing.

    familiar, rough: see `resemblance`; strange: see `Lite`. Returns (B, n).
    """
    return ((resemblance(familiar, rough) - strange) / STRANGE_WITHIN).sigmoid()


class Lite(nn.Module):
    """See the module. Frames and masks are padded at the right and bottom to a multiple of 16.

    Attributes:
        strange: the `resemblance` below which what was found is something else. Distances between keys differ from
            network to network, so it comes with the weights; see `maskbank.training.strangeness`.
    """

    def __init__(self):
        super().__init__()
        self.register_buffer("strange", torch.tensor(NEVER_STRANGE))
        self.encoder = Encoder()
        self.neck = Residual(112, 192)
        self.key = nn.Conv2d(192, KEY_CHANNELS, 3, 1, 1)
        self.mask_encoder = MaskEncoder()
        self.decoder = Decoder()

    def encode(self, images: Tensor) -> LiteFeatures:
        """images: (B, 3, H, W) RGB in [0, 1]."""
        f2, f4, f8, f16 = self.encoder(pad_to_stride(images * (255 / 128) - 127 / 128))  # as it was pretrained
        f16 = self.neck(f16)
        return LiteFeatures(self.key(f16).flatten(2), f16, f8, f4, f2, tuple(images.shape[-2:]))

    def value(self, features: LiteFeatures, masks: Tensor) -> Tensor:
        """What to remember of each object: masks (B, n, H, W) in [0, 1] → values (B, n, 128, h·w)."""
        return self.mask_encoder(features.f16, pad_to_stride(masks))

    def decode(
        self, features: LiteFeatures, readout: Tensor, hint: Tensor, decoder: Decoder | None = None
    ) -> LiteDecoded:
        """Masks from what the bank answered.

        readout: (B, n, 128, h·w); hint: (B, n, 4h, 4w), see `to_hint`; decoder: to use in the place of the own one.
        """
        grid = features.f16.shape[-2:]
        return (decoder or self.decoder)(features, readout.unflatten(3, grid), hint)


def pad_to_stride(x: Tensor) -> Tensor:
    """Zeros at the right and bottom up to a multiple of the stride: (..., H, W) → (..., 16h, 16w)."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % STRIDE, 0, -height % STRIDE))


def to_hint(probabilities: Tensor) -> Tensor:
    """What the decoder is told of the frame before: (..., H, W) probabilities → (..., 4h, 4w), at 1/4."""
    return F.avg_pool2d(pad_to_stride(probabilities), 4)


def full_size(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits at 1/2, (B, n, 8h, 8w), to the frame's own size (height, width), the padding cut off."""
    return upsample2(logits)[..., : size[0], : size[1]]
