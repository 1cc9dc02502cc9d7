"""Measure what the library's fast paths cost, as ratios within one run.

    OMP_NUM_THREADS=1 python scripts/benchmark.py collision
    OMP_NUM_THREADS=1 python scripts/benchmark.py audit
    OMP_NUM_THREADS=1 python scripts/benchmark.py subspace
    OMP_NUM_THREADS=1 python scripts/benchmark.py size
    OMP_NUM_THREADS=1 python scripts/benchmark.py gpu

`collision`: one evaluation of the gradient collision loss and its gradients on a ViT-Ti shape (5.5 M parameters):
naive (every chunk's graph alive, all pairs, double backward) against this library's two back ends, relative to one
ordinary gradient of the same images. CPU seconds are the process's own; memory is the growth of the peak resident
size. Every variant runs in a process of its own.

`audit`: a suite (quick-1, or what is named) on a ViT of 0.3 M parameters with all its references, styles of glyphs:
CPU seconds of the suite, and of the plain loop over the same attacks (every attack, draw and learning rate alone,
nothing shared, nothing broken off), with the PL accuracies of both. `audit standard-1 scrubbed 5` takes one role and
one budget. Weights are random, of another seed for each role: an attack costs the same on any.

`subspace`: the bases of all layers of a ViT of 22 M parameters, from the moments of 256 MNIST images: this library's
symmetric solver against singular values of the same matrices in float64, with the largest angle between the spans.

`size`: what one step of disposal and one attack cost on the ViT-Ti shape at 224 pixels, in CPU seconds, and the peak
resident size of the process so far.

`gpu`: seconds of a CPU thread and of a GPU for the same work: attacks of standard-1 on the undisposed model of
`audit`, with what they reach on either, and a step of disposal as in `size`.
"""

import argparse
import itertools
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification

from hf_dtl.errors import ConfigError
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


def audited():
    """The models by role, and the attacked task."""
    from hf_dtl.audit import AttackedTask, no_model, scratch_models
    from hf_dtl.data import embedded_processor, load_images, load_task

    task, processor = load_task("glyphs[regular,italic,bold,bold_italic]"), embedded_processor(28)
    splits = [load_images(getattr(task, s), processor, num_channels=3) for s in ("train", "validation", "test")]
    attacked = AttackedTask("glyphs[regular,italic,bold,bold_italic]", "source_subset", task.labels, *splits)
    config = ViTConfig(
        hidden_size=96, num_hidden_layers=4, num_attention_heads=4, intermediate_size=192, image_size=28, patch_size=7,
        num_labels=4,
    )  # fmt: skip
    own = scratch_models(ViTForImageClassification(config), 3, seed=5)
    models = dict(zip(("scrubbed", "undisposed", "retrained"), own, strict=True))
    models["scratch"] = scratch_models(models["scrubbed"], 5)
    return models | {"no_model": no_model(attacked)}, attacked


def audit(name="quick-1", roles="scrubbed,undisposed,retrained,scratch,no_model", budgets="5,20"):
    from hf_dtl.audit import run_audit
    from hf_dtl.audit.axis_leakage import pl_accuracies
    from hf_dtl.audit.suites import SUITES

    transformers.logging.set_verbosity_error()
    models, task = audited()
    models = {role: models[role] for role in roles.split(",")}
    suite = SUITES[name].config(300_000)
    suite = replace(suite, budgets=tuple(map(int, budgets.split(","))))
    table = Table(title=f"{name} on {', '.join(models)}, {budgets} images a class, ViT of 0.3 M parameters")
    for column in ("variant", "CPU", "ratio", *(f"{role} at {b}" for role in models for b in suite.budgets)):
        table.add_column(column, justify="left" if column == "variant" else "right")
    taken = {}
    for variant, config in (
        ("the suite", suite),
        ("plain loop", replace(suite, finalists=0, successive_halving=False)),
    ):
        start, records = time.process_time(), []
        if variant == "plain loop":
            for role, unit in itertools.product(
                models, itertools.product(config.attacks, config.budgets, config.seeds)
            ):
                records += alone(role, models[role], task, config, unit)
        else:
            records = run_audit(models, {"task": task}, config)
        taken[variant] = time.process_time() - start
        found = {(p.model, p.budget): p.mean for p in pl_accuracies(records, "source_subset")}
        cells = [f"{found[role, budget]:.3f}" for role in models for budget in config.budgets]
        table.add_row(variant, f"{taken[variant]:.0f} s", f"{taken[variant] / taken['the suite']:.1f}x", *cells)
        Console(width=200).print(table)


