"""Training settings with which the demo is learnt in a few minutes on two cores."""

from typing import Any

DEMO_RECIPE: dict[str, Any] = {
    # 128 frames are 2.7 s, three to eight beats: enough to hear tempo, drums and instrument,
    # at a tenth of the work of the paper's 1366 frames.
    "frames": 128,
    # Each epoch sees other crops of the 6-8 s songs: a few hundred songs are then enough.
    "crop": "random",
    # Four ResNets of 0.85 GFLOP a crop, forward and three times that to train, 200 songs:
    # 2 TFLOP an epoch, some 25 s on two cores.
    "epochs": 6,
    # 13 steps an epoch from 200 songs; with the paper's 64 there would be 4.
    "batch_size": 16,
    # The paper's 1e-4 needs its 100 epochs; from 5e-4 on, the validation loss jumps up and
    # down for half of these few.
    "learning_rate": 3e-4,
    # A rate that falls on the first bad luck leaves a member behind for good.
    "plateau_patience": 2,
}
