"""The network for CIFAR-10 of cuda-convnet with normalisation within each map: 18 % error after 140
epochs.

Source: cuda-convnet, example-layers/layers-18pct.cfg and layer-params-18pct.cfg. No augmentation.
The networks with 13 % and 11 % beside it have locally connected layers, which this engine lacks.
"""

from minigrad.models.cifar import CLASSES
from minigrad.models.records import (
    Conv,
    Dense,
    LRNWithinMap,
    Pool,
    Preprocessing,
    Preset,
    Recipe,
    ReLU,
)

CIFAR10_18PCT = Preset(
    source="cuda-convnet, layers-18pct.cfg",
    accuracy="82 % (18 % error) on CIFAR-10's test pictures",
    layers={
        "conv1": Conv(32, 5, padding=2, std=0.0001),
        "pool1": Pool(3, stride=2, ceil=True),
        "relu1": ReLU(),
        "norm1": LRNWithinMap(n=3, k=1.0, alpha=5e-5, beta=0.75),  # rnorm; divided by 9
        "conv2": Conv(32, 5, padding=2, std=0.01),
        "relu2": ReLU(),
        "pool2": Pool(3, stride=2, ceil=True, mean=True),
        "norm2": LRNWithinMap(n=3, k=1.0, alpha=5e-5, beta=0.75),
        "conv3": Conv(64, 5, padding=2, std=0.01),
        "relu3": ReLU(),
        "pool3": Pool(3, stride=2, ceil=True, mean=True),
        "fc4": Dense(std=0.01),
    },
    preprocessing=Preprocessing(size=32, picture=32, channels=3, mean="pixel", mirror=False),
    recipe=Recipe(
        batch_size=128,
        epochs=140,
        lr=0.001,
        lr_drops=(120, 130),
        momentum=0.9,
        weight_decay=0.004,
        decays=(("fc4.w", 1.0),),
        bias_lr_scale=2.0,
        bias_decay=False,
        least=0,
    ),
    classes=10,
    names=CLASSES,
)
