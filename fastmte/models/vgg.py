"""The VGG-like network that is MTG-Jamendo's baseline and the paper's first backbone."""

from typing import cast

from torch import Tensor

from fastmte.models._registry import Backbone, register
from fastmte.models.layers import BatchNorm2d, Conv2d, SharedInputNorm
from fastmte.models.stages import ConvStage, Pool

# channels of one member, max-pool over (bands, frames), of each block
BLOCKS = [(64, (2, 4)), (128, (2, 4)), (128, (2, 4)), (128, (3, 5)), (64, (4, 4))]


class VGG(Backbone):
    """Five blocks of 3x3 convolution, batch norm, ELU and max-pool down to 1 x 1.

    The modules have the names of MTG's own network, so its weights load as they
    are. Fewer than 1280 frames leave nothing of the last pooling, 2560 leave two.

    Reference: Bogdanov et al. 2019, "The MTG-Jamendo dataset"; MTG/mtg-jamendo-dataset,
    scripts/baseline/model.py.
    """

    origin = "MTG-Jamendo's baseline; the paper's VGG"
    n_features = BLOCKS[-1][0]
    min_frames, max_frames = 1280, 2559
    dropout = 0.5

    def __init__(self, members: int) -> None:
        super().__init__(members)
        self.bn_init = SharedInputNorm(members)
        self.conv_1 = Conv2d(members, 1, BLOCKS[0][0], 3, shared_input=True)
        inputs = BLOCKS[0][0]
        for i, (outputs, _) in enumerate(BLOCKS, start=1):
            if i > 1:
                self.add_module(f"conv_{i}", Conv2d(members, inputs, outputs, 3))
            self.add_module(f"bn_{i}", BatchNorm2d(members, outputs))
            inputs = outputs

    def stages(self) -> tuple[ConvStage, ...]:
        """Return the five blocks."""
        return tuple(
            ConvStage(
                cast(Conv2d, self.get_submodule(f"conv_{i}")),
                cast(BatchNorm2d, self.get_submodule(f"bn_{i}")),
                "elu",
                Pool(pool),
                self.bn_init if i == 1 else None,
            )
            for i, (_, pool) in enumerate(BLOCKS, start=1)
        )

    def summary(self, x: Tensor) -> Tensor:
        """Return (B, K, 64) of the last map, one point large."""
        return x.reshape(len(x), self.members, self.n_features)


@register
def vgg(members: int) -> VGG:
    """Build MTG-Jamendo's baseline."""
    return VGG(members)
