"""PyTorch's side of `mesa gpu measure`, as a competent user of PyTorch writes it: bf16 autocast,
channels last, cuDNN's autotuning, the fused optimizer; eager or `torch.compile`.

Says `ready SECONDS NAME`, then answers each line `go N` on standard input with the seconds that one
of N steps took, the GPU waited for. A step before them is not counted. Ends when its input does.
"""

import argparse
import random
import sys
import time

STARTED = time.perf_counter()  # Importing torch takes seconds.

import torch
from torch.nn import functional as F

from perceptrons import ALPHA, NOISE, TRIGGER, Generator, StatisticsLoss, StatisticsNetwork
from perceptrons import information
from resnet import ResNet18

CLASSES, TARGET, BETA = 10, 0, 0.9
COMPILED = {"compile": "default", "reduce-overhead": "reduce-overhead"}


def channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last)


def network(args):
    return ResNet18(args.width, CLASSES).to(args.device, memory_format=torch.channels_last)


def forward_of(classifier, variant):
    if variant == "eager":
        return classifier
    return torch.compile(classifier, mode=COMPILED[variant])


def random_images(args):
    return channels_last(torch.randn(args.batch_size, 3, 32, 32, device=args.device))


def train(args):
    """A training step on one batch again and again; the images are ready-made floats."""
    classifier = network(args).train()
    settings = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
    optimizer = torch.optim.SGD(classifier.parameters(), fused=True, **settings)
    forward = forward_of(classifier, args.variant)
    images = random_images(args)
    labels = torch.randint(0, CLASSES, (args.batch_size,), device=args.device)

    def step():
        with torch.autocast(args.device, torch.bfloat16):
            loss = F.cross_entropy(forward(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def mesa(args):
    """The classifier's part of MESA's step: triggers stamped at one place of a batch, forward, and
    the gradient of the triggers.

    The authors leave the classifier's weights requiring gradients, which backward then computes and
    nobody uses; `mesa-frozen` spares that.
    """
    classifier = network(args).eval()
    if args.work == "mesa-frozen":
        classifier.requires_grad_(False)
    forward = forward_of(classifier, args.variant)
    images = random_images(args)
    triggers = torch.rand(args.batch_size, TRIGGER, device=args.device, requires_grad=True)

    def step():
        triggers.grad = None
        classifier.zero_grad(set_to_none=True)
        stamped = images.clone(memory_format=torch.channels_last)
        stamped[:, :, 7:10, 11:14] = triggers.view(-1, 3, 3, 3)
        with torch.autocast(args.device, torch.bfloat16):
            logits = forward(stamped)
        probability = logits.float().softmax(1)[:, TARGET]
        loss = -probability.clamp(max=BETA).mean()
        loss.backward()

    return step


def fit(args):
    """A whole iteration of a fit, as the authors wrote it: a step of the generator through the
    classifier, which is the only one in bf16, then one of the statistics network.
    """
    classifier = network(args).eval()
    forward = forward_of(classifier, args.variant)
    generator = Generator().to(args.device).train()
    statistics = StatisticsNetwork().to(args.device)
    of_generator, of_statistics = (
        torch.optim.Adam(own.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True)
        for own in (generator, statistics)
    )
    images, statistics_loss = random_images(args), StatisticsLoss()

    def generator_step():
        noise, fresh = torch.rand(2, args.batch_size, NOISE, device=args.device)
        triggers = generator(noise)
        noised = triggers + 0.1 * torch.randn_like(triggers)
        stamped = images.clone(memory_format=torch.channels_last)
        row, column = random.randrange(30), random.randrange(30)
        stamped[:, :, row : row + 3, column : column + 3] = noised.view(-1, 3, 3, 3)
        with torch.autocast(args.device, torch.bfloat16):
            logits = forward(stamped)
        probability = logits.float().softmax(1)[:, TARGET]
        bound = information(statistics, noise, fresh, triggers)
        loss = -probability.clamp(max=BETA).mean() - ALPHA * bound
        of_generator.zero_grad(set_to_none=True)
        loss.backward()
        of_generator.step()

    def statistics_step():
        noise, fresh = torch.rand(2, args.batch_size, NOISE, device=args.device)
        with torch.no_grad():
            triggers = generator(noise)
        loss = statistics_loss(statistics, noise, fresh, triggers)
        of_statistics.zero_grad(set_to_none=True)
        loss.backward()
        of_statistics.step()

    def step():
        generator_step()
        statistics_step()

    return step


def matrices(args):
    """The product of two square matrices in bf16."""
    side = 64 if args.quick else 8192
    a, b = torch.randn(2, side, side, device=args.device, dtype=torch.bfloat16)
    return lambda: a @ b


def copy(args):
    """A copy of a buffer, 4 bytes a value."""
    source = torch.randn(1 << (10 if args.quick else 28), device=args.device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


WORKS = {
    "train": train,
    "mesa": mesa,
    "mesa-frozen": mesa,
    "fit": fit,
    "matrices": matrices,
    "copy": copy,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", choices=WORKS, required=True)
    parser.add_argument("--variant", choices=("eager", *COMPILED), required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--gpu", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if not args.quick and not torch.cuda.is_available():
        sys.exit("torch sees no GPU")
    torch.manual_seed(0)
    args.device = "cpu" if args.quick and not torch.cuda.is_available() else "cuda"
    name = f"PyTorch {torch.__version__}"
    if args.device == "cuda":
        torch.cuda.set_device(args.gpu)
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        name += f", cuDNN {torch.backends.cudnn.version()}"
    wait = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    # What is printed on standard output by others would be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    step = WORKS[args.work](args)
    for _ in range(2 if args.quick else 5):
        step()
    wait()
    print(f"ready {time.perf_counter() - STARTED:.2f} {name}", file=answers, flush=True)
    for line in sys.stdin:
        count = int(line.split()[1])
        step()
        wait()
        started = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        print((time.perf_counter() - started) / count, file=answers, flush=True)


if __name__ == "__main__":
    main()
