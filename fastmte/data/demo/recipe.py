"""Training settings with which the demo is learnt in a few minutes on two cores."""

from typing import Any

DEMO_RECIPE: dict[str, Any] = {
    # 128 frames are 2.7 s, three to eight beats: enough to hear tempo, drums and instrument,
    # at a tenth of the work of the paper's 1366 frames.
    "frames": 128,
    # Each epoch sees other crops of the 6-8 s songs: a few hundred songs are then enough.
    "crop": "random",
    "epochs": 9,
    # 13 steps an epoch from 200 songs; with the paper's 64 there would be 4.
    "batch_size": 16,
    # The paper's 1e-4 needs its 100 epochs.
    "learning_rate": 5e-4,
    "plateau_patience": 1,
}
