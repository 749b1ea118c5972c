"""The VGG-like network that is MTG-Jamendo's baseline, and the paper's wider variant of it."""

from typing import cast

from torch import Tensor

from fastmte.models._registry import Backbone, register
from fastmte.models.layers import BatchNorm2d, Conv2d, SharedInputNorm
from fastmte.models.stages import ConvStage, Pool

# channels of one member, max-pool over (bands, frames), of each block
Blocks = tuple[tuple[int, tuple[int, int] | None], ...]
BLOCKS: Blocks = ((64, (2, 4)), (128, (2, 4)), (128, (2, 4)), (128, (3, 5)), (64, (4, 4)))
CUSTOM_BLOCKS: Blocks = (
    *((64, (2, 4)), (128, (2, 4)), (128, (2, 4)), (256, (3, 5)), (512, (4, 4))),
    (512, None),
)


class VGG(Backbone):
    """Blocks of 3x3 convolution, batch norm, ELU and max-pool down to 1 x 1.

    The modules have the names of MTG's own network, so its weights load as they
    are. Fewer than 1280 frames leave nothing of the last pooling, 2560 leave two.

    Args:
        members: number of members.
        blocks: channels and max-pool of each block.

    Reference: Bogdanov et al. 2019, "The MTG-Jamendo dataset"; MTG/mtg-jamendo-dataset,
    scripts/baseline/model.py; dbis-uibk/MediaEval2021, ``vggish.py`` and ``custom_vggish.py``.
    """

    min_frames, max_frames = 1280, 2559
    dropout = 0.5

    def __init__(self, members: int, blocks: Blocks) -> None:
        super().__init__(members)
        self.n_features = blocks[-1][0]
        self.pools = [pool for _, pool in blocks]
        self.bn_init = SharedInputNorm(members)
        self.conv_1 = Conv2d(members, 1, blocks[0][0], 3, shared_input=True)
        inputs = blocks[0][0]
        for i, (outputs, _) in enumerate(blocks, start=1):
            if i > 1:
                self.add_module(f"conv_{i}", Conv2d(members, inputs, outputs, 3))
            self.add_module(f"bn_{i}", BatchNorm2d(members, outputs))
            inputs = outputs

    def stages(self) -> tuple[ConvStage, ...]:
        """Return the blocks."""
        return tuple(
            ConvStage(
                cast(Conv2d, self.get_submodule(f"conv_{i}")),
                cast(BatchNorm2d, self.get_submodule(f"bn_{i}")),
                "elu",
                None if pool is None else Pool(pool),
                self.bn_init if i == 1 else None,
            )
            for i, pool in enumerate(self.pools, start=1)
        )

    def summary(self, x: Tensor) -> Tensor:
        """Return (B, K, D) of the last map, one point large."""
        return x.reshape(len(x), self.members, self.n_features)


@register
def vgg(members: int) -> VGG:
    """Build MTG-Jamendo's baseline."""
    network = VGG(members, BLOCKS)
    network.origin = "MTG-Jamendo's baseline; the paper's VGG"
    return network


@register
def custom_vgg(members: int) -> VGG:
    """Build the wider VGG of the paper's code, which no submitted run uses."""
    network = VGG(members, CUSTOM_BLOCKS)
    network.origin = "the paper's code, CustomCNN"
    network.batch_size = 32
    return network
