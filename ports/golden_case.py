"""What the programs that store features of the original frameworks agree on.

`ports/golden.py` has the convolutional networks of PyTorch, `ports/golden_keras.py` those of Keras,
`ports/golden_vit.py` the vision transformers, `ports/golden_pdn.py` EfficientAD's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# Height, width: not square, and odd after some of the halvings, where paddings differ most.
# Vision transformers: 5 x 7 patches.
SIZES = {
    "resnet": (72, 96),
    "vgg": (64, 80),
    "efficientnet": (72, 96),
    "dinov2": (70, 98),
    "deit": (80, 112),
    "pdn": (70, 98),
}
GAINS = {"resnet": 1.0, "vgg": 1.0, "efficientnet": 1.2, "dinov2": 1.0, "deit": 1.0, "pdn": 1.0}

Shapes = dict[str, tuple[int, ...]]
Features = Iterator[tuple[str, np.ndarray]]
"""(level, `(1, h, w, C)` float64), in order of depth."""
Case = tuple[str, str, str, Shapes, Features]
"""Naming, architecture, family, names and shapes of its arrays, features."""
