"""Measure what the library's fast paths cost, as ratios within one run.

    OMP_NUM_THREADS=1 python scripts/benchmark.py collision

`collision`: one evaluation of the gradient collision loss and its gradients on a ViT-Ti shape (5.5 M parameters):
naive (every chunk's graph alive, all pairs, double backward) against this library's two back ends, relative to one
ordinary gradient of the same images. CPU seconds are the process's own; memory is the growth of the peak resident
size. Every variant runs in a process of its own.
"""

import argparse
import itertools
import resource
import statistics
import subprocess
import sys
import time

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification

from hf_dtl.functional import gradient_collision

IMAGES, CHUNKS, REPEATS, SIZE = 32, (2, 4, 8), 3, 112


def problem(chunks):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, image_size=SIZE,
        patch_size=16, num_labels=10,
    )  # fmt: skip
    model = ViTForImageClassification(config).eval()
    images = torch.randn(IMAGES, 3, SIZE, SIZE).chunk(chunks)
    labels = torch.randint(10, (IMAGES,)).chunk(chunks)
    losses = [lambda x=x, y=y: F.cross_entropy(model(x).logits, y) for x, y in zip(images, labels, strict=True)]
    return model, list(model.parameters()), losses


def ordinary(model, parameters, losses):
    for loss in losses:
        torch.autograd.grad(loss(), parameters, materialize_grads=True)


def naive(model, parameters, losses):
    model.set_attn_implementation("eager")
    g = [torch.autograd.grad(loss(), parameters, create_graph=True, materialize_grads=True) for loss in losses]
    pairs = itertools.permutations(g, 2)
    value = sum((a * b).sum() for left, right in pairs for a, b in zip(left, right, strict=True))
    torch.autograd.grad(value / (len(g) * (len(g) - 1)), parameters, materialize_grads=True)


def exact(model, parameters, losses):
    model.set_attn_implementation("eager")
    gradient_collision(losses, parameters, diagnostics=False)


def finite_difference(model, parameters, losses):
    gradient_collision(losses, parameters, create="finite_difference", diagnostics=False)


VARIANTS = {f.__name__: f for f in (ordinary, naive, exact, finite_difference)}


def measure(name, chunks):
    """CPU seconds (median) and peak growth in MiB of one variant, in this process."""
    model, parameters, losses = problem(chunks)
    losses[0]().backward()
    model.zero_grad()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        VARIANTS[name](model, parameters, losses)
        seconds.append(time.process_time() - start)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(statistics.median(seconds), grown)


def collision():
    table = Table(title=f"Gradient collision, {IMAGES} images, ViT-Ti shape at {SIZE} pixels, {REPEATS} repeats")
    for column in ("variant", *(f"{n} chunks" for n in CHUNKS)):
        table.add_column(column, justify="right" if column != "variant" else "left")
    base = {}
    for name in VARIANTS:
        cells = []
        for chunks in CHUNKS:
            command = [sys.executable, __file__, "measure", name, str(chunks)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds, grown = map(float, done.stdout.split()[-2:])
            base.setdefault(chunks, seconds)
            cells.append(f"{seconds / base[chunks]:.1f}x  {grown:.0f} MiB")
        table.add_row(name, *cells)
    Console(width=100).print(table, f"torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["collision", "measure"])
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "collision":
        collision()
    else:
        measure(arguments.rest[0], int(arguments.rest[1]))
