"""torchvision's alexnet: one tower, after arXiv 1404.5997.

Source: torchvision/models/alexnet.py, its documentation page, and references/classification.
torchvision draws weights and biases from +-1/sqrt(fan in); here they are He's weights and zeros.
"""

from minigrad.models.records import (
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

TORCHVISION = Preset(
    source="torchvision alexnet, after arXiv 1404.5997",
    accuracy="56.52 / 79.07 %, centre view, ILSVRC-2012 validation (documentation page)",
    sources={
        "*.std": "here He's; torchvision/models/alexnet.py draws within 1 / sqrt(fan in)",
        "*.bias": "here 0; torchvision/models/alexnet.py draws within 1 / sqrt(fan in)",
        "recipe.*": "references/classification: train.py, README.md",
        "preprocessing.*": "references/classification/presets.py",
        "*": "torchvision/models/alexnet.py",
    },
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
    preprocessing=Preprocessing(
        size=224,
        # references/classification/presets.py: 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225 of 255
        mean=(123.675, 116.28, 103.53),
        scale=(1 / 58.395, 1 / 57.12, 1 / 57.375),
    ),
    recipe=Recipe(
        batch_size=256,
        epochs=90,
        lr=0.01,
        lr_drops=(30, 60),
        momentum=0.9,
        weight_decay=1e-4,
        form="torch",
    ),
    pretrained=Pretrained(
        names={
            "conv1": "features.0",
            "conv2": "features.3",
            "conv3": "features.6",
            "conv4": "features.8",
            "conv5": "features.10",
            "fc6": "classifier.1",
            "fc7": "classifier.4",
            "fc8": "classifier.6",
        },
        files=(
            WeightsFile(
                "download.pytorch.org/models/alexnet-owt-7be5be79.pth",
                "sha256:7be5be79",  # the first digits, which PyTorch's hub compares
                "56.52 / 79.07 % of ILSVRC-2012's validation pictures (documentation page)",
            ),
        ),
    ),
)
