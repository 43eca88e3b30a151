"""The small networks that come with Caffe: for MNIST and for CIFAR-10. Files of trained weights of
all three can be had, small enough to try an import with.

Source: BVLC/caffe, examples/mnist/lenet_train_test.prototxt, lenet_solver.prototxt, and
examples/cifar10/cifar10_quick_train_test.prototxt, cifar10_full_train_test.prototxt and their
solvers. Caffe's pools round up, and a mean is over the pixels inside the picture. The files for
CIFAR-10 read red first, unlike those for ImageNet.
"""

from minigrad.models.cifar import CLASSES
from minigrad.models.records import (
    Conv,
    Dense,
    LRNWithinMap,
    Pool,
    Preprocessing,
    Preset,
    Pretrained,
    Recipe,
    ReLU,
    WeightsFile,
)

CAFFE_LENET = Preset(
    source="BVLC/caffe examples/mnist: LeNet with 20, 50 and 500 maps and one ReLU",
    accuracy="about 99.1 % on MNIST's test pictures (examples/mnist/readme.md)",
    layers={
        "conv1": Conv(20, 5, std=0.2),  # "xavier": variance 1 / fan in; there uniform
        "pool1": Pool(2, stride=2, ceil=True),
        "conv2": Conv(50, 5, std=0.0447),
        "pool2": Pool(2, stride=2, ceil=True),
        "fc3": Dense(500, std=0.0354),
        "relu3": ReLU(),
        "fc4": Dense(std=0.0447),
    },
    preprocessing=Preprocessing(
        size=28, picture=28, channels=1, mean=(0.0,), scale=(1 / 256,), mirror=False
    ),
    recipe=Recipe(
        batch_size=64,
        epochs=11,  # 10,000 steps
        lr=0.01,
        lr_drops=(),  # there 0.01 (1 + 0.0001 step)^-0.75, which ends at 0.0059
        momentum=0.9,
        weight_decay=0.0005,
        bias_lr_scale=2.0,
        least=0,
    ),
    classes=10,
    names=tuple("0123456789"),
    pretrained=Pretrained(
        names={"fc3": "ip1", "fc4": "ip2"},
        files=(
            WeightsFile(
                "github.com/ethereon/caffe-tensorflow, commit d870c51e, "
                "examples/mnist/lenet_iter_10000.caffemodel",
                "sha256:846f9133807d2314ca63382069646ec8c11ac87881825efc6b5145339351f967",
                "99.14 % of MNIST's 10,000 test pictures",
            ),
        ),
    ),
)

CAFFE_CIFAR10_QUICK = Preset(
    source="BVLC/caffe examples/cifar10, cifar10_quick: as cuda-convnet's network, but no ReLU "
    "between the dense layers",
    accuracy="about 75 % on CIFAR-10's test pictures (examples/cifar10/readme.md)",
    layers={
        "conv1": Conv(32, 5, padding=2, std=0.0001),
        "pool1": Pool(3, stride=2, ceil=True),
        "relu1": ReLU(),
        "conv2": Conv(32, 5, padding=2, std=0.01),
        "relu2": ReLU(),
        "pool2": Pool(3, stride=2, ceil=True, mean=True),
        "conv3": Conv(64, 5, padding=2, std=0.01),
        "relu3": ReLU(),
        "pool3": Pool(3, stride=2, ceil=True, mean=True),
        "fc4": Dense(64, std=0.1),
        "fc5": Dense(std=0.1),
    },
    preprocessing=Preprocessing(size=32, picture=32, mean="pixel", mirror=False),
    recipe=Recipe(
        batch_size=100,
        epochs=10,
        lr=0.001,
        lr_drops=(8,),  # cifar10_quick_solver_lr1.prototxt
        momentum=0.9,
        weight_decay=0.004,
        bias_lr_scale=2.0,
        least=0,
    ),
    classes=10,
    names=CLASSES,
    pretrained=Pretrained(
        names={"fc4": "ip1", "fc5": "ip2"},
        files=(
            WeightsFile(
                "github.com/everpeace/caffe, commit 91cb3b5e, "
                "examples/cifar10/cifar10_quick_iter_5000.caffemodel",
                "sha256:970a5edcfc2a2eb115e63820fe720d8be3f174f313c8935cce04a0b5a7f32252",
                "74.91 % of CIFAR-10's 10,000 test pictures (Caffe's log), 73.50 % after JPEG",
            ),
        ),
    ),
)

CAFFE_CIFAR10_FULL = Preset(
    source="BVLC/caffe examples/cifar10, cifar10_full: with normalisation within each map, after "
    "cuda-convnet's layers-18pct.cfg",
    accuracy="about 81 % on CIFAR-10's test pictures (cifar10_full.prototxt)",
    layers={
        "conv1": Conv(32, 5, padding=2, std=0.0001),
        "pool1": Pool(3, stride=2, ceil=True),
        "relu1": ReLU(),
        "norm1": LRNWithinMap(n=3, k=1.0, alpha=5e-5, beta=0.75),  # k: lrn_layer.cpp
        "conv2": Conv(32, 5, padding=2, std=0.01),
        "relu2": ReLU(),
        "pool2": Pool(3, stride=2, ceil=True, mean=True),
        "norm2": LRNWithinMap(n=3, k=1.0, alpha=5e-5, beta=0.75),
        "conv3": Conv(64, 5, padding=2, std=0.01),
        "relu3": ReLU(),
        "pool3": Pool(3, stride=2, ceil=True, mean=True),
        "fc4": Dense(std=0.01),
    },
    preprocessing=Preprocessing(size=32, picture=32, mean="pixel", mirror=False),
    recipe=Recipe(
        batch_size=100,
        epochs=140,
        lr=0.001,
        lr_drops=(120, 130),  # cifar10_full_solver_lr1.prototxt, ..._lr2.prototxt
        momentum=0.9,
        weight_decay=0.004,
        decays=(("fc4.w", 1.0),),  # decay_mult 250
        bias_lr_scale=2.0,
        bias_decay=False,  # of ip1 alone, there
        least=0,
    ),
    classes=10,
    names=CLASSES,
    pretrained=Pretrained(
        names={"fc4": "ip1"},
        files=(
            WeightsFile(
                "github.com/everpeace/caffe, commit 91cb3b5e, "
                "examples/cifar10/cifar10_full_iter_60000.caffemodel",
                "sha256:2a1dfda2e5a1456fd877d6f7322e08bfd097f24e1875c8e05fa301b9b10d7b12",
                "76.97 % of CIFAR-10's 10,000 test pictures after JPEG",
            ),
        ),
    ),
)
