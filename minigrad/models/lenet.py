"""LeNet-5 in the form that is taught today.

LeCun, Bottou, Bengio, Haffner: "Gradient-based learning applied to document recognition",
Proceedings of the IEEE 86 (1998), section II.B and figure 2. docs/the-many-alexnets.md describes
what is different in the paper (trained subsampling, partial connections, an RBF output). The recipe
is this project's own: on MNIST it reaches 99.1 % after two minutes on two cores.

LENET_32 is a form with ReLU, max-pooling and pictures of 32 x 32, as tutorials for PyTorch have it.
Source: github.com/khushbujpatel/lenet_mnist, net.py and train.py.
"""

from minigrad.models.records import (
    Conv,
    Dense,
    Pool,
    Preprocessing,
    Preset,
    Pretrained,
    Recipe,
    ReLU,
    Tanh,
    WeightsFile,
)

LENET5 = Preset(
    source="LeNet-5 in its modern form, after LeCun et al. 1998",
    accuracy="99.05 % on MNIST's test pictures (the network of 1998)",
    layers={
        "conv1": Conv(6, 5, padding=2),  # 28 x 28 padded to the paper's 32 x 32
        "tanh1": Tanh(),
        "pool1": Pool(2, stride=2, mean=True),
        "conv2": Conv(16, 5),  # every map sees all six
        "tanh2": Tanh(),
        "pool2": Pool(2, stride=2, mean=True),
        "fc3": Dense(120),
        "tanh3": Tanh(),
        "fc4": Dense(84),
        "tanh4": Tanh(),
        "fc5": Dense(),  # one unit per class, followed by a softmax
    },
    preprocessing=Preprocessing(
        size=28, picture=28, channels=1, mean="pixel", unit_std=True, mirror=False
    ),
    recipe=Recipe(
        batch_size=64,
        epochs=12,
        lr=0.02,
        lr_drops=(7, 10),
        momentum=0.9,
        weight_decay=0.0005,
        least=0,
    ),
    classes=10,
    names=tuple("0123456789"),
)

LENET_32 = Preset(
    source="LeNet-5 with ReLU and max-pooling, github.com/khushbujpatel/lenet_mnist",
    accuracy="99 % on MNIST's test pictures (train.log)",
    layers={
        "conv1": Conv(6, 5),
        "relu1": ReLU(),
        "pool1": Pool(2, stride=2),
        "conv2": Conv(16, 5),
        "relu2": ReLU(),
        "pool2": Pool(2, stride=2),
        "conv3": Conv(120, 5),  # sees all 5 x 5 x 16
        "relu3": ReLU(),
        "fc4": Dense(84),
        "relu4": ReLU(),
        "fc5": Dense(),
    },
    preprocessing=Preprocessing(
        size=32,
        picture=32,
        channels=1,
        mean=(255 * 0.1307,),  # of MNIST's training pixels, as train.py has them
        scale=(1 / (255 * 0.3081),),
        mirror=False,
    ),
    recipe=LENET5.recipe,
    classes=10,
    names=tuple("0123456789"),
    pretrained=Pretrained(
        names={
            "conv1": "convnet.c1",
            "conv2": "convnet.c3",
            "conv3": "convnet.c5",
            "fc4": "fc.f6",
            "fc5": "fc.f7",
        },
        files=(
            WeightsFile(
                "github.com/khushbujpatel/lenet_mnist, commit 3083aa4f, mnist_cnn.pt",
                "sha256:d5d98d05c84b8cf305ebf37ca682a9852c41831230a3667e0e39cfeb7c88f4e2",
                "99.05 % of MNIST's 10,000 test pictures",
            ),
        ),
    ),
)
