"""AlexNet (Krizhevsky, Sutskever, Hinton: "ImageNet classification with deep convolutional neural
networks", NIPS 2012), its relatives, and their training.

The network of the paper, as the preset `paper` builds it (rows x columns x maps; parameters with
biases):

    stage    what it does                                       output      parameters  mult.-adds
    input    227 x 227 x 3 crop, training mean subtracted       227x227x3
    conv1    96 filters 11x11x3, stride 4                       55x55x96        34,944    105.42 M
    relu1 norm1 pool1    max(0, x); LRN n=5; max-pool 3x3/2     27x27x96
    conv2    256 filters 5x5x48, padding 2, two groups          27x27x256      307,456    223.95 M
    relu2 norm2 pool2    as after conv1                         13x13x256
    conv3    384 filters 3x3x256, padding 1                     13x13x384      885,120    149.52 M
    conv4    384 filters 3x3x192, padding 1, two groups         13x13x384      663,936    112.14 M
    conv5    256 filters 3x3x192, padding 1, two groups         13x13x256      442,624     74.76 M
    pool5    max-pool 3x3, stride 2                             6x6x256
    fc6      dense 9216 -> 4096; relu6; drop6 (p = 0.5)         4096        37,752,832     37.75 M
    fc7      dense 4096 -> 4096; relu7; drop7 (p = 0.5)         4096        16,781,312     16.78 M
    fc8      dense 4096 -> 1000                                 1000         4,097,000      4.10 M
                                                                            60,965,224    724.41 M

    python alexnet.py summary paper
    python alexnet.py train --data imagenet --epochs 90
    python alexnet.py evaluate runs/RUN --data imagenet
    python alexnet.py predict runs/RUN cat.jpg dog.jpg
    python alexnet.py gradcheck paper
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from minigrad import commands
from minigrad.models.caffe import CAFFE, CAFFENET
from minigrad.models.caffe_small import CAFFE_CIFAR10_FULL, CAFFE_CIFAR10_QUICK, CAFFE_LENET
from minigrad.models.cifar import CIFAR10_26PCT
from minigrad.models.cifar_18pct import CIFAR10_18PCT
from minigrad.models.krizhevsky2012 import KRIZHEVSKY2012
from minigrad.models.lenet import LENET5, LENET_32
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
    find,
)
from minigrad.models.textbook import TEXTBOOK
from minigrad.models.torchvision import TORCHVISION
from minigrad.models.zfnet import ZFNET
from minigrad.network import Network

PAPER = Preset(
    source="the paper's text",
    accuracy="59.3 / 81.8 % (40.7 / 18.2 % error), ten views, ILSVRC-2012 validation (table 2)",
    sources={
        "layers": "sections 3.1 to 3.5 and 4.2",
        "conv*.groups": "figure 2",
        "conv*.padding": "what the sizes of figure 2 require",
        "*.std": "section 5",
        "*.bias": "section 5",
        "conv*": "section 3.5",
        "fc*": "section 3.5",
        "norm*": "section 3.3",
        "pool*": "section 3.4",
        "drop*": "section 4.2",
        "relu*": "section 3.1",
        "preprocessing.size": "the text has 224; 227 makes its 55 x 55 come out",
        "preprocessing.colour_noise": "section 4.1",
        "preprocessing.shrink": "not in the text",
        "preprocessing.mirror": "section 4.1",
        "preprocessing.*": "section 2",
        "recipe.max_filter_rms": "not in the text",
        "recipe.*": "section 5",
    },
    layers={
        # The sizes are from section 3.5, the groups (which maps a layer sees) from figure 2. The
        # paddings are those that these sizes require.
        "conv1": Conv(96, 11, stride=4, std=0.01, bias=0.0),  # section 5: initial weights, biases
        "relu1": ReLU(),  # section 3.1
        "norm1": LRN(n=5, k=2.0, alpha=1e-4, beta=0.75),  # section 3.3
        "pool1": Pool(3, stride=2),  # section 3.4: overlapping
        "conv2": Conv(256, 5, padding=2, groups=2, std=0.01, bias=1.0),
        "relu2": ReLU(),
        "norm2": LRN(n=5, k=2.0, alpha=1e-4, beta=0.75),
        "pool2": Pool(3, stride=2),
        "conv3": Conv(384, 3, padding=1, std=0.01, bias=0.0),
        "relu3": ReLU(),
        "conv4": Conv(384, 3, padding=1, groups=2, std=0.01, bias=1.0),
        "relu4": ReLU(),
        "conv5": Conv(256, 3, padding=1, groups=2, std=0.01, bias=1.0),
        "relu5": ReLU(),
        "pool5": Pool(3, stride=2),
        "fc6": Dense(4096, std=0.01, bias=1.0),
        "relu6": ReLU(),
        "drop6": Dropout(0.5),  # section 4.2; halved at test time
        "fc7": Dense(4096, std=0.01, bias=1.0),
        "relu7": ReLU(),
        "drop7": Dropout(0.5),
        "fc8": Dense(std=0.01, bias=0.0),  # one unit per class
    },
    preprocessing=Preprocessing(
        size=227,  # the text says 224 (docs/the-many-alexnets.md)
        mean="pixel",  # section 2
        colour_noise=0.1,  # section 4.1
    ),
    recipe=Recipe(  # section 5
        batch_size=128,
        epochs=90,
        lr=0.01,
        lr_drops=None,  # "when the validation error rate stopped improving"
        momentum=0.9,
        weight_decay=0.0005,
    ),
)

PRESETS: dict[str, Preset] = {
    "paper": PAPER,
    "textbook": TEXTBOOK,
    "krizhevsky2012": KRIZHEVSKY2012,
    "caffe": CAFFE,
    "caffenet": CAFFENET,
    "torchvision": TORCHVISION,
    "zfnet": ZFNET,
}
MODELS = PRESETS | {  # what the command line knows
    "lenet5": LENET5,
    "lenet_32": LENET_32,
    "caffe_lenet": CAFFE_LENET,
    "cifar10_26pct": CIFAR10_26PCT,
    "cifar10_18pct": CIFAR10_18PCT,
    "caffe_cifar10_quick": CAFFE_CIFAR10_QUICK,
    "caffe_cifar10_full": CAFFE_CIFAR10_FULL,
}


class AlexNet(Network):
    """One of the networks in PRESETS, by name; `AlexNet()` is the paper's. The arguments are those
    of network.Network."""

    def __init__(
        self,
        preset: str | Preset = "paper",
        classes: int | None = None,
        seed: int = 0,
        dtype: str = "float32",
    ) -> None:
        if not isinstance(preset, Preset):
            preset = find(preset, PRESETS)
        super().__init__(preset, classes, seed, dtype)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    return commands.main(MODELS, argv)


if __name__ == "__main__":
    sys.exit(main())
