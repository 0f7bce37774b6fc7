"""Writes the reference vectors that tests/golden.rs compares this project with.

    python tests/golden/generate.py             rewrites the files beside this script
    python tests/golden/generate.py --out DIR   writes them to DIR
    python tests/golden/generate.py --check     compares what is there with a fresh run

Needs PyTorch (any release since 2.0, CPU), nothing else. Everything is computed in f64 from
inputs that f32 or f16 represent exactly, and rounded to f32 at the end: the files hold the true
values, the same bytes on every machine, and a test's tolerance measures this project's error only.
"""

import argparse
import json
import math
import pathlib
import struct
import sys
import tempfile

import checkpoints
import torch
import torch.nn.functional as F
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
KINDS = {torch.float32: "F32", torch.uint32: "U32", torch.float16: "F16"}


# --- files ---------------------------------------------------------------------------------------


def save(path, tensors, metadata):
    """Writes safetensors: widest numbers first so that all stay aligned, then by name."""
    names = sorted(tensors, key=lambda name: (tensors[name].dtype == torch.float16, name))
    header, offset, body = {"__metadata__": dict(sorted(metadata.items()))}, 0, []
    for name in names:
        tensor = tensors[name].detach().contiguous()
        data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": KINDS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        offset += len(data)
        body.append(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(body))


def load(path):
    """Reads what `save` wrote, as f64."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__")
    kinds = {text: kind for kind, text in KINDS.items()}
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + at for at in entry["data_offsets"])
        flat = torch.frombuffer(bytearray(data[begin:end]), dtype=kinds[entry["dtype"]])
        tensors[name] = flat.to(torch.float64).reshape(entry["shape"])
    return tensors


# --- draws ---------------------------------------------------------------------------------------


class Draw:
    """Random f64 tensors whose values f16 (or f32) represents exactly."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape, scale=1.0):
        return half(torch.randn(shape, generator=self.generator) * scale)

    def uniform(self, *shape, low=0.0, high=1.0):
        return half(low + (high - low) * torch.rand(shape, generator=self.generator))


def half(tensor):
    return tensor.to(torch.float16).to(torch.float64)


def f16(tensor):
    """For inputs only: exact, and half the bytes."""
    short = tensor.detach().to(torch.float16)
    assert torch.equal(short.to(torch.float64), tensor.detach()), "not representable in f16"
    return short


def f32(tensor):
    return tensor.detach().to(torch.float32)


# --- ResNet-18 for 32×32 images ------------------------------------------------------------------


# Where a sum lies within f32's rounding of zero, ReLU's slope is anyone's guess and gradients
# differ by whole terms: seeds are chosen so that no sum comes this close.
CLEARANCE = 1e-5
closest_to_zero = []


def relu(xs):
    closest_to_zero.append(xs.detach().abs().min().item())
    return F.relu(xs)


def shortcut(inputs, outputs, stride):
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
    )


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, xs):
        out = relu(self.bn1(self.conv1(xs)))
        return relu(self.bn2(self.conv2(out)) + self.shortcut(xs))


