"""3x3 convolutions with a quarter of the multiplications: Winograd's F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308).

A tile of four by four outputs comes from six by six inputs: these are transformed, multiplied by transformed kernels,
which is one matrix product for each of 36 places, and transformed back. Equal to a convolution up to rounding, some
1e-5 of its values.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OUTPUT, INPUT = 4, 6  # pixels of a tile's side, of its outputs and of the inputs that these need
ALL = slice(None)
TILES_AT_ONCE = 800  # in a matrix product; twice or half as many take as long
# The paper's matrices, of one dimension.
FROM_INPUT = torch.tensor(
    [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
FROM_KERNEL = torch.tensor([[6.0, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]).double() / 24
TO_OUTPUT = torch.tensor([[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


class WinogradConv2d(nn.Module):
    """What a 3x3 convolution with a stride and a padding of 1 computes, for inference in float32 on a CPU.

    From 256 channels to 256 it takes 0.6 times as long, from 1024 to 512 less than half; from 160 or fewer it would
    take longer. Its kernels take four times the memory.
    """

    kernel: Tensor  # (36, inputs, outputs)
    bias: Tensor  # (outputs,)
    from_input: Tensor  # (36, 36)
    to_output: Tensor  # (16, 36)

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        kernel = torch.einsum("ij,ocjl,kl->ikco", FROM_KERNEL, convolution.weight.detach().double(), FROM_KERNEL)
        bias = torch.zeros(convolution.out_channels) if convolution.bias is None else convolution.bias.detach()
        self.register_buffer("kernel", kernel.flatten(0, 1).float().contiguous())
        self.register_buffer("bias", bias)
        self.register_buffer("from_input", torch.kron(FROM_INPUT, FROM_INPUT))
        self.register_buffer("to_output", torch.kron(TO_OUTPUT, TO_OUTPUT))

    def forward(self, x: Tensor, channels: slice = ALL, add_bias: bool = True) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, H, W), in channels-last memory format.

        channels: which of its inputs these are, the others being 0.
        """
        kernel, bias = self.kernel[:, channels], self.bias if add_bias else torch.zeros_like(self.bias)
        height, width = x.shape[-2:]
        down, across = -(-height // OUTPUT), -(-width // OUTPUT)
        x = F.pad(x, (1, across * OUTPUT - width + 1, 1, down * OUTPUT - height + 1)).permute(0, 2, 3, 1).contiguous()
        out = x.new_empty(len(x), down * OUTPUT, across * OUTPUT, len(self.bias))
        rows_at_once = max(TILES_AT_ONCE // across, 1)
        for image, result in zip(x, out, strict=True):
            for row in range(0, down, rows_at_once):
                rows = min(rows_at_once, down - row)
                place = result[row * OUTPUT : (row + rows) * OUTPUT]
                self._rows(image[row * OUTPUT :], place, kernel, bias, rows, across)
        return out[:, :height, :width].permute(0, 3, 1, 2)

    def _rows(self, image: Tensor, result: Tensor, kernel: Tensor, bias: Tensor, rows: int, across: int) -> None:
        """Rows of tiles: from (4 rows + 2 or more, 4 across + 2, inputs) into (4 rows, 4 across, outputs).

        They are transformed row by row, which then stay in the CPU's cache.
        """
        inputs, outputs = image.shape[2], result.shape[2]
        by_row, by_column, by_channel = image.stride()
        shape, strides = (INPUT, INPUT, across, inputs), (by_row, by_column, OUTPUT * by_column, by_channel)
        transformed = image.new_empty(INPUT**2, rows, across * inputs)
        for row in range(rows):
            tiles = image[row * OUTPUT :].as_strided(shape, strides)
            torch.mm(self.from_input, tiles.reshape(INPUT**2, -1), out=transformed[:, row])
        products = torch.bmm(transformed.view(INPUT**2, rows * across, inputs), kernel)
        products = products.view(INPUT**2, rows, across * outputs)
        for row in range(rows):
            found = (self.to_output @ products[:, row]).view(OUTPUT, OUTPUT, across, outputs).transpose(1, 2)
            place = result[row * OUTPUT : (row + 1) * OUTPUT].view(OUTPUT, across, OUTPUT, outputs)
            torch.add(found, bias, out=place)
