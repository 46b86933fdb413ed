"""The network of AFB-URR: matching against feature banks, then refinement where the result is uncertain.

Liang, Li, Jafari, Chen, "Video Object Segmentation with Adaptive Feature Bank and Uncertain-Region
Refinement", NeurIPS 2020 (arXiv 2010.07958), section 3. Module names are those of the released checkpoints
(562 tensors), so that these load as they are. Notation: K classes, class 0 the background; H, W the image;
h, w = padded H, W / 16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskbank.bank.feature_bank import FeatureBank
from maskbank.bank.readout import read
from maskbank.networks.winograd import WinogradConv2d

# The authors' values.
KEY_CHANNELS = 128
VALUE_CHANNELS = 512
STRIDE = 16  # pixels of the image per feature, in both directions
USED_ABOVE = 1e-3  # an entry counts as used by a query that gives it more weight than this
LOCAL_WINDOW = 7  # pixels at 1/2 resolution: the neighbourhood of the local refinement
EPSILON = 1e-8  # keeps the refinement's quotients finite
SCORE_MARGIN = 1e-7  # class scores stay this far from 0 and 1, so that logits stay finite

CLASSES_AT_ONCE = 4  # classes per batch: bounds the peak memory, about 0.2 GB per class at 480p


@dataclass(frozen=True, eq=False)
class Features:
    """What the network keeps of one image; all later calls about that image use it.

    Attributes:
        key: query keys, (128, h·w).
        value: query values, (1, 512, h, w).
        skip3, skip2: what the refinement modules take from the image, (1, 256, 2h, 2w) and (1, 256, 4h, 4w).
        r1: fine features for the local refinement, (1, 64, 8h, 8w).
        image: the padded image, (1, 3, 16h, 16w), RGB in [0, 1].
        padding: padded pixels (left, right, top, bottom).
    """

    key: Tensor
    value: Tensor
    skip3: Tensor
    skip2: Tensor
    r1: Tensor
    image: Tensor
    padding: tuple[int, int, int, int]


class AfbUrr(nn.Module):
    """AFB-URR with a ResNet-50 backbone: a pure function of tensors, for inference.

    `encode` looks at an image once; `memorize` turns class masks of that image into bank entries, and
    `segment` reads banks to find the classes in it. Keys depend on the class, so there is one bank per class.

    Attributes:
        precision: of convolutions, float32 or bfloat16. Similarities, weights of the read-out and scores are float32
            in any case: `SCORE_MARGIN` below 1 is 1 in bfloat16, and its logit infinite.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder_m = MemoryEncoder()
        self.encoder_q = QueryEncoder()
        self.keyval_r4 = KeyValue()
        self.decoder = Decoder()
        self.precision = torch.float32
        self.eval()  # batch-norm uses the checkpoint's statistics, never those of one image

    def encode(self, image: Tensor) -> Features:
        """Look at an image, (1, 3, H, W) RGB in [0, 1] of any size.

        Raises:
            ValueError: the image has another shape.
        """
        if image.ndim != 4 or image.shape[:2] != (1, 3):
            raise ValueError(f"An image must have shape (1, 3, H, W), not {tuple(image.shape)}.")
        padding = padding_for(*image.shape[-2:])
        image = F.pad(image, padding)
        with self._convolutions():
            r4, r3, r2, r1 = self.encoder_q(image)
            key, value = self.keyval_r4(r4)
            skip3, skip2 = self.decoder.RF3.skip(r3), self.decoder.RF2.skip(r2)
        return Features(
            key=key[0].flatten(1).float(),
            value=value,
            skip3=skip3,
            skip2=skip2,
            r1=r1,
            image=image,
            padding=padding,
        )

    def memorize(self, features: Features, masks: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Encode the classes of an image for their banks.

        Args:
            features: the image, from `encode`.
            masks: (K, H, W) class probabilities in [0, 1], the background first.

        Returns:
            One pair per class: keys (128, h·w) and values (1, 512, h·w).

        Raises:
            ValueError: the masks do not have the image's size.
        """
        left, right, top, bottom = features.padding
        height, width = features.image.shape[-2:]
        if masks.ndim != 3 or masks.shape[1:] != (height - top - bottom, width - left - right):
            raise ValueError(
                f"Masks must have shape (K, {height - top - bottom}, {width - left - right}), not {tuple(masks.shape)}."
            )
        # In the padding a pixel is of no class, not even background: zeros, like the authors.
        padded = F.pad(masks, features.padding).unsqueeze(1)  # (K, 1, 16h, 16w)
        pairs = []
        for some in padded.split(CLASSES_AT_ONCE):
            with self._convolutions():
                keys, values = self.keyval_r4(self.encoder_m(features.image, some))
            pairs += [(k, v[None]) for k, v in zip(keys.float().flatten(2), values.float().flatten(2), strict=True)]
        return pairs

    def segment(self, features: Features, banks: Sequence[FeatureBank]) -> tuple[Tensor, list[Tensor]]:
        """Find the classes in an image.

        Args:
            features: the image, from `encode`.
            banks: one per class, the background first.

        Returns:
            Logits (K, H, W), whose softmax over the classes are the class probabilities; and per class the
            increments (N,) of its entries' usage counters, in the order of the bank's parts: log(1 + number of queries
            that give the entry a weight above 1e-3).

        Raises:
            ValueError: fewer than two classes, or a bank without an entry to read.
        """
        if len(banks) < 2:
            raise ValueError("Segmenting takes the background's bank and at least one more.")
        height, width = (side // STRIDE for side in features.image.shape[-2:])
        readouts, usage = [], []
        for bank in banks:
            readout = read(bank, features.key[None], similarity, count_queries)
            readouts.append(readout.values[0].unflatten(1, (height, width)))
            usage.append(torch.log1p(readout.usage))
        with self._convolutions():
            scores = self.decoder(torch.stack(readouts), features)
        scores = scores.clamp(SCORE_MARGIN, 1 - SCORE_MARGIN)
        logits = torch.log(scores / (1 - scores))
        left, right, top, bottom = features.padding
        return logits[:, top : logits.shape[1] - bottom, left : logits.shape[2] - right], usage

    def _convolutions(self) -> torch.autocast:
        device = self.encoder_q.mean.device
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16)


def padding_for(height: int, width: int) -> tuple[int, int, int, int]:
    """The pixels (left, right, top, bottom) that make both sides multiples of 16, the smaller half first."""
    across, down = -width % STRIDE, -height % STRIDE
    return across // 2, across - across // 2, down // 2, down - down // 2


def similarity(keys: Tensor, query: Tensor) -> Tensor:
    """Scaled dot products: (1, C, N), (1, C, M) → (1, M, N) (the paper's section 3.2)."""
    return query.transpose(1, 2) @ keys / math.sqrt(KEY_CHANNELS)


def count_queries(weights: Tensor) -> Tensor:
    """How many of M queries use each of N entries: (M, N) → (N,)."""
    return (weights > USED_ABOVE).sum(0)


class Bottleneck(nn.Module):
    """ResNet-50's block: 1×1, 3×3, 1×1 convolutions around a shortcut (He et al., arXiv 1512.03385)."""

    def __init__(self, channels_in: int, channels: int, stride: int, downsample: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample: nn.Module = nn.Identity()
        if downsample:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, 4 * channels, 1, stride, bias=False), nn.BatchNorm2d(4 * channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(m, channels_in, H, W) → (m, 4 · channels, H / stride, W / stride)."""
        y: Tensor = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y)).relu_()
        y = self.bn3(self.conv3(y)).add_(self.downsample(x)).relu_()
        return y


def stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    """One ResNet stage; its first block changes resolution and channel count."""
    first = Bottleneck(channels_in, channels, stride, downsample=True)
    rest = [Bottleneck(4 * channels, channels, 1, downsample=False) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


class Backbone(nn.Module):
    """ResNet-50 up to its third stage, with ImageNet's normalisation of the image."""

    mean: Tensor  # (1, 3, 1, 1), as std
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.res2 = stage(64, 64, blocks=3, stride=1)
        self.res3 = stage(256, 128, blocks=4, stride=2)
        self.res4 = stage(512, 256, blocks=6, stride=2)

    def normalise(self, image: Tensor) -> Tensor:
        """(m, 3, H, W) RGB in [0, 1] → the same with ImageNet's mean and deviation."""
        return (image - self.mean) / self.std

    def stages(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From the first convolution's output to r4, r3, r2, r1 (1/16, 1/8, 1/4, 1/2 of the image)."""
        r1 = F.relu(self.bn1(x))
        r2 = self.res2(F.max_pool2d(r1, 3, stride=2, padding=1))
        r3 = self.res3(r2)
        return self.res4(r3), r3, r2, r1


class QueryEncoder(Backbone):
    """Encodes an image to be segmented."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Image (1, 3, 16h, 16w) to r4, r3, r2, r1, see `stages`."""
        return self.stages(self.conv1(self.normalise(image)))


class MemoryEncoder(Backbone):
    """Encodes an image together with the masks of its classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1_m = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        self.conv1_o = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)

    def forward(self, image: Tensor, masks: Tensor) -> Tensor:
        """Image (1, 3, 16h, 16w) and masks (K, 1, 16h, 16w) to r4 (K, 1024, h, w)."""
        seen = self.conv1(self.normalise(image))  # the same for all classes
        return self.stages(seen + self.conv1_m(masks) + self.conv1_o(1 - masks))[0]


class KeyValue(nn.Module):
    """Keys for matching and values to be read, from the encoders' r4."""

    def __init__(self) -> None:
        super().__init__()
        self.Key = nn.Conv2d(1024, KEY_CHANNELS, 3, padding=1)
        self.Value = nn.Conv2d(1024, VALUE_CHANNELS, 3, padding=1)

    def forward(self, r4: Tensor) -> tuple[Tensor, Tensor]:
        """r4 (m, 1024, h, w) to keys (m, 128, h, w) and values (m, 512, h, w)."""
        return self.Key(r4), self.Value(r4)


class ResBlock(nn.Module):
    """Two 3×3 convolutions, activated before each, around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(m, C, H, W) → (m, C, H, W)."""
        y: Tensor = self.conv2(self.conv1(F.relu(x)).relu_())
        return y.add_(x)


class Refine(nn.Module):
    """Joins a coarse class-wise map with features of the image at twice its resolution."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.convFS = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.ResFS = ResBlock(channels)
        self.ResMM = ResBlock(channels)

    def skip(self, image_features: Tensor) -> Tensor:
        """The image's share, which does not depend on the class."""
        features: Tensor = self.ResFS(self.convFS(image_features))
        return features

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        """skip (1, C, 2H, 2W) of the image and coarse (k, C, H, W) of k classes → (k, C, 2H, 2W)."""
        refined: Tensor = self.ResMM(skip + upsample(coarse))
        return refined


class Decoder(nn.Module):
    """From matched values to class scores, with the uncertain-region refinement (the paper's section 3.3)."""

    def __init__(self) -> None:
        super().__init__()
        self.convFM: nn.Conv2d | WinogradConv2d = nn.Conv2d(2 * VALUE_CHANNELS, 256, 3, padding=1)
        self.ResMM = ResBlock(256)
        self.RF3 = Refine(512, 256)
        self.RF2 = Refine(256, 256)
        self.pred2 = nn.Conv2d(256, 2, 3, padding=1)
        self.local_convFM = nn.Conv2d(128, 32, 3, padding=1)
        self.local_ResMM = ResBlock(32)
        self.local_pred2 = nn.Conv2d(32, 2, 3, padding=1)

    def forward(self, readouts: Tensor, features: Features) -> Tensor:
        """Read-outs (K, 512, h, w) to class scores (K, 16h, 16w) in [0, 1], of each class by itself."""
        logits = torch.cat([self.decode(some, features) for some in readouts.split(CLASSES_AT_ONCE)])
        coarse = logits.softmax(dim=1)[:, 1:].softmax(dim=0)  # (K, 1, 8h, 8w)
        first, second = coarse.topk(2, dim=0).values
        uncertainty = torch.exp(1 - first / (second + EPSILON))  # (1, 8h, 8w), 1 at a tie
        local = torch.cat([self.refine(some, features.r1) for some in coarse.split(CLASSES_AT_ONCE)])
        return upsample(logits + uncertainty * local).softmax(dim=1)[:, 1]

    def decode(self, readouts: Tensor, features: Features) -> Tensor:
        """Read-outs (k, 512, h, w) to coarse logits (k, 2, 8h, 8w): not the class, the class."""
        p = self.ResMM(convolve_joined(self.convFM, readouts, features.value))
        p = self.RF3(features.skip3, p)
        p = self.RF2(features.skip2, p)
        return upsample(self.pred2(F.relu(p)).float())

    def refine(self, coarse: Tensor, r1: Tensor) -> Tensor:
        """Coarse masks (k, 1, 8h, 8w) to corrections (k, 2, 8h, 8w) from what the class looks like nearby."""
        weighted = local_mean(coarse * r1).div_(local_mean(coarse) + EPSILON)  # (k, 64, 8h, 8w)
        q: Tensor = convolve_joined(self.local_convFM, r1, weighted)
        q = self.local_pred2(F.relu(self.local_ResMM(q)))
        near: Tensor = F.max_pool2d(coarse, LOCAL_WINDOW, stride=1, padding=LOCAL_WINDOW // 2)
        return q * near


def upsample(x: Tensor) -> Tensor:
    """Twice the resolution."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def convolve_joined(convolution: nn.Conv2d | WinogradConv2d, first: Tensor, second: Tensor) -> Tensor:
    """A 3×3 convolution of both, joined along their channels, without joining them.

    One of them may be the same for all k classes, (1, C, H, W) beside (k, C, H, W); its share is computed once.
    """
    if isinstance(convolution, WinogradConv2d):
        joint = first.shape[1]
        joined: Tensor = convolution(first, slice(joint)) + convolution(second, slice(joint, None), add_bias=False)
        return joined
    weights = convolution.weight.split([first.shape[1], second.shape[1]], 1)
    return F.conv2d(first, weights[0], convolution.bias, padding=1) + F.conv2d(second, weights[1], padding=1)


def local_mean(x: Tensor) -> Tensor:
    """The mean over the neighbourhood, where what lies outside the image counts as zero: of rows, then of columns."""
    half = LOCAL_WINDOW // 2
    of_rows = F.avg_pool2d(x, (1, LOCAL_WINDOW), stride=1, padding=(0, half))
    return F.avg_pool2d(of_rows, (LOCAL_WINDOW, 1), stride=1, padding=(half, 0))
