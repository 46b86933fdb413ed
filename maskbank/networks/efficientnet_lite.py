"""The encoder of `Lite`: EfficientNet-Lite0 down to stride 16."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Numbers that a block's hidden layer has at once on a CPU. In the first blocks it is six times as large as all around
# it; in strips that stay in the cache it takes half the time.
STRIP_ELEMENTS = 1 << 20


class Encoder(nn.Module):
    """EfficientNet-Lite0 (Tan and Le 2019, in Google's variant for small devices) down to stride 16.

    Its modules come in the order of the published weights, which `maskbank.training.pretrained` relies on.
    """

    def __init__(self) -> None:
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

    def forward(self, images: Tensor, prompts: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3, 16h, 16w) → features at 1/2 (16 channels), 1/4 (24), 1/8 (40) and 1/16 (112).

        prompts: (B, 32, 8h, 8w), what else the first layer is to see, added to its convolution.
        """
        convolution, activation = self.stem
        x = convolution(same_padding(images, 3))
        f2 = self.to2(activation(x if prompts is None else x + prompts))
        f4 = self.to4(f2)
        f8 = self.to8(f4)
        return f2, f4, f8, self.to16(f8)


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
        """(B, inputs, H, W) → (B, outputs, H / stride, W / stride)."""
        if self.stride == 2:
            return self._halved(x)
        y: Tensor = self.project(self._filtered(self.expand(x)))
        return x + y if self.shortcut else y

    def _halved(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        rows = height
        if torch.is_inference_mode_enabled() and x.device.type == "cpu":
            rows = max(STRIP_ELEMENTS // (x.shape[0] * self.project.in_channels * width) // 2 * 2, 2)
        before, after = same_paddings(self.kernel)
        strips = []
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            hidden = self.expand(x[:, :, max(top - before, 0) : bottom + after])
            above, below = max(before - top, 0), max(bottom + after - height, 0)
            strips.append(self.project(self._filtered(F.pad(hidden, (before, after, above, below)))))
        return strips[0] if len(strips) == 1 else torch.cat(strips, 2)

    def _filtered(self, hidden: Tensor) -> Tensor:
        filtered: Tensor
        if not (hidden.requires_grad and hidden.device.type == "cpu"):
            filtered = self.filter(hidden)
            return filtered
        with torch.autocast("cpu", enabled=False):  # in full precision the gradient is two to four times as fast there
            filtered = self.filter(hidden.float())
        return filtered


def same_padding(x: Tensor, kernel: int) -> Tensor:
    """Zeros around x for a convolution of stride 2, more at the right and bottom, as in TensorFlow (even sizes)."""
    return F.pad(x, same_paddings(kernel) * 2)


def same_paddings(kernel: int) -> tuple[int, int]:
    """How many zeros before and after; see `same_padding`."""
    before = (kernel - 2) // 2
    return before, kernel - 2 - before
