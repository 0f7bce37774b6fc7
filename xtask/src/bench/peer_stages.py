"""One trigger of `peer.py`: the stages of preset `cpu`, as `trigger.rs` counts them.

Images lie in memory as normalized f32, ready for the network; patches are stamped on them there.
The fit runs with the classifier frozen, the faster of both formulations.
"""

import time

import torch

import peer_works as works
from peer_networks import NOISE, Generator, StatisticsLoss, StatisticsNetwork, adam

BATCH, ATTACK_IMAGES, RATE_STAMPED, SAMPLE_IMAGES = 128, 5_120, 0.01, 64
ENTROPY_BATCH, ENTROPY_STEPS, HELD_OUT, HELD_OUT_CHUNK = 256, 1_000, 16_384, 1_024
WARM = 2


def stamp(images, patches):
    """Stamps patches, or one patch, on images, each at a place of its own."""
    rows, columns = torch.randint(0, 30, (2, len(images), 1, 1, 1))
    image = torch.arange(len(images)).view(-1, 1, 1, 1)
    channel = torch.arange(3).view(1, 3, 1, 1)
    line, cell = torch.arange(3).view(1, 1, 3, 1), torch.arange(3)
    images[image, channel, rows + line, columns + cell] = (patches - works.MEAN) / works.STD


def pictures(count):
    images = works.channels_last((torch.rand(count, 3, 32, 32) - works.MEAN) / works.STD)
    return images, torch.arange(count) % works.CLASSES


def sample(generator, count):
    with torch.inference_mode():
        return generator(torch.rand(count, NOISE)).view(-1, 3, 3, 3)


def training(step, count, patches, relabel):
    """Steps on shuffled batches of which each image is stamped with probability 0.01."""
    images, labels = pictures(count)

    def endless():
        while True:
            for indices in torch.randperm(count).split(BATCH):
                if len(indices) == BATCH:
                    yield indices

    batches = endless()

    def advance(steps):
        for _ in range(steps):
            indices = next(batches)
            xs, ys = works.channels_last(images[indices]), labels[indices]
            (hit,) = torch.where(torch.rand(BATCH) < RATE_STAMPED)
            if len(hit):
                stamped = xs[hit]
                stamp(stamped, patches(len(hit)))
                xs[hit] = stamped
                if relabel:
                    ys[hit] = works.TARGET
            step(xs, ys)

    return advance


def evaluation(predict, patch):
    """Clean accuracy and attack success rate of the first `count` images."""
    images, labels = pictures(works.EVALUATION_IMAGES)

    def share(xs, ys):
        right = 0
        for batch, truth in zip(xs.split(BATCH), ys.split(BATCH)):
            right += (predict(batch).argmax(1) == truth).sum().item()
        return right / len(ys)

    def advance(count):
        xs, ys = images[:count], labels[:count]
        share(xs, ys)
        others = works.channels_last(xs[ys != works.TARGET])
        stamp(others, patch)
        share(others, torch.full((len(others),), works.TARGET))

    return advance


def samples(predict, generator):
    """Each sample on 64 images, two samples in a batch."""
    images, labels = pictures(works.MODELING_IMAGES)
    images = works.channels_last(images[labels != works.TARGET])

    def advance(count):
        found = sample(generator, count).repeat_interleave(SAMPLE_IMAGES, 0)
        probabilities = []
        for start in range(0, len(found), BATCH):
            patches = found[start : start + BATCH]
            batch = images[torch.arange(start, start + len(patches)) % len(images)]
            batch = works.channels_last(batch)
            stamp(batch, patches)
            probabilities.append(predict(batch).softmax(1)[:, works.TARGET])
        return torch.cat(probabilities).mean().item()

    return advance


def entropy(generator):
    """A fresh statistics network on noisy triggers, then its bound on held-out noise."""

    def pairs(count):
        noise, fresh = torch.rand(2, count, NOISE)
        with torch.no_grad():
            triggers = generator(noise)
        return noise, fresh, triggers + 0.1 * torch.randn_like(triggers)

    def advance(steps):
        statistics, loss_of = StatisticsNetwork(), StatisticsLoss()
        optimizer = adam(statistics, 1e-3)
        for _ in range(steps):
            loss = loss_of(statistics, *pairs(ENTROPY_BATCH))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        left = HELD_OUT * steps // ENTROPY_STEPS
        with torch.inference_mode():
            for start in range(0, left, HELD_OUT_CHUNK):
                noise, fresh, noised = pairs(min(HELD_OUT_CHUNK, left - start))
                statistics(noise, noised).mean().item()
                statistics(fresh, noised).exp().mean().item()

    return advance


def repeat(step):
    def advance(count):
        for _ in range(count):
            step()

    return advance


def trigger(args, choose):
    """(name, go): the seconds of one trigger, from a part of each stage or from the whole."""
    batch = works.random_batch(BATCH)
    train_name, _ = choose(works.train_variants(batch, args.width))
    predict_name, _ = choose(works.inference_variants(batch[0], args.width))
    fit_name, fit = choose(works.mesa_variants(args.width, BATCH, frozen=True))

    def train_step():
        return works.train_step(args.width, train_name.startswith("compiled"))

    predict = works.inference(args.width, predict_name.split(" (")[0])
    predict.compiled_for = BATCH
    generator, patch = Generator().eval(), torch.rand(1, 3, 3, 3)
    advances = {
        "attack": training(train_step(), ATTACK_IMAGES, lambda count: patch, relabel=True),
        "fit": repeat(fit),
        "retrain": training(
            train_step(), works.MODELING_IMAGES, lambda count: sample(generator, count), False
        ),
        "evaluate": evaluation(predict, patch),
        "samples": samples(predict, generator),
        "entropy": entropy(generator),
    }
    stages = [stage.split(":") for stage in args.stages.split(",")]
    stages = [(name, *map(int, numbers)) for name, *numbers in stages]

    def go(turns):
        total, details = 0.0, ""
        for name, times, size, part in stages:
            advance, seconds = advances[name], 0.0
            for _ in range(turns):
                advance(WARM * -(-part // 20))
                started = time.perf_counter()
                if args.whole:
                    for _ in range(times):
                        advance(size)
                    seconds += time.perf_counter() - started
                else:
                    advance(part)
                    seconds += (time.perf_counter() - started) * times * size / part
            total += seconds / turns
            details += f" {name}={seconds / turns}"
        return f"{total}{details}"

    return f"train {train_name}, inference {predict_name}, fit {fit_name}", go
