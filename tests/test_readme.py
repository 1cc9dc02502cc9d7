"""What the README says is run: its snippet, its commands' options, its files, and its table."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from toy_tasks import two_headed
from transformers import HfArgumentParser

from hf_dtl.audit_options import AuditOptions
from hf_dtl.data import DatasetSpec, ForgetRequest, embedded_processor
from hf_dtl.dtl import DTLOptions
from hf_dtl.methods.by_name import parse_methods
from hf_dtl.unlearn_options import UnlearnOptions
from hf_dtl.verify import VerifyOptions

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "scripts" / "results" / "main_job"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_python_snippet_runs(tmp_path, monkeypatch):
    snippet, requests, metric = blocks("python")
    folder = tmp_path / "outputs" / "demo" / "undisposed"
    two_headed().export("target").save_pretrained(folder)
    embedded_processor(size=16).save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    exec(compile(metric, "README.md", "exec"), {})
    names: dict = {}
    exec(compile(snippet, "README.md", "exec"), names)
    exec(compile(requests, "README.md", "exec"), names)
    assert len(names["done"].accuracy) == 2 and max(names["done"].accuracy) < 1
    assert {f.name for f in (tmp_path / "scrubbed").iterdir()} >= {"config.json", "model.safetensors"}


def commands(script):
    text = "\n".join(blocks("bash") + [(ROOT / "scripts" / script).read_text().split('"""')[1]])
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if f"scripts/{script}" in line]


@pytest.mark.parametrize("command", commands("audit.py"))
def test_audit_commands_are_understood(command):
    words = shlex.split(command, comments=True)
    position = words.index("scripts/audit.py")
    assert words[:2] == ["accelerate", "launch"] or words[0] == "python"
    own = VerifyOptions if "--verify" in words else AuditOptions
    (options,) = HfArgumentParser(own).parse_args_into_dataclasses(words[position + 1 :])
    for spec in getattr(options, "datasets", {}).values():
        DatasetSpec.parse(spec)


@pytest.mark.parametrize("command", commands("dtl_finetune.py"))
def test_commands_are_understood(command):
    words = shlex.split(command)
    position = words.index("scripts/dtl_finetune.py")
    assert words[:2] == ["accelerate", "launch"]
    (options,) = HfArgumentParser(DTLOptions).parse_args_into_dataclasses(words[position + 1 :])
    assert parse_methods(options.methods)
    for spec in (options.source_dataset, options.target_dataset, options.novel_dataset):
        DatasetSpec.parse(spec)


@pytest.mark.parametrize("command", commands("unlearn.py"))
def test_unlearning_commands_are_understood(command):
    words = shlex.split(command, comments=True)
    position = words.index("scripts/unlearn.py")
    (options,) = HfArgumentParser(UnlearnOptions).parse_args_into_dataclasses(words[position + 1 :])
    assert options.choices and DatasetSpec.parse(options.dataset)
    if options.forget != "rows.txt":
        ForgetRequest.parse(options.forget)


def test_make_targets_exist():
    for target in ("demo", "test"):
        assert f"make {target}" in README
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_files_that_are_linked_exist():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    for link in links:
        path, _, heading = link.partition("#")
        assert (ROOT / path).exists(), link
        assert not heading or f"## {heading.replace('-', ' ')}\n" in README.lower(), link


def test_the_table_is_the_one_that_the_command_wrote():
    assert (RESULTS / "comparison.md").read_text(encoding="utf-8").strip() in README


def test_the_study_table_is_what_the_studies_found():
    lines = README[README.index("| method | MNIST, ViT |") :].splitlines()
    for place, name in enumerate(("mnist_vit", "mnist_resnet", "fashion_vit", "cifar_vit", "cifar_dinov2"), 1):
        summary = json.loads((RESULTS.parent / "study" / name / "results.json").read_text())["summary"]
        for row in summary["rows"]:
            leaked, lost = row["over_retrained"]["over"], row["loss_points"]
            line = next(line for line in lines if line.startswith(f"| {row['method'].split(':')[0]} |"))
            assert _place(line, place) == f"{_average(leaked, '.2f')} / {_average(lost, '+.1f')}"
        retrained = next(r for r in summary["references"] if r["name"] == "retrained")["loss_points"]
        line = next(line for line in lines if line.startswith("| (retrained) |"))
        assert _place(line, place) == f"0 / {_average(retrained, '+.1f')}"


def _place(line, place):
    return line.strip("|").split("|")[place].strip()


def _average(found, form):
    """Mean and deviation, of one training seed the mean alone."""
    deviation = found["deviation"]
    return f"{found['mean']:{form}}" + ("" if deviation is None else f" ± {deviation:{form.strip('+')}}")


@pytest.mark.parametrize(
    ("setting", "title"), [("fashion_vit", "Fashion, ViT"), ("fashion_resnet", "Fashion, ResNet")]
)
def test_the_tables_of_unlearning_are_what_the_comparisons_found(setting, title):
    found = json.loads((RESULTS.parent / "unlearning" / setting / "results.json").read_text())["comparisons"]
    for one, table in zip(found, ("A class", "A random tenth"), strict=True):
        head, _, *lines = README[README.index(f"| {table} |") :].split("\n\n")[0].splitlines()
        place = next(i for i, cell in enumerate(head.split(" | ")) if cell == f"{title}: gap")
        assert len(lines) == len(one["rows"]) + len(one["references"])
        for row in (*one["rows"], *one["references"]):
            names = (row["name"].split(":")[0], f"({row['name']})")
            line = next(line for line in lines if line.startswith(tuple(f"| {name} |" for name in names)))
            gap, mia = row["gap"], row["mia"]
            wanted = [f"{100 * gap['mean']:.1f} ± {100 * gap['deviation']:.1f}"]
            wanted.append(f"{mia['mean']:.2f} ± {mia['deviation']:.2f}")
            if "leakage" in row:
                wanted.append(f"{row['leakage']['mean']:.2f} ± {row['leakage']['deviation']:.2f}")
                wanted.append(f"{100 * row['cost']['mean']:.1f} %")
            assert line.strip("| ").split(" | ")[place:][: len(wanted)] == wanted


