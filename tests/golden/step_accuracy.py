"""The reference of one whole training step, and how far PyTorch's own f32 step lies from it.

Part of `generate.py`. The step starts from the committed clean network of width 16 and holds four
images. Everything is computed in f64; then PyTorch computes the same in f32, channels last, as
`cargo xtask bench --peer` runs it, and its distances from the f64 values are written beside them:
they are what `step_accuracy.rs` holds this project's own distances to.

Distances are ||a - b|| / ||b|| in the Euclidean norm. Of a large gradient every k-th value is
kept, and the distances of both sides are taken over those.
"""

import copy
import pathlib

import torch
import torch.nn.functional as F

import generate

WEIGHTS = pathlib.Path(__file__).resolve().parents[2] / "assets/weights/resnet18-w16-cifar10.safetensors"
WIDTH, CLASSES, IMAGES, MOST = 16, 10, 4, 4096

# No sum before a ReLU lies closer to zero than this, about ten times what f32 is off by: a slope
# that flips is one whole term of a gradient, a thousand times the rounding that is compared here,
# and on which side it would happen is chance.
CLEARANCE = 5e-6


def step(network, images, labels):
    network.zero_grad(set_to_none=True)
    logits = network(images)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    found = {f"gradient.{name}": value.grad for name, value in network.named_parameters()}
    return found | {"logits": logits.detach(), "loss": loss.detach().reshape(1)}


def kept(tensor):
    """Every k-th value in PyTorch's order, k odd: no axis of a power of two is favored."""
    flat = tensor.detach().double().reshape(-1)
    return flat[:: (-(-flat.numel() // MOST)) | 1]


def distance(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def pictures(seed):
    """Patches of color with some noise: neighbors are alike, as in photographs."""
    draw = generate.Draw(seed)
    patches = draw.uniform(IMAGES, 3, 8, 8)
    smooth = F.interpolate(patches, size=(32, 32), mode="bilinear", align_corners=False)
    noise = draw.uniform(IMAGES, 3, 32, 32, low=-0.1, high=0.1)
    return generate.half((smooth + noise).clamp(0, 1))


def cleared(network, labels):
    """The first pictures whose sums keep clear of zero."""
    for seed in range(10_000):
        images = pictures(seed)
        generate.closest_to_zero.clear()
        with torch.no_grad():
            copy.deepcopy(network)(images)
        if min(generate.closest_to_zero) > CLEARANCE:
            return images
    raise AssertionError("no pictures keep clear of zero")


def step_accuracy_case():
    labels = torch.arange(IMAGES) * 3 % CLASSES
    network = generate.ResNet("resnet18", WIDTH, CLASSES, *generate.CIFAR10).double().train()
    network.load_state_dict(generate.load(WEIGHTS), strict=False)
    images = cleared(network, labels)

    single = copy.deepcopy(network).float().to(memory_format=torch.channels_last)
    single.mean, single.std = network.mean.float(), network.std.float()
    expected = step(network, images, labels)
    found = step(single, images.float().to(memory_format=torch.channels_last), labels)

    tensors = {"images": generate.f16(images), "labels": labels.to(torch.uint32)}
    for name, value in expected.items():
        tensors[f"expected.{name}"] = generate.f32(kept(value))
        off = distance(kept(found[name]), kept(value))
        tensors[f"peer.{name}"] = generate.f32(torch.tensor([off]))
    return {"step_accuracy": (tensors, {"width": str(WIDTH), "kept_at_most": str(MOST)})}
