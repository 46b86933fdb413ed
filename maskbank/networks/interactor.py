"""The network of the interactor: a box or clicks become the mask of an object.

One pass over a crop around the object: EfficientNet-Lite0 down to stride 32 sees the image and, as further inputs of
its first convolution, the prompts (Sofiiuk et al. 2021, RITM, arXiv 2102.06583); a decoder with shortcuts brings the
result back to half of the crop's resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskbank.networks.efficientnet_lite import Encoder, InvertedResidual, same_padding
from maskbank.networks.lite import Residual, upsample2

CROP_SIZE = 256  # pixels of the square crop that training sees; use may show it larger ones
PROMPTS = 4  # channels: box, clicks on the object, clicks beside it, the mask before


class Interactor(nn.Module):
    """Crops and prompts to masks; the side of a crop is a multiple of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts = nn.Conv2d(PROMPTS, 32, 3, 2)
        self.encoder = Encoder()
        self.to32 = nn.Sequential(
            InvertedResidual(112, 192, 6, 5, 2), *(InvertedResidual(192, 192, 6, 5, 1) for _ in range(3))
        )
        self.context = Residual(192, 128)
        self.whole = nn.Linear(192, 128)  # what the crop shows as a whole
        self.frame16, self.fuse16 = nn.Conv2d(112, 128, 1), Residual(128, 128)
        self.up16 = nn.Conv2d(128, 80, 1)
        self.frame8, self.fuse8 = nn.Conv2d(40, 80, 1), Residual(80, 80)
        self.up8 = nn.Conv2d(80, 48, 1)
        self.frame4, self.fuse4 = nn.Conv2d(24, 48, 1), Residual(48, 48)
        self.up4 = nn.Conv2d(48, 24, 1)
        self.frame2, self.fuse2 = nn.Conv2d(16, 24, 1), Residual(24, 24)
        self.mask = nn.Conv2d(24, 1, 3, 1, 1)
        self.quality = nn.Sequential(nn.Linear(128 + 48 + 2, 32), nn.ReLU(inplace=True), nn.Linear(32, 1))

    def forward(self, images: Tensor, prompts: Tensor) -> Interaction:
        """images (B, 3, S, S) RGB in [0, 1], prompts (B, 4, S, S) in [0, 1] → masks and their quality."""
        stem = self.prompts(same_padding(prompts, 3))
        f2, f4, f8, f16 = self.encoder(images * (255 / 128) - 127 / 128, stem)  # scaled as it was pretrained
        f32 = self.to32(f16)
        x32 = self.context(f32) + self.whole(f32.mean((2, 3)))[:, :, None, None]
        x16 = self.fuse16(self.frame16(f16) + upsample2(x32))
        x8 = self.fuse8(self.frame8(f8) + upsample2(self.up16(x16)))
        x4 = self.fuse4(self.frame4(f4) + upsample2(self.up8(x8)))
        x2 = self.fuse2(self.frame2(f2) + upsample2(self.up4(x4)))
        logits = self.mask(x2)[:, 0]
        return Interaction(logits, self._quality(x16, x4, logits))

    def _quality(self, x16: Tensor, x4: Tensor, logits: Tensor) -> Tensor:
        """It watches and does not steer: no gradient flows back into the decoder."""
        x16, x4, p2 = x16.detach().float(), x4.detach().float(), logits.detach().float().sigmoid()[:, None]
        p16 = F.avg_pool2d(p2, 8)

        def mean_where(x: Tensor, weight: Tensor) -> Tensor:
            return (x * weight).sum((2, 3)) / (weight.sum((2, 3)) + 1e-2)

        doubt = 4 * p2 * (1 - p2)
        seen = [mean_where(x16, p16), mean_where(x4, F.avg_pool2d(doubt, 2)), mean_where(p2, p2)]
        seen.append(doubt.sum((2, 3)) / (p2.sum((2, 3)) + 1))
        with torch.autocast(logits.device.type, enabled=False):
            quality: Tensor = self.quality(torch.cat(seen, 1))[:, 0]
        return quality


@dataclass(frozen=True)
class Interaction:
    """What `Interactor` makes of B crops."""

    logits: Tensor  # (B, S/2, S/2)
    quality: Tensor  # (B,) logit of the expected Jaccard index
