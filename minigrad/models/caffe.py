"""Caffe's two AlexNets, which differ in the order of norm and pool, and in the biases.

Source: BVLC/caffe, models/bvlc_alexnet and models/bvlc_reference_caffenet: train_val.prototxt,
solver.prototxt, readme.md.
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

CAFFE = Preset(
    source="BVLC/caffe models/bvlc_alexnet; published 57.1 / 80.2 % accuracy, centre crop",
    layers={
        "conv1": Conv(96, 11, stride=4, std=0.01, bias=0.0),
        "relu1": ReLU(),
        "norm1": LRN(n=5, k=1.0, alpha=1e-4, beta=0.75, divide_by_n=True),  # k: lrn_layer.cpp
        "pool1": Pool(3, stride=2),
        "conv2": Conv(256, 5, padding=2, groups=2, std=0.01, bias=0.1),
        "relu2": ReLU(),
        "norm2": LRN(n=5, k=1.0, alpha=1e-4, beta=0.75, divide_by_n=True),
        "pool2": Pool(3, stride=2),
        "conv3": Conv(384, 3, padding=1, std=0.01, bias=0.0),
        "relu3": ReLU(),
        "conv4": Conv(384, 3, padding=1, groups=2, std=0.01, bias=0.1),
        "relu4": ReLU(),
        "conv5": Conv(256, 3, padding=1, groups=2, std=0.01, bias=0.1),
        "relu5": ReLU(),
        "pool5": Pool(3, stride=2),
        "fc6": Dense(4096, std=0.005, bias=0.1),
        "relu6": ReLU(),
        "drop6": Dropout(0.5, inverted=True),
        "fc7": Dense(4096, std=0.005, bias=0.1),
        "relu7": ReLU(),
        "drop7": Dropout(0.5, inverted=True),
        "fc8": Dense(std=0.01, bias=0.0),
    },
    preprocessing=Preprocessing(size=227, mean="pixel"),
    recipe=Recipe(
        batch_size=256,
        epochs=90,  # max_iter 450,000
        lr=0.01,
        lr_drops=(20, 40, 60, 80),  # stepsize 100,000
        momentum=0.9,
        weight_decay=0.0005,
        form="torch",
        bias_lr_scale=2.0,  # lr_mult
        bias_decay=False,  # decay_mult
    ),
)

CAFFENET = Preset(
    source=(
        "BVLC/caffe models/bvlc_reference_caffenet; published 57.4 / 80.4 % accuracy, centre crop"
    ),
    layers={
        "conv1": Conv(96, 11, stride=4, std=0.01, bias=0.0),
        "relu1": ReLU(),
        "pool1": Pool(3, stride=2),
        "norm1": LRN(n=5, k=1.0, alpha=1e-4, beta=0.75, divide_by_n=True),
        "conv2": Conv(256, 5, padding=2, groups=2, std=0.01, bias=1.0),
        "relu2": ReLU(),
        "pool2": Pool(3, stride=2),
        "norm2": LRN(n=5, k=1.0, alpha=1e-4, beta=0.75, divide_by_n=True),
        "conv3": Conv(384, 3, padding=1, std=0.01, bias=0.0),
        "relu3": ReLU(),
        "conv4": Conv(384, 3, padding=1, groups=2, std=0.01, bias=1.0),
        "relu4": ReLU(),
        "conv5": Conv(256, 3, padding=1, groups=2, std=0.01, bias=1.0),
        "relu5": ReLU(),
        "pool5": Pool(3, stride=2),
        "fc6": Dense(4096, std=0.005, bias=1.0),
        "relu6": ReLU(),
        "drop6": Dropout(0.5, inverted=True),
        "fc7": Dense(4096, std=0.005, bias=1.0),
        "relu7": ReLU(),
        "drop7": Dropout(0.5, inverted=True),
        "fc8": Dense(std=0.01, bias=0.0),
    },
    preprocessing=Preprocessing(size=227, mean="pixel"),
    recipe=Recipe(
        batch_size=256,
        epochs=90,
        lr=0.01,
        lr_drops=(20, 40, 60, 80),
        momentum=0.9,
        weight_decay=0.0005,
        form="torch",
        bias_lr_scale=2.0,
        bias_decay=False,
    ),
)
