"""MESA's two perceptrons and what they are trained for, as the authors have them."""

import torch
from torch import nn
from torch.nn import functional as F

NOISE, WIDTH, TRIGGER = 64, 512, 27
ALPHA, RATE = 0.1, 1e-3


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


def information(statistics, noise, fresh, triggers):
    """The bound that the generator's step climbs."""
    matched, mismatched = statistics(noise, triggers), statistics(fresh, triggers)
    return matched.mean() - (mismatched.exp().mean() + 1e-8).log()


class StatisticsLoss:
    """Minus the bound, its second term's gradient divided by a moving average."""

    def __init__(self):
        self.average = None

    def __call__(self, statistics, noise, fresh, triggers):
        matched = statistics(noise, triggers)
        exponential = statistics(fresh, triggers).exp().mean()
        seen = exponential.detach()
        self.average = seen if self.average is None else (1 - RATE) * self.average + RATE * seen
        return -(matched.mean() - exponential / self.average)