class PaddedShortcut(nn.Module):
    """Every second pixel, between channels of zeros (option A of He et al. 2016)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.stride, self.zeros = stride, (outputs - inputs) // 2

    def forward(self, xs):
        xs = xs[:, :, :: self.stride, :: self.stride]
        return F.pad(xs, (0, 0, 0, 0, self.zeros, self.zeros))


class PaddedBlock(BasicBlock):
    def __init__(self, inputs, outputs, stride):
        super().__init__(inputs, outputs, stride)
        if len(self.shortcut) > 0:
            self.shortcut = PaddedShortcut(inputs, outputs, stride)


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, xs):
        out = relu(self.bn1(self.conv1(xs)))
        out = relu(self.bn2(self.conv2(out)))
        return relu(self.bn3(self.conv3(out)) + self.shortcut(xs))


class PreactivatedBlock(nn.Module):
    """Batch norm and ReLU come first, and what is projected has passed them (He et al. 2016b)."""

    # Kernel sides of the convolutions; which of them has the block's stride.
    sides, strided = (3, 3), 0

    def __init__(self, inputs, width, stride):
        super().__init__()
        outputs = width * (4 if len(self.sides) == 3 else 1)
        channels = inputs
        for number, side in enumerate(self.sides, 1):
            last = number == len(self.sides)
            self.add_module(f"bn{number}", nn.BatchNorm2d(channels))
            step = stride if number - 1 == self.strided else 1
            conv = nn.Conv2d(channels, outputs if last else width, side, step, side // 2, bias=False)
            self.add_module(f"conv{number}", conv)
            channels = width
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, xs):
        out = relu(self.bn1(xs))
        carried = self.shortcut(out) if hasattr(self, "shortcut") else xs
        for number in range(1, len(self.sides) + 1):
            if number > 1:
                out = relu(getattr(self, f"bn{number}")(out))
            out = getattr(self, f"conv{number}")(out)
        return out + carried


class PreactivatedBottleneck(PreactivatedBlock):
    sides, strided = (1, 3, 1), 1


class WideBlock(nn.Module):
    """The same of two convolutions, with a projection of another name."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        if inputs != outputs:
            self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, xs):
        first = relu(self.bn1(xs))
        out = self.conv2(relu(self.bn2(self.conv1(first))))
        return out + (self.convShortcut(first) if hasattr(self, "convShortcut") else xs)


class WideStage(nn.Module):
    def __init__(self, inputs, outputs, count, stride):
        super().__init__()
        first = WideBlock(inputs, outputs, stride)
        others = [WideBlock(outputs, outputs, 1) for _ in range(count - 1)]
        self.layer = nn.Sequential(first, *others)

    def forward(self, xs):
        return self.layer(xs)


class WideResNet(nn.Module):
    """Three stages, batch norm behind the last sum (Zagoruyko and Komodakis 2016); `width` is that of
    the first stage, 16 times the widening factor."""

    def __init__(self, depth, width, num_classes, mean, std):
        super().__init__()
        count = (depth - 4) // 6
        self.mean = torch.tensor(mean, dtype=torch.float64).reshape(1, 3, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float64).reshape(1, 3, 1, 1)
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = WideStage(16, width, count, 1)
        self.block2 = WideStage(width, 2 * width, count, 2)
        self.block3 = WideStage(2 * width, 4 * width, count, 2)
        self.bn1 = nn.BatchNorm2d(4 * width)
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, images):
        xs = self.conv1((images - self.mean) / self.std)
        xs = relu(self.bn1(self.block3(self.block2(self.block1(xs)))))
        return self.fc(xs.mean((2, 3)))


# Blocks of each stage, and which: He et al. 2016, table 1.
SHALLOW, DEEP, NARROW = (2, 2, 2, 2), (3, 4, 6, 3), (3, 3, 3)
NETWORKS = {
    "resnet18": (SHALLOW, BasicBlock),
    "resnet20": (NARROW, BasicBlock),
    "paddedresnet20": (NARROW, PaddedBlock),
    "resnet34": (DEEP, BasicBlock),
    "resnet50": (DEEP, Bottleneck),
    "preactresnet18": (SHALLOW, PreactivatedBlock),
    "preactresnet50": (DEEP, PreactivatedBottleneck),
}