def alone(role, model, task, config, unit):
    """One attack as its own audit: each learning rate alone, the best on validation kept."""
    from hf_dtl.audit import run_audit

    attack, budget, seed = unit
    rates, runs = find_rates(attack, config), []
    for rate in rates:
        own = replace(
            config, attacks=(attack,), budgets=(budget,), seeds=(seed,), full_learning_rates=(rate,), max_stack=1
        )  # fmt: skip
        given = model[seed % len(model)] if isinstance(model, list) else model
        try:
            runs += run_audit({role: given}, {"task": task}, own, progress=False)
        except ConfigError:  # the attack does not apply: there is no network
            return []
    return [max(runs, key=lambda run: run.validation_accuracy)]


def find_rates(attack, config):
    from hf_dtl.audit.attacks.registry import find_attack

    return config.full_learning_rates if find_attack(attack).whole_network else (config.full_learning_rates[0],)


def subspace():
    from hf_dtl.data import embedded_processor, load_images, load_task
    from hf_dtl.functional import GradientSubspace

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536, image_size=SIZE,
        patch_size=16, num_labels=10,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    images = load_images(load_task("mnist[0-9]").train, embedded_processor(SIZE), num_channels=3).pixel_values
    start = time.process_time()
    found = GradientSubspace.collect(model, images[torch.randperm(len(images))[:256]].split(32))
    collecting, start = time.process_time() - start, time.process_time()
    basis = found.basis("energy", 0.95)
    ours, start = time.process_time() - start, time.process_time()
    spans = {}
    for layer in found.layers:  # as existing code does: one decomposition a layer, shared inputs or not
        u, sigma, _ = torch.linalg.svd(found.moments[found.shared.get(layer, layer)][0])
        rank = int((sigma.cumsum(0) < 0.95 * sigma.sum()).sum()) + 1
        spans[layer] = u[:, :rank]
    theirs = time.process_time() - start
    ranks = sum(basis.ranks[layer][0] == spans[layer].shape[1] for layer in spans)
    vectors = {layer: basis.vectors[layer][0].double() for layer in spans}
    # sine of the largest angle: what of one span lies outside the other (the cosine cannot tell small angles apart)
    sines = [torch.linalg.matrix_norm(u - vectors[n] @ (vectors[n].T @ u), 2).item() for n, u in spans.items()]
    angle = max(sines)
    table = Table(title=f"Bases of {len(spans)} layers, widths 384 to 1536, energy 0.95, 256 images of {SIZE} pixels")
    for column in ("step", "CPU", "ratio"):
        table.add_column(column, justify="right" if column != "step" else "left")
    table.add_row("one pass over the images", f"{collecting:.1f} s", "")
    table.add_row("symmetric eigenvalues", f"{ours:.1f} s", "1.0x")
    table.add_row("singular values, float64", f"{theirs:.1f} s", f"{theirs / ours:.1f}x")
    note = f"Equal ranks in {ranks} of {len(spans)} layers; largest angle between the spans {angle:.1e} rad."
    Console(width=100).print(table, note, f"torch {torch.__version__}, {torch.get_num_threads()} threads")


def gpu():
    from hf_dtl import (
        GradientCollisionConfig,
        GradientCollisionTrainer,
        RepresentationErasureConfig,
        RepresentationErasureTrainer,
    )
    from hf_dtl.audit import run_audit
    from hf_dtl.audit.suites import SUITES

    transformers.logging.set_verbosity_error()
    print(f"One thread of the CPU, and {torch.cuda.get_device_name()}; torch {torch.__version__}", flush=True)
    models, task = audited()
    config = replace(SUITES["standard-1"].config(300_000), budgets=(5,), seeds=(0,), finalists=0)
    for attack in ("ridge_affine", "prototype_400"):
        taken, reached = [], []
        for device in ("cuda", "cuda", "cpu"):  # the first one warms up
            start = time.perf_counter()
            given = {"undisposed": models["undisposed"]}, {"task": task}, replace(config, attacks=(attack,))
            records = run_audit(*given, progress=False, device=device)
            taken.append(time.perf_counter() - start)
            reached.append(statistics.mean(record.accuracy for record in records))
        told = f"PL accuracy {reached[1]:.3f} on the GPU, {reached[2]:.3f} on the CPU"
        _compare(f"{attack}, 5 images a class, a draw", *taken[1:], told)
    model, source, target = shape_at_224()
    for name, trainer, options in (
        ("representation erasure", RepresentationErasureTrainer, RepresentationErasureConfig),
        ("gradient collision", GradientCollisionTrainer, GradientCollisionConfig),
    ):
        model.cuda()
        disposal_step(trainer, options, model, source, target, False)
        taken = [disposal_step(trainer, options, model.to("cpu" if cpu else "cuda"), source, target, cpu)[1]
                 for cpu in (False, True)]  # fmt: skip
        _compare(f"a step of {name}, ViT-Ti at 224 pixels, 64 + 64 images", *taken)


