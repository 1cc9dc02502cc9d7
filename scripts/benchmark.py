"""Measure what the library's fast paths cost, as ratios within one run.

    OMP_NUM_THREADS=1 python scripts/benchmark.py collision
    OMP_NUM_THREADS=1 python scripts/benchmark.py audit
    OMP_NUM_THREADS=1 python scripts/benchmark.py subspace
    OMP_NUM_THREADS=1 python scripts/benchmark.py size

`collision`: one evaluation of the gradient collision loss and its gradients on a ViT-Ti shape (5.5 M parameters):
naive (every chunk's graph alive, all pairs, double backward) against this library's two back ends, relative to one
ordinary gradient of the same images. CPU seconds are the process's own; memory is the growth of the peak resident
size. Every variant runs in a process of its own.

`audit`: the attacks of the default grid on one model and one task (MNIST 0-5, 5 and 20 images a class, 3 seeds), for
the built-in ViT and a small ResNet: the plain loop (every attack alone, one learning rate after another) against
attacks that run together, the same with successive halving, and shared among two processes. Reported are CPU seconds
of all processes, wall-clock seconds, and how far the results agree with the plain loop's.

`subspace`: the bases of all layers of a ViT of 22 M parameters, from the moments of 256 MNIST images: this library's
symmetric solver against singular values of the same matrices in float64, with the largest angle between the spans.

`size`: what one step of disposal and one attack cost on the ViT-Ti shape at 224 pixels, in CPU seconds, and the peak
resident size of the process so far.
"""

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from transformers import AutoModelForImageClassification, ResNetConfig, ViTConfig, ViTForImageClassification

from hf_dtl.functional import gradient_collision

IMAGES, CHUNKS, REPEATS, SIZE = 32, (2, 4, 8), 3, 112
BUDGETS = (5, 20)


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


def audited_task():
    """MNIST 0-5 as the attacked task."""
    from hf_dtl.audit import AttackedTask
    from hf_dtl.data import embedded_processor, load_images, load_task

    task, processor = load_task("mnist[0,1,2,3,4,5]"), embedded_processor(28)
    splits = [load_images(getattr(task, s), processor, num_channels=3) for s in ("train", "validation", "test")]
    return AttackedTask("mnist[0-5]", "source_subset", task.labels, *splits)


def attacked_model(name, labels):
    torch.manual_seed(0)
    if name == "vit":
        config = ViTConfig(
            hidden_size=96, num_hidden_layers=4, num_attention_heads=4, intermediate_size=192, image_size=28,
            patch_size=7,
        )  # fmt: skip
    else:
        config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic")
    config.id2label = dict(enumerate(labels))
    return AutoModelForImageClassification.from_config(config)


def measure_audit(name, variant, output):
    """CPU and wall-clock seconds of one variant in this process, and its results."""
    from accelerate import PartialState

    from hf_dtl.audit import AttackConfig, run_audit
    from hf_dtl.audit.piggyback import Attacker

    transformers.logging.set_verbosity_error()
    state = PartialState(cpu=True) if variant == "two processes" else None
    task = audited_task()
    model = attacked_model(name, task.labels)
    options = {"max_stack": 1} if variant == "plain loop" else {}
    config = AttackConfig(budgets=BUDGETS, successive_halving=variant == "halving", **options)
    Attacker(model, task, AttackConfig(linear_probe_steps=1)).run("linear_probe", 1, 0)
    start, wall = time.process_time(), time.perf_counter()
    if variant == "plain loop":
        units = itertools.product(config.attacks, config.budgets, config.seeds)
        records = [Attacker(model, task, config).run(*unit) for unit in units]
    else:
        records = run_audit({"scrubbed": model}, {"task": task}, config, progress=False)
    seconds = time.process_time() - start
    found = {f"{r.attack}/{r.budget}/{r.seed}": [r.validation_accuracy, r.accuracy, r.learning_rate] for r in records}
    if state is not None:
        everyone = [None] * state.num_processes
        torch.distributed.all_gather_object(everyone, seconds)
        seconds = sum(everyone)
    if state is None or state.is_main_process:
        with open(output, "w") as file:
            json.dump([seconds, time.perf_counter() - wall, found], file)
    if state is not None:
        state.destroy_process_group()


def audit():
    table = Table(
        title=f"Default audit of one model on one task, {', '.join(map(str, BUDGETS))} images a class, 3 seeds"
    )
    columns = ("network", "variant", "CPU", "ratio", "wall", "ratio", "same choice", "mean |difference|", "largest")
    for column in columns:
        table.add_column(column, justify="right" if column not in ("network", "variant") else "left")
    for name in ("vit", "resnet"):
        plain = None
        for variant in ("plain loop", "together", "halving", "two processes"):
            with tempfile.TemporaryDirectory() as folder:
                output = f"{folder}/result.json"
                command = [sys.executable]
                if variant == "two processes":
                    command += ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
                command += [__file__, "measure_audit", name, variant, output]
                subprocess.run(command, check=True, capture_output=True, text=True)
                with open(output) as file:
                    seconds, wall, found = json.load(file)
            plain = plain or (seconds, wall, found)
            gaps = [abs(found[key][1] - value[1]) for key, value in plain[2].items()]
            same = sum(found[key][2] == value[2] for key, value in plain[2].items())
            table.add_row(
                name, variant, f"{seconds:.0f} s", f"{plain[0] / seconds:.1f}x", f"{wall:.0f} s",
                f"{plain[1] / wall:.1f}x", f"{same} of {len(gaps)}", f"{statistics.fmean(gaps):.4f}",
                f"{max(gaps):.4f}",
            )  # fmt: skip
    note = "Differences are of test accuracy, against the plain loop."
    Console(width=120).print(table, note, f"torch {torch.__version__}, {torch.get_num_threads()} threads")


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


def size():
    from hf_dtl import MultiHeadClassifier, RepresentationErasureConfig, RepresentationErasureTrainer
    from hf_dtl.audit import AttackConfig, AttackedTask, run_audit
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
    rows, seconds = [], []
    for steps in (1, 3):
        options = {"output_dir": tempfile.mkdtemp(), "max_steps": steps, "per_device_train_batch_size": 64}
        options |= {"use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "report_to": "none"}
        trainer = RepresentationErasureTrainer(model, RepresentationErasureConfig(**options), source, target)
        seconds.append(_timed(trainer.train)[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows.append(("a step of representation erasure, 64 + 64 images", (seconds[1] - seconds[0]) / 2, peak))
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
    parser.add_argument("what", choices=["collision", "audit", "subspace", "size", "measure", "measure_audit"])
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "collision":
        collision()
    elif arguments.what == "audit":
        audit()
    elif arguments.what == "subspace":
        subspace()
    elif arguments.what == "size":
        size()
    elif arguments.what == "measure_audit":
        measure_audit(*arguments.rest)
    else:
        measure(arguments.rest[0], int(arguments.rest[1]))
