"""Prints what PyTorch computes with a network that `mesa export` wrote.

    python tests/golden/logits.py NETWORK.pth

The images are those of checkpoints.safetensors, the normalization CIFAR-10's. Nothing but the
file's name is given: that it loads with `weights_only`, and strictly, is what is tested.
"""

import json
import sys

import torch
from generate import CIFAR10, HERE, ResNet, load


def main():
    state = torch.load(sys.argv[1], weights_only=True)
    num_classes, features = state["linear.weight"].shape
    model = ResNet("resnet18", features // 8, num_classes, *CIFAR10).double().eval()
    model.load_state_dict(state)
    with torch.no_grad():
        logits = model(load(HERE / "checkpoints.safetensors")["images"])
    print(json.dumps(logits.flatten().tolist()))


if __name__ == "__main__":
    main()
