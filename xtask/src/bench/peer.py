"""PyTorch's side of `cargo xtask bench --peer`, as a competent user of PyTorch writes it: f32,
channels last, oneDNN, fused optimizers, `inference_mode`; eager or `torch.compile`, whichever
turns out faster.

Says `ready NAME`, then answers each line on standard input:

- `go N`: the seconds that one of N steps took. A step before them is not counted. For a trigger,
  the seconds of a whole one, and of each stage as `STAGE=SECONDS`.
- `memory`: what the process held once torch was imported and the most it has held since, in MiB.

Ends when standard input does. Our side speaks the same protocol.
"""

import argparse
import pathlib
import sys
import time

import torch

import peer_stages
import peer_works as works


def held_mb():
    """The most that this process has held so far, in MiB."""
    status = pathlib.Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def variants(args):
    if args.work == "train":
        return works.train_variants(works.random_batch(args.batch_size), args.width)
    if args.work == "evaluate":
        return works.inference_variants(works.random_batch(args.batch_size)[0], args.width)
    return works.mesa_variants(args.width, args.batch_size, args.work == "mesa-frozen")


def steps(step):
    """What `go N` does where a step is a step."""

    def go(count):
        step()
        started = time.perf_counter()
        for _ in range(count):
            step()
        return (time.perf_counter() - started) / count

    return go


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = ("train", "evaluate", "mesa", "mesa-frozen", "trigger")
    parser.add_argument("--work", choices=kinds, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--compile-s", type=int, default=90, help="0: eager only")
    parser.add_argument("--stages", default="", help="NAME:TIMES:SIZE:PART, separated by commas")
    parser.add_argument("--whole", action="store_true", help="a trigger's stages whole")
    args = parser.parse_args()

    start = held_mb()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    def choose(candidates):
        if args.compile_s == 0:
            candidates = {name: make for name, make in candidates.items() if name != "compiled"}
        return works.fastest(candidates, args.compile_s)

    if args.work == "trigger":
        name, go = peer_stages.trigger(args, choose)
    else:
        name, step = choose(variants(args))
        go = steps(step)
    print(f"ready PyTorch {torch.__version__}, f32, channels last; {name}", flush=True)
    for line in sys.stdin:
        request, _, count = line.strip().partition(" ")
        answer = go(int(count)) if request == "go" else f"{start} {held_mb()}"
        print(answer, flush=True)


if __name__ == "__main__":
    main()
