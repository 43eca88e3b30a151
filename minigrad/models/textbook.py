"""The single tower of most lecture notes: the paper's network without its groups.

No source prescribes a recipe; the paper's is used here.
"""

from minigrad.models.records import (
    LRN,
    Conv,
    Dense,
    Dropout,
    Pool,
    Preprocessing,
    Preset,
    Recipe,
    ReLU,
)

TEXTBOOK = Preset(
    source="the single-tower network of most lecture notes: the paper's without groups",
    sources={
        "conv*.groups": "lecture notes draw one tower",
        "*": "as the preset paper",
    },
    layers={
        "conv1": Conv(96, 11, stride=4, std=0.01, bias=0.0),
        "relu1": ReLU(),
        "norm1": LRN(n=5, k=2.0, alpha=1e-4, beta=0.75),
        "pool1": Pool(3, stride=2),
        "conv2": Conv(256, 5, padding=2, std=0.01, bias=1.0),
        "relu2": ReLU(),
        "norm2": LRN(n=5, k=2.0, alpha=1e-4, beta=0.75),
        "pool2": Pool(3, stride=2),
        "conv3": Conv(384, 3, padding=1, std=0.01, bias=0.0),
        "relu3": ReLU(),
        "conv4": Conv(384, 3, padding=1, std=0.01, bias=1.0),
        "relu4": ReLU(),
        "conv5": Conv(256, 3, padding=1, std=0.01, bias=1.0),
        "relu5": ReLU(),
        "pool5": Pool(3, stride=2),
        "fc6": Dense(4096, std=0.01, bias=1.0),
        "relu6": ReLU(),
        "drop6": Dropout(0.5),
        "fc7": Dense(4096, std=0.01, bias=1.0),
        "relu7": ReLU(),
        "drop7": Dropout(0.5),
        "fc8": Dense(std=0.01, bias=0.0),
    },
    preprocessing=Preprocessing(size=227, mean="pixel", colour_noise=0.1),
    recipe=Recipe(
        batch_size=128, epochs=90, lr=0.01, lr_drops=None, momentum=0.9, weight_decay=0.0005
    ),
)