def _compare(work, on_gpu, on_cpu, told=""):
    print(f"{work}: CPU {on_cpu:.2f} s, GPU {on_gpu:.2f} s, {on_cpu / on_gpu:.1f}x {told}", flush=True)


def shape_at_224():
    """A ViT-Ti shape with two heads, and images of both tasks."""
    from hf_dtl import MultiHeadClassifier
    from hf_dtl.data import embedded_processor, load_images, load_task

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, image_size=224,
        patch_size=16, num_labels=6,
    )  # fmt: skip
    source, target = (
        load_images(load_task(name, images_per_class=count).train, embedded_processor(224), num_channels=3)
        for name, count in (("mnist[0-5]", 12), ("mnist[6-9]", 10))
    )
    model = MultiHeadClassifier(ViTForImageClassification(config), task="source")
    model.add_head("target", list("6789"))
    return model, source, target


def disposal_step(trainer, config, model, source, target, use_cpu):
    """CPU seconds and seconds of one step of disposal, and the peak resident size in GiB."""
    taken, peak = [], 0.0
    for steps in (1, 3):
        options = {"output_dir": tempfile.mkdtemp(), "max_steps": steps, "per_device_train_batch_size": 64}
        options |= {"use_cpu": use_cpu, "save_strategy": "no", "disable_tqdm": True, "report_to": "none"}
        start = time.perf_counter()
        used, peak = _timed(trainer(model, config(**options), source, target).train)
        taken.append((used, time.perf_counter() - start))
    return *((more - less) / 2 for less, more in zip(*taken, strict=True)), peak


def size():
    from hf_dtl import RepresentationErasureConfig, RepresentationErasureTrainer
    from hf_dtl.audit import AttackConfig, AttackedTask, run_audit

    model, source, target = shape_at_224()
    step = disposal_step(RepresentationErasureTrainer, RepresentationErasureConfig, model, source, target, True)
    rows = [("a step of representation erasure, 64 + 64 images", step[0], step[2])]
    held_out = source.subset(range(30))
    task = AttackedTask("mnist[0-5]", "source_subset", tuple("012345"), source, held_out, held_out)
    for attack in ("linear_probe", "full"):
        options = {"attacks": (attack,), "budgets": (5,), "seeds": (0,), "full_learning_rates": (1e-4,)}
        own = AttackConfig(**options)
        found = _timed(run_audit, {"undisposed": model.export("source")}, {"source": task}, own, progress=False)
        rows.append((f"{attack}, 5 images a class, one seed, one learning rate", *found))
    table = Table(title="ViT-Ti shape at 224 pixels")
    for column in ("work", "CPU seconds", "peak so far, GiB"):
        table.add_column(column, justify="right" if column != "work" else "left")
    for name, used, memory in rows:
        table.add_row(name, f"{used:.0f}", f"{memory:.1f}")
    Console(width=100).print(table, f"torch {torch.__version__}, {torch.get_num_threads()} threads")


def _timed(work, *arguments, **options):
    """CPU seconds of a call, and the peak resident size in GiB after it."""
    start = time.process_time()
    work(*arguments, **options)
    return time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["collision", "audit", "subspace", "size", "gpu", "measure"])
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "collision":
        collision()
    elif arguments.what == "audit":
        audit(*arguments.rest)
    elif arguments.what == "subspace":
        subspace()
    elif arguments.what == "size":
        size()
    elif arguments.what == "gpu":
        gpu()
    else:
        measure(arguments.rest[0], int(arguments.rest[1]))
