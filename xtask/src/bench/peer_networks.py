"""The networks of `peer.py`, as a PyTorch user writes them."""

import pathlib
import sys

import torch
from torch.fx.experimental.optimization import fuse

# They are those of `mesa gpu measure`, which brings them along in its binary.
ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "crates/cli/src/commands/gpu"))
from perceptrons import ALPHA, NOISE, Generator, StatisticsLoss  # noqa: E402, F401
from perceptrons import StatisticsNetwork, information  # noqa: E402, F401
from resnet import ResNet18  # noqa: E402, F401


def fold(network):
    """A copy for inference with every batch norm folded into its convolution."""
    return fuse(network.eval()).to(memory_format=torch.channels_last)


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
