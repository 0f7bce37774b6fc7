"""PyTorch's side of `cargo xtask bench --peer`.

Says `ready NAME`, then answers each line `go N` on standard input with the
seconds that one of N training steps took: forward, loss, backward and update of
a ResNet-18 for 32x32 images in f32 with channels-last tensors, in training mode.
Ends when standard input does. Our side speaks the same protocol.
"""

import argparse
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    network = ResNet18(args.width, 10).to(memory_format=torch.channels_last).train()
    settings = {"lr": 1e-3, "momentum": 0.9}
    try:
        optimizer = torch.optim.SGD(network.parameters(), fused=True, **settings)
    except (RuntimeError, TypeError):
        # Before PyTorch 2.4 there is no fused update on a CPU.
        optimizer = torch.optim.SGD(network.parameters(), **settings)
    images = torch.rand(args.batch_size, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (args.batch_size,))

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    print(f"ready PyTorch {torch.__version__}, f32, channels last", flush=True)
    for line in sys.stdin:
        steps = int(line.removeprefix("go "))
        step()
        started = time.perf_counter()
        for _ in range(steps):
            step()
        print((time.perf_counter() - started) / steps, flush=True)


if __name__ == "__main__":
    main()
