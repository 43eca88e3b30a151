"""ZFNet: Zeiler and Fergus, "Visualizing and understanding convolutional networks", arXiv
1311.2901.

The paper gives sizes but no paddings: paddings of 1 and 0 follow from the sizes 110 and 26 (figure
3). It gives no constants of its normalisation and no weight decay either: AlexNet's are used here.
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

ZFNET = Preset(
    source="Zeiler and Fergus, arXiv 1311.2901",
    accuracy="61.6 / 83.5 % (38.4 / 16.5 % error), ILSVRC-2012 validation (table 2)",
    sources={
        "conv*.padding": "what the sizes of figure 3 require",
        "*.ceil": "what the sizes of figure 3 require",
        "*.std": "section 3",
        "*.bias": "section 3",
        "norm*": "not given: AlexNet's",
        "recipe.weight_decay": "not given: AlexNet's",
        "preprocessing.*": "section 3",
        "recipe.*": "section 3",
        "*": "figure 3",
    },
    layers={
        "conv1": Conv(96, 7, stride=2, padding=1, std=0.01, bias=0.0),  # figure 3
        "relu1": ReLU(),
        "pool1": Pool(3, stride=2, ceil=True),
        "norm1": LRN(n=5, k=2.0, alpha=1e-4, beta=0.75),
        "conv2": Conv(256, 5, stride=2, std=0.01, bias=0.0),
        "relu2": ReLU(),
        "pool2": Pool(3, stride=2, ceil=True),
        "norm2": LRN(n=5, k=2.0, alpha=1e-4, beta=0.75),
        "conv3": Conv(384, 3, padding=1, std=0.01, bias=0.0),
        "relu3": ReLU(),
        "conv4": Conv(384, 3, padding=1, std=0.01, bias=0.0),
        "relu4": ReLU(),
        "conv5": Conv(256, 3, padding=1, std=0.01, bias=0.0),
        "relu5": ReLU(),
        "pool5": Pool(3, stride=2, ceil=True),
        "fc6": Dense(4096, std=0.01, bias=0.0),  # section 3: weights 0.01, biases 0
        "relu6": ReLU(),
        "drop6": Dropout(0.5),
        "fc7": Dense(4096, std=0.01, bias=0.0),
        "relu7": ReLU(),
        "drop7": Dropout(0.5),
        "fc8": Dense(std=0.01, bias=0.0),
    },
    preprocessing=Preprocessing(size=224, mean="pixel"),
    recipe=Recipe(  # section 3
        batch_size=128,
        epochs=70,
        lr=0.01,
        lr_drops=None,
        momentum=0.9,
        weight_decay=0.0005,
        max_filter_rms=0.1,
    ),
)
