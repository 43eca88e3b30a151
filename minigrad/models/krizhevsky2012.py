"""The network that the program of 2012 trained: run 145, which ends with the paper's 40.7 / 18.2 %.

Source: github.com/computerhistory/AlexNet-Source-Code, layers/layers-145.cfg and
layers/layer-params-145.cfg, with layer.py and convdata.py. docs/the-many-alexnets.md describes
each difference from the paper's text.
"""

from minigrad.models.records import (
    LRN,
    Conv,
    Dense,
    Dropout,
    LRNWithinMap,
    Pool,
    Preprocessing,
    Preset,
    Recipe,
    ReLU,
)

KRIZHEVSKY2012 = Preset(
    source="the 2012 source, layers-145.cfg and layer-params-145.cfg",
    accuracy="59.3 / 81.8 % (40.664 / 18.210 % error), ten views, ILSVRC-2012 validation",
    sources={
        "layers": "layers-145.cfg; the text has ReLU before LRN and no within2",
        "*.ceil": "layer.py rounds all output sizes up",
        "norm*.divide_by_n": "layer.py",
        "norm*.k": "layers-145.cfg, minDiv=2",
        "norm*.groups": "layers-145.cfg: each column is normalised alone",
        "within2*": "layers-145.cfg, rnorm; not in the paper",
        "*.std": "layers-145.cfg, initW",
        "*.bias": "layers-145.cfg, initB",
        "drop*": "src/layer.cu",
        "preprocessing.*": "convdata.py",
        "recipe.bias_decay": "src/layer.cu",
        "recipe.bias_lr": "layer-params-145.cfg, epsB",
        "recipe.lr_drops": "notes at the end of layer-params-145.cfg",
        "recipe.rates": "notes at the end of layer-params-145.cfg",
        "recipe.colour_until": "notes at the end of layer-params-145.cfg",
        "recipe.epochs": "notes at the end of layer-params-145.cfg",
        "recipe.*": "layer-params-145.cfg",
    },
    layers={
        # layer.py rounds all output sizes up, and divides LRN's alpha by n
        "conv1": Conv(96, 11, stride=4, ceil=True, std=0.01, bias=0.0),
        "norm1": LRN(n=5, k=2.0, alpha=1e-4, beta=0.75, divide_by_n=True, groups=2),  # minDiv=2
        "pool1": Pool(3, stride=2, ceil=True),
        "relu1": ReLU(),  # after LRN and pool, unlike the text
        "conv2": Conv(256, 5, padding=2, groups=2, ceil=True, std=0.01, bias=1.0),
        "relu2": ReLU(),
        "norm2": LRN(n=5, k=2.0, alpha=1e-4, beta=0.75, divide_by_n=True, groups=2),
        "within2": LRNWithinMap(n=5, k=1.0, alpha=1e-3, beta=0.75),  # "cnorm2a", not in the paper
        "pool2": Pool(3, stride=2, ceil=True),
        "conv3": Conv(384, 3, padding=1, ceil=True, std=0.03, bias=0.0),  # initW=0.03
        "relu3": ReLU(),
        "conv4": Conv(384, 3, padding=1, groups=2, ceil=True, std=0.03, bias=1.0),
        "relu4": ReLU(),
        "conv5": Conv(256, 3, padding=1, groups=2, ceil=True, std=0.03, bias=1.0),
        "pool5": Pool(3, stride=2, ceil=True),
        "relu5": ReLU(),
        "fc6": Dense(4096, std=0.01, bias=1.0),
        "relu6": ReLU(),
        "drop6": Dropout(0.5),  # src/layer.cu halves at test time
        "fc7": Dense(4096, std=0.01, bias=1.0),
        "relu7": ReLU(),
        "drop7": Dropout(0.5),
        "fc8": Dense(std=0.01, bias=0.0),
    },
    preprocessing=Preprocessing(
        size=224,
        mean="pixel",
        colour_noise=0.1,
        shrink=1.1,  # convdata.py
    ),
    recipe=Recipe(
        batch_size=128,
        epochs=91,
        lr=0.01,
        lr_drops=(25, 51, 79),  # this and the next three: notes at the end of layer-params-145.cfg
        rates=(("conv1.w", 67, 1e-5), ("conv1.w", 72, 0.0)),
        colour_until=67,
        bias_lr=0.02,  # epsB
        bias_decay=False,  # src/layer.cu
        momentum=0.9,
        weight_decay=0.0005,
    ),
)