class ResNet(nn.Module):
    def __init__(self, kind, width, num_classes, mean, std):
        super().__init__()
        stages, block = NETWORKS[kind]
        self.mean = torch.tensor(mean, dtype=torch.float64).reshape(1, 3, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float64).reshape(1, 3, 1, 1)
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        if not issubclass(block, PreactivatedBlock):
            self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage, count in enumerate(stages):
            blocks = []
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(block(inputs, width << stage, stride))
                inputs = (width << stage) * (4 if block in (Bottleneck, PreactivatedBottleneck) else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stages = len(stages)
        self.linear = nn.Linear(inputs, num_classes)

    def forward(self, images):
        xs = self.conv1((images - self.mean) / self.std)
        xs = relu(self.bn1(xs)) if hasattr(self, "bn1") else xs
        for stage in range(self.stages):
            xs = getattr(self, f"layer{stage + 1}")(xs)
        return self.linear(xs.mean((2, 3)))


def float_state(model):
    return {
        name: value.clone()
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def seeded_resnet(draw, width, num_classes, mean, std, images, kind="resnet18"):
    """Weights of the usual scale and running statistics that fit the images, but not exactly."""
    if kind.startswith("wide"):
        depth = int(kind.removeprefix("wideresnet"))
        model = WideResNet(depth, width, num_classes, mean, std).double()
    else:
        model = ResNet(kind, width, num_classes, mean, std).double()
    # A deeper random network amplifies rounding from block to block, unless blocks add little to what
    # passes them, as in a trained one.
    last = {
        "resnet20": "bn2.weight",
        "paddedresnet20": "bn2.weight",
        "resnet34": "bn2.weight",
        "resnet50": "bn3.weight",
        "preactresnet50": "bn3.weight",
    }.get(kind)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 4:
                fan_in = value[0].numel()
                value.copy_(draw.normal(*value.shape, scale=math.sqrt(2.0 / fan_in)))
            elif name in ("linear.weight", "fc.weight"):
                value.copy_(draw.normal(*value.shape, scale=0.3))
            elif name.endswith("weight"):
                value.copy_(draw.uniform(*value.shape, low=0.5, high=1.5))
                if last and name.endswith(last):
                    value *= 0.25
            else:
                value.copy_(draw.uniform(*value.shape, low=-0.2, high=0.2))
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        model(images)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1
                channels = module.num_features
                shift = draw.uniform(channels, low=-0.1, high=0.1)
                factor = draw.uniform(channels, low=0.8, high=1.25)
                module.running_mean.copy_(half(module.running_mean + shift))
                module.running_var.copy_(half(module.running_var * factor))
    return model


LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, SMOOTHING = 0.05, 0.9, 5e-4, 0.1


def small_enough(name):
    """Three quarters of the weights are layer4's: left out where a file would grow for little."""
    return not (name.startswith("layer4") and "conv" in name)


def resnet_case(name, seed, width, num_classes, mean, std, every_gradient, kind="resnet18"):
    draw = Draw(seed)
    images = draw.uniform(3, 3, 32, 32)
    labels = torch.tensor([num_classes - 1, 0, num_classes // 2])
    target_class = 1
    model = seeded_resnet(draw, width, num_classes, mean, std, images, kind)
    closest_to_zero.clear()
    start = float_state(model)
    tensors = {f"state.{key}": f16(value) for key, value in start.items()}
    tensors |= {
        "images": f16(images),
        "labels": labels.to(torch.uint32),
        "normalization.mean": f32(model.mean.reshape(3)),
        "normalization.std": f32(model.std.reshape(3)),
    }

    # Evaluation mode: logits, and what MESA asks a frozen classifier for.
    model.eval()
    pixels = images.clone().requires_grad_()
    logits = model(pixels)
    probability = logits.softmax(1)[:, target_class]
    (pixel_gradient,) = torch.autograd.grad(probability.sum(), pixels)
    tensors |= {
        "evaluation.logits": f32(logits),
        "evaluation.probability": f32(probability),
        "evaluation.pixel_gradient": f32(pixel_gradient),
    }

    # Training mode: loss with and without label smoothing, every gradient, running statistics.
    model.train()
    parameters = dict(model.named_parameters())
    logits = model(images)
    hard = F.cross_entropy(logits, labels)
    smooth = F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
    hard_gradients = torch.autograd.grad(hard, parameters.values(), retain_graph=True)
    gradients = torch.autograd.grad(smooth, parameters.values())
    tensors |= {
        "training.logits": f32(logits),
        "training.loss": f32(hard.reshape(1)),
        "training.smooth_loss": f32(smooth.reshape(1)),
    }
    for key, value in float_state(model).items():
        if "running" in key:
            tensors[f"training.state.{key}"] = f32(value)
    for key, gradient in zip(parameters, hard_gradients):
        if key.startswith(("conv1", "bn1", "linear", "fc")):
            tensors[f"training.gradient.{key}"] = f32(gradient)
    heavy = {}
    for key, gradient in zip(parameters, gradients):
        if small_enough(key) or every_gradient:
            heavy[f"training.smooth_gradient.{key}"] = f32(gradient)

    # Two steps of SGD on the smoothed loss of the same batch: the second one starts from a
    # momentum buffer that is not zero.
    model.load_state_dict(start, strict=False)
    # Small, so that the second step starts near what the seed was chosen for.
    learning_rate = LEARNING_RATE if kind.endswith(("16", "18")) else LEARNING_RATE / 100
    optimizer = torch.optim.SGD(
        parameters.values(), lr=learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels, label_smoothing=SMOOTHING).backward()
        optimizer.step()
    for key, value in float_state(model).items():
        if small_enough(key):
            heavy[f"two_steps.{key}"] = f32(value)

    # Of many more sums one comes closer, whatever the seed.
    clearance = CLEARANCE / 2 if kind.endswith("50") else CLEARANCE
    assert min(closest_to_zero) > clearance, f"{name}: {min(closest_to_zero)}: try another seed"
    metadata = {
        "architecture": kind,
        "width": str(width),
        "num_classes": str(num_classes),
        "target_class": str(target_class),
        "learning_rate": str(learning_rate),
        "momentum": str(MOMENTUM),
        "weight_decay": str(WEIGHT_DECAY),
        "label_smoothing": str(SMOOTHING),
    }
    return {name: (tensors, metadata), f"{name}_steps": (heavy, metadata)}


# --- layers --------------------------------------------------------------------------------------


def convolution_cases():
    """3×3 (stride 1 and 2, padding 1) and 1×1 (stride 2) convolutions of odd shapes."""
    draw, tensors = Draw(3), {}
    for kernel, stride in [(3, 1), (3, 2), (1, 2)]:
        for inputs, outputs, height, width in [(3, 5, 5, 7), (17, 33, 8, 8), (16, 32, 6, 4)]:
            case = f"k{kernel}s{stride}_{inputs}to{outputs}_{height}x{width}"
            xs = draw.normal(2, inputs, height, width).requires_grad_()
            weight = draw.normal(outputs, inputs, kernel, kernel, scale=0.3).requires_grad_()
            out = F.conv2d(xs, weight, stride=stride, padding=kernel // 2)
            upstream = draw.normal(*out.shape)
            grad_input, grad_weight = torch.autograd.grad(out, (xs, weight), upstream)
            tensors |= {
                f"{case}.input": f16(xs),
                f"{case}.weight": f16(weight),
                f"{case}.output_gradient": f16(upstream),
                f"{case}.output": f32(out),
                f"{case}.input_gradient": f32(grad_input),
                f"{case}.weight_gradient": f32(grad_weight),
            }
    return {"convolution": (tensors, {"layout": "NCHW, OIHW; padding is kernel / 2"})}


def batch_norm_cases():
    """Batch norm in training mode, optionally with a residual added, always ReLU at the end."""
    draw, tensors = Draw(4), {}
    for channels, height, width in [(5, 5, 7), (33, 3, 2), (16, 4, 4)]:
        for with_residual in (False, True):
            case = f"c{channels}_{height}x{width}_{'residual' if with_residual else 'plain'}"
            shape = (3, channels, height, width)
            xs = (draw.normal(*shape) + half(draw.normal(1, channels, 1, 1))).detach()
            xs = half(xs).requires_grad_()
            residual = draw.normal(*shape).requires_grad_()
            weight = draw.uniform(channels, low=0.5, high=1.5).requires_grad_()
            bias = draw.normal(channels, scale=0.3).requires_grad_()
            mean = draw.normal(channels)
            variance = draw.uniform(channels, low=0.5, high=2.0)
            running_mean, running_variance = mean.clone(), variance.clone()
            out = F.batch_norm(xs, running_mean, running_variance, weight, bias, True, 0.1, 1e-5)
            out = F.relu(out + residual) if with_residual else F.relu(out)
            upstream = draw.normal(*shape)
            wanted = {"input": xs, "weight": weight, "bias": bias}
            if with_residual:
                wanted["residual"] = residual
                tensors[f"{case}.residual"] = f16(residual)
            gradients = torch.autograd.grad(out, list(wanted.values()), upstream)
            for key, gradient in zip(wanted, gradients):
                tensors[f"{case}.{key}_gradient"] = f32(gradient)
            tensors |= {
                f"{case}.input": f16(xs),
                f"{case}.weight": f16(weight),
                f"{case}.bias": f16(bias),
                f"{case}.running_mean": f16(mean),
                f"{case}.running_var": f16(variance),
                f"{case}.output_gradient": f16(upstream),
                f"{case}.output": f32(out),
                f"{case}.next_running_mean": f32(running_mean),
                f"{case}.next_running_var": f32(running_variance),
            }
    return {"batch_norm": (tensors, {"eps": "1e-5", "momentum": "0.1"})}


def adam_case():
    """Three steps of Adam on given gradients, after each step."""
    draw, tensors = Draw(5), {}
    parameter = nn.Parameter(draw.normal(37))
    tensors["start"] = f16(parameter)
    optimizer = torch.optim.Adam([parameter], lr=2e-4, betas=(0.5, 0.999), eps=1e-8)
    for step in (1, 2, 3):
        parameter.grad = draw.normal(37, scale=0.5)
        tensors[f"gradient.{step}"] = f16(parameter.grad)
        optimizer.step()
        tensors[f"adam.{step}"] = f32(parameter)
    return {"adam": (tensors, {"settings": "2e-4, 0.5, 0.999, 1e-8"})}


# --- MESA ----------------------------------------------------------------------------------------


class Generator(nn.Module):
    """Noise in four parts: the first enters, each of the others joins before a further layer."""

    def __init__(self, noise_dim, width, outputs):
        super().__init__()
        self.part = noise_dim // 4
        self.fc1 = nn.Linear(self.part, width)
        self.bn1 = nn.BatchNorm1d(width)
        self.fc2 = nn.Linear(width + self.part, width)
        self.bn2 = nn.BatchNorm1d(width)
        self.fc3 = nn.Linear(width + self.part, width)
        self.bn3 = nn.BatchNorm1d(width)
        self.fc4 = nn.Linear(width + self.part, outputs)

    def forward(self, noise):
        parts = noise.split(self.part, 1)
        xs = F.leaky_relu(self.bn1(self.fc1(parts[0])), 0.2)
        xs = F.leaky_relu(self.bn2(self.fc2(torch.cat([xs, parts[1]], 1))), 0.2)
        xs = F.leaky_relu(self.bn3(self.fc3(torch.cat([xs, parts[2]], 1))), 0.2)
        return torch.sigmoid(self.fc4(torch.cat([xs, parts[3]], 1)))


class StatisticsNetwork(nn.Module):
    def __init__(self, noise_dim, inputs, width):
        super().__init__()
        self.fc_noise = nn.Linear(noise_dim, width, bias=False)
        self.fc_trigger = nn.Linear(inputs, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, 1)

    def forward(self, noise, triggers):
        xs = F.leaky_relu(self.fc_noise(noise) + self.fc_trigger(triggers) + self.bias, 0.2)
        return F.leaky_relu(self.fc3(F.leaky_relu(self.fc2(xs), 0.2)), 0.2).squeeze(1)


def seed_parameters(draw, model):
    with torch.no_grad():
        for value in model.parameters():
            scale = 0.3 if value.dim() == 1 else 1.5 / math.sqrt(value.shape[1])
            value.copy_(draw.normal(*value.shape, scale=scale))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.weight.copy_(draw.uniform(module.num_features, low=0.5, high=1.5))
                module.running_mean.copy_(draw.normal(module.num_features, scale=0.3))
                module.running_var.copy_(draw.uniform(module.num_features, low=0.5, high=2.0))


def mesa_case():
    """One iteration of Algorithm 2 on the testing function F(x) = sigmoid(w·x + c)."""
    noise_dim, width, batch_size, dim = 8, 12, 9, 27
    beta, alpha, rate, average = 0.8, 0.1, 0.001, 1.5
    draw, tensors = Draw(6), {}
    generator = Generator(noise_dim, width, dim).double()
    statistics = StatisticsNetwork(noise_dim, dim, width).double()
    seed_parameters(draw, generator)
    seed_parameters(draw, statistics)
    for key, value in float_state(generator).items():
        tensors[f"generator.{key}"] = f16(value)
    for key, value in float_state(statistics).items():
        tensors[f"statistics.{key}"] = f16(value)
    noises = {
        name: draw.uniform(batch_size, noise_dim)
        for name in ("g_step.noise", "g_step.fresh_noise", "t_step.noise", "t_step.fresh_noise")
    }
    trigger_noise = draw.normal(batch_size, dim, scale=0.1)
    direction, offset = draw.normal(dim), -4.0
    tensors |= {name: f16(value) for name, value in noises.items()}
    tensors |= {"g_step.trigger_noise": f16(trigger_noise), "direction": f16(direction)}

    generator.eval()
    triggers = generator(noises["g_step.noise"])
    scores = statistics(noises["g_step.noise"], triggers)
    tensors |= {"evaluation.triggers": f32(triggers), "evaluation.scores": f32(scores)}

    # G: mean max(0, beta − F(x + 0.1 eps)) − alpha · I, the noise for the testing function only.
    generator.train()
    parameters = dict(generator.named_parameters())
    triggers = generator(noises["g_step.noise"])
    values = torch.sigmoid((triggers + trigger_noise) @ direction + offset)
    assert 0 < (values < beta).sum() < batch_size, "both sides of the hinge"
    hinge = (beta - values).clamp(min=0).mean()
    matched = statistics(noises["g_step.noise"], triggers)
    mismatched = statistics(noises["g_step.fresh_noise"], triggers)
    information = matched.mean() - (mismatched.exp().mean() + 1e-8).log()
    objective = hinge - alpha * information
    (value_gradient,) = torch.autograd.grad(values.sum(), triggers, retain_graph=True)
    gradients = torch.autograd.grad(objective, parameters.values())
    tensors |= {
        "g_step.triggers": f32(triggers),
        "g_step.values": f32(values),
        "g_step.value_gradient": f32(value_gradient),
        "g_step.hinge": f32(hinge.reshape(1)),
        "g_step.matched": f32(matched),
        "g_step.mismatched": f32(mismatched),
        "g_step.information": f32(information.reshape(1)),
        "g_step.objective": f32(objective.reshape(1)),
    }
    optimizer = torch.optim.Adam(parameters.values(), lr=2e-4, betas=(0.5, 0.999))
    for (key, value), gradient in zip(parameters.items(), gradients):
        tensors[f"g_step.gradient.{key}"] = f32(gradient)
        value.grad = gradient
    optimizer.step()
    for key, value in float_state(generator).items():
        tensors[f"g_step.next.{key}"] = f32(value)

    # T: the same bound, the second term's gradient divided by a moving average that is updated
    # before it is used; G, already stepped, in training mode once more.
    parameters = dict(statistics.named_parameters())
    with torch.no_grad():
        triggers = generator(noises["t_step.noise"])
    matched = statistics(noises["t_step.noise"], triggers)
    exponential = statistics(noises["t_step.fresh_noise"], triggers).exp().mean()
    next_average = (1 - rate) * average + rate * exponential.detach()
    loss = -(matched.mean() - exponential / next_average)
    gradients = torch.autograd.grad(loss, parameters.values())
    tensors |= {
        "t_step.triggers": f32(triggers),
        "t_step.information": f32((matched.mean() - exponential.log()).reshape(1)),
        "t_step.next_average": f32(next_average.reshape(1)),
    }
    optimizer = torch.optim.Adam(parameters.values(), lr=2e-4, betas=(0.5, 0.999))
    for (key, value), gradient in zip(parameters.items(), gradients):
        tensors[f"t_step.gradient.{key}"] = f32(gradient)
        value.grad = gradient
    optimizer.step()
    for key, value in float_state(statistics).items():
        tensors[f"t_step.next.{key}"] = f32(value)
    for key, value in float_state(generator).items():
        if "running" in key:
            tensors[f"t_step.generator.{key}"] = f32(value)
    metadata = {
        "beta": str(beta),
        "alpha": str(alpha),
        "noise_dim": str(noise_dim),
        "width": str(width),
        "offset": str(offset),
        "moving_average": str(average),
        "moving_average_rate": str(rate),
        "learning_rate": "2e-4",
    }
    return {"mesa": (tensors, metadata)}


# --- checkpoints that PyTorch saved ---------------------------------------------------------------


def checkpoint_files():
    """Contents of `.pth` files, and the case that says what the networks in them compute."""
    draw = Draw(7)
    images = draw.uniform(3, 3, 32, 32)
    contents, logits = checkpoints.files(
        lambda width, num_classes, kind="resnet18": seeded_resnet(
            draw, width, num_classes, *CIFAR10, images, kind
        ),
        images,
    )
    tensors = {f"{name}.logits": f32(value) for name, value in logits.items()}
    metadata = {"normalization": "cifar10", "torch": torch.__version__.split("+")[0]}
    return contents, {"checkpoints": (tensors | {"images": f16(images)}, metadata)}


# --- all of them ---------------------------------------------------------------------------------

CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CIFAR100 = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))


def cases():
    from step_accuracy import step_accuracy_case

    return (
        resnet_case("resnet18_w4", 3, 4, 10, *CIFAR10, every_gradient=True)
        | resnet_case("resnet18_w5", 4, 5, 7, *CIFAR100, every_gradient=False)
        | resnet_case("resnet20_w2", 25, 2, 10, *CIFAR10, every_gradient=True, kind="resnet20")
        | resnet_case("paddedresnet20_w2", 35, 2, 10, *CIFAR10, every_gradient=True, kind="paddedresnet20")
        | resnet_case("resnet34_w2", 447, 2, 10, *CIFAR10, every_gradient=True, kind="resnet34")
        | resnet_case("resnet50_w2", 526, 2, 10, *CIFAR10, every_gradient=True, kind="resnet50")
        | resnet_case("preactresnet18_w5", 14, 5, 7, *CIFAR100, every_gradient=True, kind="preactresnet18")
        | resnet_case("preactresnet50_w2", 230, 2, 10, *CIFAR10, every_gradient=True, kind="preactresnet50")
        | resnet_case("wideresnet16_w5", 8, 5, 10, *CIFAR10, every_gradient=True, kind="wideresnet16")
        | convolution_cases()
        | batch_norm_cases()
        | adam_case()
        | mesa_case()
        | step_accuracy_case()
    )


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    contents, logits = checkpoint_files()
    for name, (tensors, metadata) in (cases() | logits).items():
        save(folder / f"{name}.safetensors", tensors, metadata)
    # What PyTorch writes differs with its version: a rewrite keeps to what was asked for.
    (folder / "checkpoints").mkdir(exist_ok=True)
    for name, content in contents.items():
        suffix = "pth.tar" if name.endswith("legacy") else "pth"
        (folder / "checkpoints" / f"{name}.{suffix}").write_bytes(content)


def differences(expected, found):
    """What of two folders differs by more than a few units of the last place of f32."""
    names = sorted({path.name for folder in (expected, found) for path in folder.glob("*.safetensors")})
    for name in names:
        if not (expected / name).exists() or not (found / name).exists():
            yield f"{name}: only in {expected if (expected / name).exists() else found}"
            continue
        old, new = load(expected / name), load(found / name)
        for key in sorted(old.keys() | new.keys()):
            if key not in old or key not in new or old[key].shape != new[key].shape:
                yield f"{name}: {key}: missing or of another shape"
            elif (gap := (old[key] - new[key]).abs().max()) > 1e-6 * (1 + old[key].abs().max()):
                yield f"{name}: {key}: differs by {gap:.3g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=HERE, help="folder to write to")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if not arguments.check:
        write(arguments.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(pathlib.Path(folder))
        found = list(differences(arguments.out, pathlib.Path(folder)))
    print("\n".join(found) or "the reference vectors are current")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
