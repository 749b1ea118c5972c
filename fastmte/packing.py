"""The order in which bfloat16 convolutions read their weights."""

from torch import Tensor

SIDE = 32  # inputs, and outputs, of a block
_HALF = 16


def packed(weight: Tensor) -> Tensor:
    """Return weights as ``ops.conv_pool_act`` takes them.

    Outputs go in blocks of 32; of each block and point of the kernel, inputs in steps of 32,
    which are two tiles of 16 outputs. In a tile pairs of inputs lie side by side, as the
    matrix units of CPUs read them.

    Args:
        weight: (O, I, h, w), O and I multiples of 32.

    Returns:
        (O / 32, h, w, I / 32, 2, 16, 16, 2) contiguous: block, point, step, tile, pair of
        inputs, output, input of the pair.

    Raises:
        ValueError: O or I is not a multiple of 32.
    """
    outputs, inputs, height, width = weight.shape
    if outputs % SIDE or inputs % SIDE or not outputs or not inputs:
        raise ValueError(f"outputs and inputs must be multiples of {SIDE}, got {outputs}, {inputs}")
    parts = weight.view(
        outputs // SIDE, 2, _HALF, inputs // SIDE, _HALF, 2, height, width
    )  # block, tile, output, step, pair, input, point
    return parts.permute(0, 6, 7, 3, 1, 4, 2, 5).contiguous()


def unpacked(weight: Tensor) -> Tensor:
    """Return (O, I, h, w), the inverse of ``packed``."""
    blocks, height, width, steps = weight.shape[:4]
    parts = weight.permute(0, 4, 6, 3, 5, 7, 1, 2)
    return parts.reshape(blocks * SIDE, steps * SIDE, height, width)
