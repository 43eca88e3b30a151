"""torchvision's alexnet: one tower, after arXiv 1404.5997.

Source: torchvision/models/alexnet.py, its documentation page, and references/classification.
torchvision draws weights and biases from +-1/sqrt(fan in); here they are He's weights and zeros.
"""

from minigrad.models.records import Conv, Dense, Dropout, Pool, Preprocessing, Preset, Recipe, ReLU

TORCHVISION = Preset(
    source="torchvision alexnet, after arXiv 1404.5997; "
    "published 56.52 / 79.07 % accuracy, centre crop",
    layers={
        "conv1": Conv(64, 11, stride=4, padding=2),
        "relu1": ReLU(),
        "pool1": Pool(3, stride=2),
        "conv2": Conv(192, 5, padding=2),
        "relu2": ReLU(),
        "pool2": Pool(3, stride=2),
        "conv3": Conv(384, 3, padding=1),
        "relu3": ReLU(),
        "conv4": Conv(256, 3, padding=1),  # 384 in the paper's footnote
        "relu4": ReLU(),
        "conv5": Conv(256, 3, padding=1),
        "relu5": ReLU(),
        "pool5": Pool(3, stride=2),
        "drop6": Dropout(0.5, inverted=True),  # before the dense layers, not after
        "fc6": Dense(4096),
        "relu6": ReLU(),
        "drop7": Dropout(0.5, inverted=True),
        "fc7": Dense(4096),
        "relu7": ReLU(),
        "fc8": Dense(),
    },
    preprocessing=Preprocessing(size=224, mean="channel", unit_std=True),
    recipe=Recipe(
        batch_size=256,
        epochs=90,
        lr=0.01,
        lr_drops=(30, 60),
        momentum=0.9,
        weight_decay=1e-4,
        form="torch",
    ),
)
