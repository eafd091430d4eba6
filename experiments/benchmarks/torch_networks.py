"""torchvision's convnets from `torch.nn` alone, with its names, for parity without torchvision."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def randomized(network: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and running statistic drawn, so that none can be mixed up unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            if name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1):
                noise = 1 + 0.3 * torch.tanh(noise)  # positive
            elif value.ndim == 1:
                noise = 0.1 * noise
            else:
                noise = noise * (2 / value[0].numel()) ** 0.5
            value.copy_(noise)
    return network


class AlexNet(nn.Module):
    def __init__(self, classes: int = 1000):
        super().__init__()
        relu, pool = nn.ReLU(), nn.MaxPool2d(3, 2)
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, 4, 2), relu, pool),
            *(nn.Conv2d(64, 192, 5, padding=2), relu, pool),
            *(nn.Conv2d(192, 384, 3, padding=1), relu),
            *(nn.Conv2d(384, 256, 3, padding=1), relu),
            *(nn.Conv2d(256, 256, 3, padding=1), relu, pool),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(256 * 36, 4096), relu),
            *(nn.Dropout(), nn.Linear(4096, 4096), relu, nn.Linear(4096, classes)),
        )

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class VGG(nn.Module):
    def __init__(self, sizes, batch_norm: bool, classes: int = 1000):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for size, width in zip(sizes, (64, 128, 256, 512, 512)):
            for _ in range(size):
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                layers += [nn.BatchNorm2d(width)] if batch_norm else []
                layers.append(nn.ReLU())
                channels = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            *(nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, classes)),
        )

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class Unit(nn.Module):
    def __init__(self, inputs, outputs, **convolution):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, bias=False, **convolution)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x):
        return functional.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    def __init__(self, inputs, ones, reduce3, threes, reduce5, fives, pooled):
        super().__init__()
        three = {"kernel_size": 3, "padding": 1}
        self.branch1 = Unit(inputs, ones, kernel_size=1)
        self.branch2 = nn.Sequential(
            Unit(inputs, reduce3, kernel_size=1), Unit(reduce3, threes, **three)
        )
        self.branch3 = nn.Sequential(
            Unit(inputs, reduce5, kernel_size=1), Unit(reduce5, fives, **three)
        )
        pool = nn.MaxPool2d(3, 1, padding=1, ceil_mode=True)
        self.branch4 = nn.Sequential(pool, Unit(inputs, pooled, kernel_size=1))

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class Head(nn.Module):
    def __init__(self, inputs, classes, dropout):
        super().__init__()
        self.conv = Unit(inputs, 128, kernel_size=1)
        self.fc1, self.fc2 = nn.Linear(2048, 1024), nn.Linear(1024, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        x = self.conv(functional.adaptive_avg_pool2d(x, 4)).flatten(1)
        return self.fc2(self.dropout(functional.relu(self.fc1(x))))


class GoogLeNet(nn.Module):
    def __init__(self, classes: int = 1000, auxiliary: bool = True, dropout: float = 0.0):
        super().__init__()
        self.conv1 = Unit(3, 64, kernel_size=7, stride=2, padding=3)
        self.conv2 = Unit(64, 64, kernel_size=1)
        self.conv3 = Unit(64, 192, kernel_size=3, padding=1)
        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64)
        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128)
        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128)
        if auxiliary:
            self.aux1, self.aux2 = Head(512, classes, dropout), Head(528, classes, dropout)
        self.auxiliary = auxiliary
        self.dropout, self.fc = nn.Dropout(dropout), nn.Linear(1024, classes)

    def forward(self, x):
        def halve(x, window=3):
            return functional.max_pool2d(x, window, 2, ceil_mode=True)

        x = halve(self.conv3(self.conv2(halve(self.conv1(x)))))
        x = halve(self.inception3b(self.inception3a(x)))
        x = at_4a = self.inception4a(x)
        x = at_4d = self.inception4d(self.inception4c(self.inception4b(x)))
        x = halve(self.inception4e(x), 2)
        x = self.inception5b(self.inception5a(x))
        logits = self.fc(self.dropout(functional.adaptive_avg_pool2d(x, 1).flatten(1)))
        if self.training and self.auxiliary:
            return logits, (self.aux1(at_4a), self.aux2(at_4d))
        return logits


class Block(nn.Module):
    def __init__(self, inputs, width, stride, bottleneck, inner):
        super().__init__()
        outputs = width * (4 if bottleneck else 1)
        if bottleneck:
            convs = [(inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, outputs, 1, 1)]
        else:
            convs = [(inputs, width, 3, stride), (width, width, 3, 1)]
        for i, (a, b, k, s) in enumerate(convs, start=1):
            setattr(self, f"conv{i}", nn.Conv2d(a, b, k, s, k // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(b))
        self.depth = len(convs)
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = functional.relu(y) if i < self.depth else y
        return functional.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet(nn.Module):
    def __init__(self, sizes, bottleneck: bool, classes=1000, inner=1, small_images=False):
        super().__init__()
        stem = (3, 1, 1) if small_images else (7, 2, 3)
        self.conv1 = nn.Conv2d(3, 64, *stem, bias=False)
        self.small_images = small_images
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, size in enumerate(sizes):
            width, blocks = 64 * 2**stage, []
            for block in range(size):
                stride = 2 if stage and not block else 1
                blocks.append(Block(channels, width, stride, bottleneck, width * inner))
                channels = width * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        if not self.small_images:
            x = functional.max_pool2d(x, 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


def build(name: str, **fields) -> nn.Module:
    """torchvision's network of that name."""
    resnets = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
    vggs = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
    if name == "alexnet":
        return AlexNet(**fields)
    if name == "googlenet":
        return GoogLeNet(**fields)
    depth = int("".join(c for c in name.split("_")[0] if c.isdigit()))
    if name.startswith("vgg"):
        return VGG(vggs[depth], name.endswith("_bn"), **fields)
    return ResNet(resnets[depth], depth >= 50, **fields)
