"""The convolutional recurrent network of the paper's authors in 2019 and 2020."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor

from fastmte.models._registry import Backbone, register
from fastmte.models.layers import BatchNorm2d, Conv2d, Dropout
from fastmte.models.recurrent import GRU
from fastmte.models.stages import ConvStage, Pool

BLOCKS = ((64, 2), (128, 3), (128, 4), (128, 4))  # channels of one member, side of the max-pool
WIDTH = 1440  # frames the crop is padded to, which the poolings make 15


class CRNN(Backbone):
    """Four blocks of 3x3 convolution, batch norm, ELU, max-pool and dropout, then two GRUs.

    Crops are padded with 0 to 1440 frames, half on either side: 0 dB, which is loud.
    Fewer than 96 frames, the stride of the poolings, would be padding for the most part.
    Batch norms have Keras' defaults (eps 1e-3, momentum 0.01 in torch's sense), as have
    the first weights: Glorot uniform, no biases. Their loss of 2020, categorical
    cross-entropy, is not taken over; 2019's was binary. They trained 16 to 48 epochs.

    Reference: dbis-uibk/MediaEval2019, ``src/models/crnn.py``; dbis-uibk/MediaEval2020,
    ``src/mediaeval2020/models/crnn.py``, without attention.
    """

    origin = "the paper's authors in 2019 and 2020, CRNN"
    n_features = 32
    min_frames, max_frames = 96, WIDTH
    dropout = 0.3
    epochs = 32
    learning_rate = 1e-3

    def __init__(self, members: int) -> None:
        super().__init__(members)
        inputs = 1
        for i, (outputs, _) in enumerate(BLOCKS, start=1):
            conv = Conv2d(members, inputs, outputs, 3, shared_input=i == 1)
            conv.reset_glorot()
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", BatchNorm2d(members, outputs, eps=1e-3, momentum=0.01))
            self.add_module(f"dropout{i}", Dropout(range(members), 0.1, layer=i))
            inputs = outputs
        self.gru1 = GRU(members, inputs, self.n_features)
        self.gru2 = GRU(members, self.n_features, self.n_features)

    def features(self, x: Tensor) -> Tensor:
        """Return (B, K, 32), the second GRU's last state, of mels (B, 1, 96, F)."""
        missing = WIDTH - x.size(3)
        x = F.pad(x, (missing // 2, missing - missing // 2))
        for i, block in enumerate(self.blocks(), start=1):
            x = self.get_submodule(f"dropout{i}")(block(x))
        return self.summary(x)

    def summary(self, x: Tensor) -> Tensor:
        """Return (B, K, 32) of the last map (B, K * 128, 1, 15)."""
        sequence = x.squeeze(2).unflatten(1, (self.members, -1)).permute(1, 3, 0, 2)
        return self.gru2(self.gru1(sequence))[:, -1].transpose(0, 1)

    def blocks(self) -> tuple[ConvStage, ...]:
        """Return the convolutional blocks, each without the dropout behind it."""
        return tuple(
            ConvStage(
                cast(Conv2d, self.get_submodule(f"conv{i}")),
                cast(BatchNorm2d, self.get_submodule(f"bn{i}")),
                "elu",
                Pool((side, side)),
            )
            for i, (_, side) in enumerate(BLOCKS, start=1)
        )


@register
def crnn(members: int) -> CRNN:
    """Build the CRNN of 2019 and 2020."""
    return CRNN(members)
