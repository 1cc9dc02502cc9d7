"""Every command of the documents is understood by the program that it starts; the README's are run on a stand-in."""

import re
import runpy
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest
from cli.commands import ended
from documents import DOCUMENTS, ROOT, bare, commands, text_of

from hf_dtl.cli import audit, forget, metrics, publish, verify
from hf_dtl.cli.parsing import Command
from hf_dtl.data import DatasetSpec, ForgetRequest
from hf_dtl.methods.by_name import parse_methods

NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
ALL = [(name, words) for name in NAMES for words in commands(name)]
COMMANDS = {"forget": forget, "audit": audit, "verify": verify, "publish": publish}
SCRIPTS = {"dtl_finetune.py": forget, "unlearn.py": forget, "audit.py": audit, "publish.py": publish}
STUDIES = ("reproduce.py", "compare_unlearning.py", "study_instances.py", "study_tasks.py", "study_removal.py")
PROJECT = tomllib.loads(text_of("pyproject.toml"))["project"]


def understood(room, words):
    """The options of a command of the library; what they name is looked at as well."""
    options = room.COMMAND.parse(words)
    if room in (forget, audit):
        if getattr(options, "method", None) and room is forget:
            assert parse_methods(options.method)
        if options.kind == "task":
            assert DatasetSpec.parse(options.forget)
        else:
            assert ForgetRequest.parse(options.forget)
        assert options.retain is None or DatasetSpec.parse(options.retain)


def ids(found):
    return [f"{Path(name).stem}-{number}" for number, (name, _) in enumerate(found)]


@pytest.mark.parametrize(("name", "words"), ALL, ids=ids(ALL))
def test_a_command_is_understood(name, words, reader, monkeypatch):
    monkeypatch.chdir(reader)  # its files of rows are there
    match bare(words):
        case ["hf-dtl", "audit", "--example", *rest]:
            audit.EXAMPLE_COMMAND.parse(rest)  # tests/cli/test_example.py runs it
        case ["hf-dtl", room, *rest]:
            understood(COMMANDS[room], rest)
        case ["python", "-m", "hf_dtl.cli", room, *rest]:
            understood(COMMANDS[room], rest)
        case ["python", "-m", "hf_dtl.metrics", command]:
            assert command in metrics.COMMANDS
        case ["python", script, *rest] if Path(script).name in SCRIPTS:
            understood(SCRIPTS[Path(script).name], rest)
        case ["python", script, *rest] if Path(script).name in STUDIES:
            options = get_type_hints(runpy.run_path(str(ROOT / script))["main"])["options"]
            parsed = Command(script, options).parse(rest)
            assert parsed.setting in {path.name for path in (ROOT / "scripts/study/results").glob("*/*")}
        case ["python", "scripts/benchmark.py", part, *_]:
            assert part in text_of("scripts/benchmark.py").split('"""')[1]
        case ["python", "-m", "pytest", *places]:
            assert places and all((ROOT / place).is_file() for place in places)
        case ["python", script]:
            assert (ROOT / script).is_file()
        case ["pip", "install", *what]:
            installable(what)
        case ["make", target]:
            done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        case ["git", "clone", _] | ["cd", "hf_dtl"]:
            pass
        case other:
            raise AssertionError(f"{name}: nobody knows the command {other}")


def installable(what):
    for word in what:
        if "==" in word:
            assert f"\n{word}\n" in text_of("constraints.txt")
        elif word.endswith(".txt"):
            assert (ROOT / word).is_file()
        elif extra := re.fullmatch(r"\.\[(\w+)\]", word):
            assert extra[1] in PROJECT["optional-dependencies"]
        else:
            assert word in (".", "-c")


def test_commands_in_running_text_exist():
    """`hf-dtl WORD` and options in the middle of a sentence."""
    for name in NAMES:
        prose = re.sub(r"^```.*?^```", "", text_of(name), flags=re.DOTALL | re.MULTILINE)
        for word in re.findall(r"`hf-dtl (\w+)", prose):
            assert word in (*COMMANDS, "metrics", "COMMAND"), (name, word)
        options = {f.name: f for room in COMMANDS.values() for f in fields(room.COMMAND.options)}
        known = {*options, *(alias for f in options.values() for alias in f.metadata.get("aliases", ()))}
        known |= {"help", "list", "check", "retian", "trust_remote_code"}  # --retian is the misspelt one
        for option in re.findall(r"`--(\w+)", prose):
            assert option in known, (name, option)


# Run on a stand-in ---------------------------------------------------------------------------------------------

ATTACKER = "--suite custom --budgets 2 --seeds 0,1 --attacks linear_probe --max_eval_images 24 --use_cpu"


def small(words):
    """Options that make a command cheap; of an option that is given twice the last one counts."""
    room, given = words[0], len(words) > 1 and not words[1].startswith("-")
    if room == "audit":
        return ATTACKER.split()
    if room != "forget":
        return []
    options, kind = ATTACKER.split() + ["--steps", "1"], forget.COMMAND.parse(words[1:]).kind
    options += [] if given else ["--train_epochs", "1"]
    rows = any(word.endswith(".txt") for word in words)  # of the whole split, so no image may be left out
    if kind == "tasks":
        options += ["--attacks", "full", "--full_learning_rates", "1e-3"]
        return options if rows else [*options, "--images", "80"]
    options += [] if "--method" in words or kind != "task" else ["--method", "representation_erasure"]
    options += ["--retrain_epochs", "1"]
    options += [] if rows else ["--retain_images_per_class", "12"]
    return [*options, "--forget_images_per_class", "12", "--adapt_epochs", "1"] if kind == "task" else options


@pytest.fixture
def here(reader, few_steps, monkeypatch):
    """A terminal in the reader's folder, with few glyphs to draw."""
    monkeypatch.chdir(reader)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    few = {"train": 200, "validation": 100, "test": 100}
    monkeypatch.setattr("hf_dtl.data.multitask.GLYPH_IMAGES", few)
    monkeypatch.setattr("hf_dtl.data.sources.RENDERED_IMAGES", few | {"train": 1000})


def run(words, capsys):
    status, out, err = ended(capsys, *words, *small(words))
    assert status == 0, (words, err)
    return out


def own_commands(name):
    return [words[1:] for words in commands(name) if words[0] == "hf-dtl" and "--example" not in words]


def test_the_commands_of_the_readme_run(here, capsys):
    found = own_commands("README.md")
    assert len(found) >= 8
    for number, words in enumerate(found):
        if words[0] == "publish" and "--dry_run" not in words:
            continue  # sends; tests/hub does it against a server of its own
        if words[0] == "forget" and "--output_dir" not in words:
            words = [*words, "--output_dir", f"outputs/readme{number}"]
        if words[0] == "verify":
            status, out, err = ended(capsys, "verify", "outputs/mine/scrubbed", "--use_cpu")
            assert status == 1 and "NOT VERIFIED: all" in " ".join(out.split()), (out, err)  # its attacks are few here
            continue
        out = run(words, capsys)
        if words[0] == "forget":
            assert "leakage" in out and "Piggyback learning" in out
        if words[0] == "publish":
            assert "Nothing was sent" in out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["docs/audit.md", "docs/unlearning.md", "docs/several_tasks.md"])
def test_the_commands_of_a_page_run(name, here, capsys):
    folder = f"outputs/{Path(name).stem}"
    for number, words in enumerate(own_commands(name)):
        if words[0] == "verify":
            continue
        if "--output_dir" not in words:
            words = [*words, "--output_dir", f"{folder}{number}"]
        run(words, capsys)
