"""Training, inference and MESA of `peer.py`, each as a function that takes one step.

A work is given as variants to choose from: the same step eager and compiled. `fastest` runs each a
few times and keeps the best; a variant that fails or takes too long to compile is left out.
"""

import signal
import sys
import time

import torch
from torch.nn import functional as F

from peer_networks import ALPHA, NOISE, Generator, ResNet18, StatisticsLoss, StatisticsNetwork
from peer_networks import adam, fold, information, sgd

CLASSES, TARGET, BETA = 10, 0, 0.9
MEAN = torch.tensor((0.4914, 0.4822, 0.4465)).reshape(1, 3, 1, 1)
STD = torch.tensor((0.2023, 0.1994, 0.2010)).reshape(1, 3, 1, 1)
MODELING_IMAGES, EVALUATION_IMAGES = 8_000, 2_000


class TooSlow(BaseException):
    """Not an Exception: the compiler would take it for a reason to fall back."""


def too_slow(*_):
    raise TooSlow


def stop_compiling():
    """Workers would go on while others are measured."""
    # Not at the top: the compiler is 150 MiB that eager code does without.
    from torch._inductor.async_compile import shutdown_compile_workers

    shutdown_compile_workers()


def fastest(variants, limit_s, tries=3):
    """(name, step) of the fastest variant, and in the name why others were left out."""
    if len(variants) == 1:
        ((name, make),) = variants.items()
        return name, make()
    signal.signal(signal.SIGALRM, too_slow)
    found, remarks = [], []
    for name, make in variants.items():
        try:
            # Eager code always counts; what is compiled has to be ready in time.
            signal.alarm(0 if name.startswith("eager") else limit_s)
            step = make()
            step()
            signal.alarm(0)
            times = []
            for _ in range(tries):
                started = time.perf_counter()
                step()
                times.append(time.perf_counter() - started)
            found.append((min(times), name, step))
        except TooSlow:
            stop_compiling()
            remarks.append(f"{name}: over {limit_s} s")
        except Exception as error:
            print(f"{name}: {error!r}", file=sys.stderr)
            remarks.append(f"{name}: {type(error).__name__}")
        finally:
            signal.alarm(0)
    seconds, name, step = min(found, key=lambda each: each[0])
    others = [f"{other} {other_s / seconds:.2f} x" for other_s, other, _ in found if other != name]
    remarks = ", ".join(others + remarks)
    return (f"{name} ({remarks})" if remarks else name), step


def channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last)


def network(width):
    return ResNet18(width, CLASSES).to(memory_format=torch.channels_last)


def random_batch(batch_size):
    labels = torch.randint(0, CLASSES, (batch_size,))
    return channels_last(torch.rand(batch_size, 3, 32, 32)), labels


# --- training and inference ----------------------------------------------------------------------


def train_step(width, compiled):
    """A function of images and labels that trains on them."""
    classifier = network(width).train()
    optimizer = sgd(classifier)
    forward = torch.compile(classifier) if compiled else classifier

    def step(images, labels):
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def on(batch, make):
    """The step that `make` returns, on one batch again and again."""

    def made():
        step = make()
        return lambda: step(*batch)

    return made


def train_variants(batch, width):
    return {
        "eager": on(batch, lambda: train_step(width, False)),
        "compiled": on(batch, lambda: train_step(width, True)),
    }


def inference(width, variant):
    """A function of images that returns logits."""
    classifier = network(width).eval()
    if variant == "compiled":
        from torch._inductor import config

        # Folds batch norm and lays weights out for the convolution, as one would for serving.
        config.freezing = True
        forward = torch.compile(classifier)
    else:
        forward = fold(classifier) if variant == "eager, folded" else classifier

    def step(images):
        # Freezing asks for no_grad: inference tensors have no versions to guard.
        with torch.no_grad() if variant == "compiled" else torch.inference_mode():
            # A last, smaller batch would have it compiled once more.
            small = variant == "compiled" and len(images) < step.compiled_for
            return (classifier if small else forward)(images)

    step.compiled_for = 0
    return step


def inference_variants(images, width):
    names = ("eager", "eager, folded", "compiled")
    return {name: on((images,), lambda name=name: inference(width, name)) for name in names}


# --- MESA ----------------------------------------------------------------------------------------


class Mesa:
    """One iteration as the authors wrote it: a step of G, then one of T.

    One place for a whole batch, as in their code. They leave the classifier's weights requiring
    gradients, which backward then computes and nobody uses; `frozen` spares that.
    """

    def __init__(self, width, batch_size, frozen, compiled):
        self.classifier = network(width).eval()
        if frozen:
            self.classifier.requires_grad_(False)
        self.forward = torch.compile(self.classifier) if compiled else self.classifier
        self.generator, self.statistics = Generator().train(), StatisticsNetwork()
        self.generator_adam, self.statistics_adam = adam(self.generator), adam(self.statistics)
        self.images = channels_last((torch.rand(MODELING_IMAGES, 3, 32, 32) - MEAN) / STD)
        self.batch_size, self.order = batch_size, iter(())
        self.statistics_loss = StatisticsLoss()

    def next_images(self):
        indices = next(self.order, None)
        if indices is None:
            whole = torch.randperm(len(self.images)).split(self.batch_size)
            self.order = iter([part for part in whole if len(part) == self.batch_size])
            indices = next(self.order)
        return channels_last(self.images[indices])

    def __call__(self):
        self.generator_step()
        self.statistics_step()

    def generator_step(self):
        images = self.next_images()
        noise, fresh = torch.rand(2, self.batch_size, NOISE)
        triggers = self.generator(noise)
        noised = triggers + 0.1 * torch.randn_like(triggers)
        row, column = torch.randint(0, 30, (2,)).tolist()
        patches = (noised.view(-1, 3, 3, 3) - MEAN) / STD
        images[:, :, row : row + 3, column : column + 3] = patches
        probability = self.forward(images).softmax(1)[:, TARGET]
        bound = information(self.statistics, noise, fresh, triggers)
        loss = -probability.clamp(max=BETA).mean() - ALPHA * bound
        self.generator_adam.zero_grad(set_to_none=True)
        loss.backward()
        self.generator_adam.step()
        assert probability.max() < BETA, "an image reached beta: less work than counted"

    def statistics_step(self):
        noise, fresh = torch.rand(2, self.batch_size, NOISE)
        with torch.no_grad():
            triggers = self.generator(noise)
        loss = self.statistics_loss(self.statistics, noise, fresh, triggers)
        self.statistics_adam.zero_grad(set_to_none=True)
        loss.backward()
        self.statistics_adam.step()


def mesa_variants(width, batch_size, frozen):
    return {
        "eager": lambda: Mesa(width, batch_size, frozen, False),
        "compiled": lambda: Mesa(width, batch_size, frozen, True),
    }
