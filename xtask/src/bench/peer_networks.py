"""The networks of `peer.py`, as a PyTorch user writes them."""

import pathlib
import sys

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F

# The ResNet-18 is that of `mesa gpu measure`, which brings it along in its binary.
ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "crates/cli/src/commands/gpu"))
from resnet import ResNet18  # noqa: E402, F401

NOISE, WIDTH, TRIGGER = 64, 512, 27


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
