"""The small network for CIFAR-10 that came with Krizhevsky's cuda-convnet: 26 % error in minutes.

Source: cuda-convnet, example-layers/layers-80sec.cfg and layer-params-80sec.cfg. No augmentation.
"""

from minigrad.models.records import Conv, Dense, Pool, Preprocessing, Preset, Recipe, ReLU

# In the order of the data set, which is that of the alphabet.
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer",
    "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

CIFAR10_26PCT = Preset(
    source="cuda-convnet, layers-80sec.cfg",
    accuracy="74 % (26 % error) on CIFAR-10's test pictures",
    layers={
        "conv1": Conv(32, 5, padding=2, std=0.0001),  # initW
        "pool1": Pool(3, stride=2, ceil=True),
        "relu1": ReLU(),
        "conv2": Conv(32, 5, padding=2, std=0.01),
        "relu2": ReLU(),
        "pool2": Pool(3, stride=2, ceil=True, mean=True),
        "conv3": Conv(64, 5, padding=2, std=0.01),
        "relu3": ReLU(),
        "pool3": Pool(3, stride=2, ceil=True, mean=True),
        "fc4": Dense(64, std=0.1),
        "relu4": ReLU(),
        "fc5": Dense(std=0.1),
    },
    preprocessing=Preprocessing(size=32, picture=32, channels=3, mean="pixel", mirror=False),
    recipe=Recipe(
        batch_size=128,
        epochs=10,
        lr=0.001,  # epsW
        lr_drops=(8,),  # "after 8 epochs by a factor of 10"
        momentum=0.9,
        weight_decay=0.004,  # wc
        decays=(("fc4.w", 0.03), ("fc5.w", 0.03)),
        bias_lr_scale=2.0,  # epsB
        bias_decay=False,
        least=0,
    ),
    classes=10,
    names=CLASSES,
)