def test_the_table_of_cifar_is_what_the_comparisons_found():
    head, _, *lines = README[README.index("| CIFAR-10, one training seed |") :].split("\n\n")[0].splitlines()
    columns, seen = head.strip("| ").split(" | "), 0
    for setting, network in (("cifar_vit", "ViT"), ("cifar_resnet", "ResNet")):
        found = json.loads((RESULTS.parent / "unlearning" / setting / "results.json").read_text())["comparisons"]
        for one, request in zip(found, ("class", "tenth"), strict=True):
            place = columns.index(f"{request}, {network}: gap")
            assert len(lines) == len(one["rows"]) + 1 and one["seeds"] == [1]
            for row in one["rows"]:
                line = next(line for line in lines if line.startswith(f"| {row['name'].split(':')[0]} |"))
                leaked = row["leakage"]["mean"]
                wanted = [f"{100 * row['gap']['mean']:.1f}", "–" if leaked is None else f"{leaked:.2f}"]
                wanted.append(f"{100 * row['cost']['mean']:.1f} %")
                assert line.strip("| ").split(" | ")[place : place + 3] == wanted
                seen += 1
    assert seen == 36


ABLATED = {
    "neg_grad_plus:distillation_weight=1:target_ce_weight=0": "neg_grad_plus, distilling",
    "interference_aware:task_projection=false": "without projection",
    "interference_aware:orthogonalisation=none": "without orthogonalisation",
    "interference_aware:task_projection=false:orthogonalisation=none": "without either",
    "interference_aware:distillation_weight=0": "without distillation",
}


@pytest.mark.parametrize(("head", "setting"), [("Glyphs", "glyphs"), ("Fashion-MNIST groups", "fashion_groups")])
def test_the_tables_of_several_tasks_are_what_the_study_found(head, setting):
    """Rows stand in the study's order; each scope has four columns."""
    _, _, *lines = README[README.index(f"| {head} |") :].split("\n\n")[0].splitlines()
    found = json.loads((RESULTS.parent / "tasks" / setting / "results.json").read_text())
    assert found["seeds"] == [1, 2, 3] and len(found["scopes"]) == 2
    for start, scope in zip((1, 5), found["scopes"], strict=True):
        rows = [*scope["rows"], *scope["references"]]
        for line, row in zip(lines, rows, strict=True):
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            cells = [name, *cells][start : start + 4]
            plain = row["name"].split(":learning_rate")[0]
            assert name in (plain, f"({plain})") or name == ABLATED[plain]
            uis, mia = row["uis"], row["mia"]
            assert cells[0] == f"{uis['mean']:.3f} ± {uis['deviation']:.3f}"
            assert cells[1] == f"{mia['mean']:.2f} ± {mia['deviation']:.2f}"
            if "cost" in row:
                leaked = [task["mean"] for task in row["leakage"].values() if task["mean"] is not None]
                assert (
                    cells[2] == f"{sum(leaked) / len(leaked):.2f}" and cells[3] == f"{100 * row['cost']['mean']:.0f} %"
                )
        below = f"{100 * scope['below']:.0f} % ({'all' if scope['name'] == 'full' else 'two'} tasks)"
        assert below in README and scope["strongest"].startswith("pcgrad")


VARIANTS = {
    "none": "l2ul, neither",
    "adversarial": "l2ul, adversarial examples",
    "importance": "l2ul, importance",
    "both": "l2ul (the paper's: both)",
    "both:margin=0.05:distillation_weight=1:target_ce_weight=0": "our loss, adversarial examples",
}


def test_the_table_of_single_images_is_what_the_study_found():
    """Two columns for each k, and two more of the largest."""
    _, _, *lines = README[README.index("| Fashion-MNIST, ViT | k = 16") :].split("\n\n")[0].splitlines()
    found = json.loads((RESULTS.parent / "instances" / "fashion_vit" / "results.json").read_text())
    *single, sequence = found["requests"]
    assert found["seeds"] == [1, 2, 3] and [one["sizes"] for one in single] == [[16], [64], [128], [256]]

    def shown(value, digits):
        return f"{value['mean']:.{digits}f} ± {value['deviation']:.{digits}f}"

    for number, line in enumerate(lines):
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for place, one in enumerate(single):
            row = [*one["rows"], one["undisposed"]][number]
            plain = row["name"].split(":learning_rate")[0]
            assert name in (plain, f"({plain})") or name == VARIANTS[plain]
            assert cells[2 * place] == shown(row["accuracy"]["forget"], 2)
            assert cells[2 * place + 1] == (shown(row["lost"], 1) if "lost" in row else "")
        assert cells[-2:] == [shown(row["relearned"], 2), shown(row["mia"], 2)]
    assert number == 6
    ours, before = single[0]["rows"][-1], single[0]["undisposed"]
    assert f"of {100 * before['accuracy']['test']['mean']:.1f}." in README
    assert f"at {ours['lost']['mean']:.1f} and {single[1]['rows'][-1]['lost']['mean']:.1f} points" in README
    served = sequence["rows"][-1]
    assert served["served"]["mean"] == 1 and served["name"].startswith("collages")
    assert f"after the last {100 * (1 - served['kept']['mean']):.0f} % of the images of earlier ones" in README
    assert f"{shown(served['lost'], 0)} points\n  are lost" in README
