"""The networks of `peer.py`, as a PyTorch user writes them."""

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F

NOISE, WIDTH, TRIGGER = 64, 512, 27


class BasicBlock(nn.Module):
    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, xs):
        out = F.relu(self.bn1(self.conv1(xs)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(xs), inplace=True)


class ResNet18(nn.Module):
    def __init__(self, width, num_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks, channels = [], width
        for stage in range(4):
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(BasicBlock(channels, width << stage, stride))
                channels = width << stage
        self.layers = nn.Sequential(*blocks)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, images):
        xs = F.relu(self.bn1(self.conv1(images)), inplace=True)
        return self.linear(self.layers(xs).mean((2, 3)))


def fold(network):
    """A copy for inference with every batch norm folded into its convolution."""
    return fuse(network.eval()).to(memory_format=torch.channels_last)


class Generator(nn.Module):
    """Noise in four parts: the first enters, each of the others joins before a further layer."""

    def __init__(self):
        super().__init__()
        part = NOISE // 4
        inputs = [part, WIDTH + part, WIDTH + part]
        self.layers = nn.ModuleList(nn.Linear(count, WIDTH) for count in inputs)
        self.norms = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in inputs)
        self.last = nn.Linear(WIDTH + part, TRIGGER)

    def forward(self, noise):
        xs, *parts = noise.chunk(4, 1)
        for layer, norm, part in zip(self.layers, self.norms, parts):
            xs = torch.cat([F.leaky_relu(norm(layer(xs)), 0.2), part], 1)
        return torch.sigmoid(self.last(xs))


class StatisticsNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.noise = nn.Linear(NOISE, WIDTH, bias=False)
        self.trigger = nn.Linear(TRIGGER, WIDTH, bias=False)
        self.bias = nn.Parameter(torch.zeros(WIDTH))
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, 1)

    def forward(self, noise, triggers):
        xs = F.leaky_relu(self.noise(noise) + self.trigger(triggers) + self.bias, 0.2)
        return F.leaky_relu(self.last(F.leaky_relu(self.hidden(xs), 0.2)), 0.2).squeeze(1)


def fused(optimizer, parameters, **settings):
    """The optimizer with its update in one kernel, where this release has one for a CPU."""
    parameters = list(parameters)
    try:
        return optimizer(parameters, fused=True, **settings)
    except (RuntimeError, TypeError):
        return optimizer(parameters, **settings)


def sgd(network):
    return fused(torch.optim.SGD, network.parameters(), lr=1e-3, momentum=0.9)


def adam(network, lr=2e-4):
    return fused(torch.optim.Adam, network.parameters(), lr=lr, betas=(0.5, 0.999))
