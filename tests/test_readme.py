"""What the README says is run: its snippet, its commands' options, its files, and its table."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from toy_tasks import two_headed

from hf_dtl.cli import audit, forget, verify
from hf_dtl.data import DatasetSpec, ForgetRequest, embedded_processor
from hf_dtl.methods.by_name import parse_methods

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "scripts" / "study" / "results" / "main_job"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_python_snippet_runs(tmp_path, monkeypatch):
    _, snippet, requests, metric = blocks("python")  # the first is run by tests/pipeline/test_python.py
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
    own = verify.COMMAND if "--verify" in words else audit.COMMAND
    options = own.parse(words[position + 1 :])
    for spec in (options.forget, options.retain, options.novel):
        assert spec is None or DatasetSpec.parse(spec)


@pytest.mark.parametrize("command", commands("dtl_finetune.py"))
def test_commands_are_understood(command):
    words = shlex.split(command)
    position = words.index("scripts/dtl_finetune.py")
    assert words[:2] == ["accelerate", "launch"]
    options = forget.COMMAND.parse(words[position + 1 :])
    assert parse_methods(options.method) and options.kind == "task"
    for spec in (options.forget, options.retain, options.novel):
        DatasetSpec.parse(spec)


@pytest.mark.parametrize("command", commands("unlearn.py"))
def test_unlearning_commands_are_understood(command):
    words = shlex.split(command, comments=True)
    position = words.index("scripts/unlearn.py")
    words = [word.replace("rows.txt", __file__) for word in words]  # a file that is there
    options = forget.COMMAND.parse(words[position + 1 :])
    assert parse_methods(options.method) and DatasetSpec.parse(options.retain) and options.kind != "task"
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
            assert cells[0] == shown(uis, 3) and cells[1] == shown(mia, 2)
            if "cost" in row:
                leaked = [task["mean"] for task in row["leakage"].values() if task["mean"] is not None]
                assert (
                    cells[2] == f"{sum(leaked) / len(leaked):.2f}" and cells[3] == f"{100 * row['cost']['mean']:.0f} %"
                )
        below = f"{100 * scope['below']:.0f} % ({'all' if scope['name'] == 'full' else 'two'} tasks)"
        assert below in README and scope["strongest"].startswith("pcgrad")


INSTANCES = RESULTS.parent / "instances"
SETTINGS = {
    "fashion_vit": "Fashion-MNIST, ViT",
    "fashion_resnet": "Fashion-MNIST, ResNet",
    "cifar_vit": "CIFAR-10, ViT",
    "cifar_resnet": "CIFAR-10, ResNet",
}
VARIANTS = {
    "l2ul (the paper's)": "both",
    "our loss, adversarial examples": "both:margin=0.05:distillation_weight=1:target_ce_weight=0",
    "collages": "collages",
    "(undisposed)": "undisposed",
}


def requests_found(folder):
    """Each request's rows by variant, without the learning rate."""
    found = json.loads((INSTANCES / folder / "results.json").read_text())
    assert found["seeds"] == [1, 2, 3]
    for one in found["requests"]:
        rows = {re.sub(r":learning_rate=[^,]*", "", row["name"]): row for row in (*one["rows"], one["undisposed"])}
        yield one["sizes"], rows


def shown(value, digits):
    return "–" if value["mean"] is None else f"{value['mean']:.{digits}f} ± {value['deviation']:.{digits}f}"


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_table_of_single_images_is_what_the_studies_found(setting):
    """Two columns for each k, and two more of the largest."""
    lines = re.findall(rf"^\| {SETTINGS[setting]}: (.*) \|$", README, flags=re.MULTILINE)
    single = {sizes[0]: rows for sizes, rows in requests_found(setting) if len(sizes) == 1}
    known = [name for name, plain in VARIANTS.items() if plain in single[16]]
    assert [line.split(" | ")[0] for line in lines] == known and single.keys() <= {16, 64, 128, 256}
    for line in lines:
        name, *cells = line.split(" | ")
        for place, k in enumerate((16, 64, 128, 256)):
            wanted = ["–", "–"]
            if k in single:
                row = single[k][VARIANTS[name]]
                wanted = [shown(row["accuracy"]["forget"], 2), shown(row["lost"], 1) if "lost" in row else ""]
            assert [cell.strip() for cell in cells[2 * place : 2 * place + 2]] == wanted
        assert cells[-2:] == [shown(row["relearned"], 2), shown(row["mia"], 2)]


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_table_of_requests_one_after_another_is_what_the_studies_found(setting):
    (cells,) = re.findall(rf"^\| {SETTINGS[setting]} \| (.*) \|$", README, flags=re.MULTILINE)
    (rows,) = (rows for sizes, rows in requests_found(setting) if sizes == [16] * 5)
    wanted = []
    for name in ("collages", "collages, cumulative"):
        wanted += [shown(rows[name]["accuracy"]["forget"], 2), shown(rows[name]["lost"], 1)]
    assert cells.split(" | ") == wanted


def test_what_is_said_of_single_images_is_what_the_studies_found():
    ours, alone, together = {}, [], []
    for setting in SETTINGS:
        for sizes, rows in requests_found(setting):
            if len(sizes) == 1:
                ours[setting, sizes[0]] = rows["collages"]
            else:
                alone.append(rows["collages"])
                together.append(rows["collages, cumulative"])
    few = [row for (_, k), row in ours.items() if k <= 64]
    lost = [row["lost"]["mean"] for row in few]
    assert round(100 * max(row["accuracy"]["forget"]["mean"] for row in few)) == 1
    assert f"collages leave at most 1 % of the images, for {min(lost):.1f} to {max(lost):.1f} points" in README
    worst = ours["fashion_vit", 256]
    assert f"a sixth, at {worst['lost']['mean']:.1f} points" in README
    assert worst["accuracy"]["forget"]["mean"] == pytest.approx(1 / 6, abs=0.02)
    for setting, text in (("fashion", "names {} to {} of them again there"), ("cifar", "on CIFAR-10 {} to {}")):
        again = [row["relearned"]["mean"] for (name, _), row in ours.items() if name.startswith(setting)]
        assert text.format(f"{min(again):.2f}", f"{max(again):.2f}") in README
    mia = [row["mia"]["mean"] for (name, _), row in ours.items() if name.startswith("fashion")]
    assert f"(MIA {min(mia):.2f} to {max(mia):.2f})" in README
    kept = [row["kept"]["mean"] for row in alone]
    assert all(0.15 < 1 - share < 0.3 for share in kept) and "bring a fifth to three tenths of the earlier" in README
    times = [two["cpu"]["mean"] / one["cpu"]["mean"] for one, two in zip(alone, together, strict=True)]
    assert 4.5 < min(times) and max(times) < 8.5 and "five to eight times" in README
