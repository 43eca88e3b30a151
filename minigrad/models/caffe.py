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
    Pretrained,
    Recipe,
    ReLU,
    WeightsFile,
)

SOURCES = {
    "norm*.k": "caffe.proto: 1, and train_val.prototxt leaves it so",
    "norm*.divide_by_n": "src/caffe/layers/lrn_layer.cpp",
    "drop*.inverted": "src/caffe/layers/dropout_layer.cpp",
    "recipe.form": "src/caffe/solvers/sgd_solver.cpp",
    "recipe.bias_*": "train_val.prototxt, lr_mult and decay_mult",
    "recipe.batch_size": "train_val.prototxt",
    "recipe.*": "solver.prototxt",
    "preprocessing.colour_noise": "readme.md: no relighting",
    "*": "train_val.prototxt",
}

CAFFE = Preset(
    source="BVLC/caffe models/bvlc_alexnet",
    accuracy="57.1 / 80.2 %, centre view, ILSVRC-2012 validation (readme.md)",
    sources=SOURCES,
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
        bias_lr_scale=2.0,  # lr_mult
        bias_decay=False,  # decay_mult
    ),
    pretrained=Pretrained(
        blue_first=True,
        files=(
            WeightsFile(
                "dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel",
                "sha1:9116a64c0fbe4459d18f4bb6b56d647b63920377",
                "57.1 / 80.2 % of ILSVRC-2012's validation pictures (readme.md)",
            ),
        ),
    ),
)

CAFFENET = Preset(
    source="BVLC/caffe models/bvlc_reference_caffenet",
    accuracy="57.4 / 80.4 %, centre view, ILSVRC-2012 validation (readme.md)",
    sources=SOURCES,
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
        bias_lr_scale=2.0,
        bias_decay=False,
    ),
    pretrained=Pretrained(
        blue_first=True,
        files=(
            WeightsFile(
                "dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel",
                "sha1:4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
                "57.4 / 80.4 % of ILSVRC-2012's validation pictures (readme.md)",
            ),
        ),
    ),
)
