"""Every command as a user starts it: its help, what reaches its work, and how it ends. The work itself is not done."""

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, fields
from importlib import import_module
from types import SimpleNamespace

import pytest
from cli.commands import ended

from hf_dtl.cli.main import COMMANDS
from hf_dtl.cli.parsing import Command
from hf_dtl.cli.terminal import run_script
from hf_dtl.errors import ConfigError, DataError
from hf_dtl.methods.registry import method_names
from hf_dtl.options import option
from hf_dtl.pipeline.audit_options import AuditOptions, VerifyOptions
from hf_dtl.pipeline.forget_options import ForgetOptions

OPTIONS = {
    name: import_module(f"hf_dtl.cli.{name}").COMMAND.options for name in ("forget", "audit", "verify", "publish")
}
GIVEN = ["--scrubbed", "a", "--undisposed", "b", "--forget", "mnist[0-5]"]


def test_the_commands_are_listed(capsys):
    for words in ((), ("--help",)):
        status, out, _ = ended(capsys, *words)
        assert status == 0 and all(f"\n  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_help_is_complete_and_fits_100_columns(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    status, out, _ = ended(capsys, name, "--help")
    assert status == 0 and max(map(len, out.splitlines())) <= 103 and "%%" not in out
    plain = re.sub(r"\s+", " ", out)
    for f in fields(OPTIONS[name]):
        assert f"--{f.name} " in out and re.sub(r"\s+", " ", f.metadata["help"])[:40] in plain
    for heading in dict.fromkeys(f.metadata["group"] for f in fields(OPTIONS[name]) if f.metadata["group"]):
        assert f"\n {heading} options\n" in out
    assert "...\n" not in out, "no help is cut"


STUDIES = {
    "main_job": "StudyOptions",
    "instances": "InstanceStudyOptions",
    "tasks": "TaskStudyOptions",
    "unlearning": "ComparisonOptions",
}


@pytest.mark.parametrize("module", STUDIES)
def test_the_help_of_a_study_can_be_read(module, capsys):
    with pytest.raises(SystemExit):
        Command("study.py", getattr(import_module(f"study.{module}"), STUDIES[module])).parse(["--help"])
    shown = capsys.readouterr().out
    assert "--output_dir" in shown and "%%" not in shown


@pytest.mark.parametrize("name", OPTIONS)
def test_its_examples_are_understood(name):
    command = sys.modules[f"hf_dtl.cli.{name}"].COMMAND
    lines = [shlex.split(line) for line in command.examples.splitlines()]
    assert lines
    for words in lines:
        assert words[words.index(name) - 1] in ("hf-dtl", "hf_dtl.cli")
        command.parse(words[words.index(name) + 1 :])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("forgett",), "There is no command 'forgett'. Did you mean forget? There are: forget, audit, "),
        (("metrics", "stattus"), "Did you mean status?"),
        (("metrics", "install", "tug_of_wars"), "Did you mean tug_of_war?"),
        (("forget", "--bugdets", "3"), "has no option '--bugdets'. Did you mean --budgets?"),
        (("forget", "--method", "scrub,salum:k=1"), "ConfigError: Unknown method 'salum'"),
        (("forget", "--method", "scrub,salum:k=1"), "Did you mean 'salun'?"),
        (("forget", "--attacks", "grid,fulll"), "'fulll' in --attacks 'grid,fulll'. Did you mean full?"),
        (("audit", *GIVEN, "--attacks", "adaptve"), "'adaptve'. Did you mean adaptive?"),
        (("verify", "a", "--attacks", "lorra"), "Unknown attack 'lorra' in --attacks 'lorra'. Did you mean lora?"),
        (("audit", "a"), "These options are missing: --forget, --undisposed."),
        (("publish", "a"), "These options are missing: --repo_id."),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_the_nearest_right_word(words, said, capsys):
    status, out, err = ended(capsys, *words)
    assert status == (1 if err.startswith("ConfigError") and words[0] != "verify" else 2)
    assert out == "" and said in err and err.count("\n") == 1


@pytest.mark.parametrize("name", ["forget", "audit"])
def test_the_list(name, capsys):
    status, out, _ = ended(capsys, name, "--list")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert status == 0 and all(len(about) > 15 for about in lines.values())
    if name == "forget":
        assert list(lines) == method_names()
    else:
        assert lines.keys() >= {"linear_probe", "full", "lora_published", "retain_only"}


@pytest.fixture
def reached(monkeypatch):
    """Options that reach the pipelines, whose work is left out."""
    import hf_dtl.hub.publish
    import hf_dtl.pipeline.audit
    import hf_dtl.pipeline.forget
    import hf_dtl.pipeline.verify

    seen = []

    def stop(*given, **options):
        seen.append(given[0] if not options else (given, options))
        raise DataError("no further")

    for name, entry in (("audit", "run"), ("forget", "open_job"), ("verify", "run")):
        monkeypatch.setattr(sys.modules[f"hf_dtl.pipeline.{name}"], entry, stop)
    monkeypatch.setattr(hf_dtl.hub.publish, "publish", stop)
    return seen


def test_options_reach_the_work_and_errors_are_one_line(reached, capsys):
    assert ended(capsys, "forget", "m", "--forget", "class=3", "--methods=scrub", "--unlearn-steps", 7)[2] == (
        "DataError: no further\n"
    )
    assert reached.pop() == ForgetOptions(model="m", forget="class=3", method="scrub", steps=7)
    assert ended(capsys, "audit", *GIVEN, "--resume")[2] == "DataError: no further\n"
    assert reached.pop() == AuditOptions(scrubbed="a", undisposed="b", forget="mnist[0-5]", resume=True)
    assert ended(capsys, "verify", "m", "--budgets", 5) == (2, "", "DataError: no further\n")
    assert reached.pop() == VerifyOptions(model="m", budgets="5")
    assert ended(capsys, "publish", "f", "ann/x", "--dry_run")[2] == "DataError: no further\n"
    assert reached.pop()[1]["dry_run"] is True


OLD = {
    "dtl_finetune": """adapt_epochs adapt_learning_rate attack_learning_rates attacks audit_seeds augmentation
        batch_size bf16 budgets dispose_batch_size dispose_learning_rate dispose_steps forget_weight image_column
        image_size max_eval_images methods model_name_or_path novel_dataset novel_label_column output_dir
        pretrain_epochs pretrain_learning_rate retrain_epochs revision save_steps seed source_dataset
        source_images_per_class source_label_column successive_halving target_dataset
        target_images_per_class target_label_column use_cpu""",
    "unlearn": """attack_learning_rates attacks audit_seeds augmentation batch_size bf16 budgets dataset forget
        forget_tasks forget_weight goal image_column image_size images images_per_class label_column max_eval_images
        membership methods model_name_or_path output_dir reference retrain_epochs retrain_learning_rate retrained
        retrained_revision revision save_steps seed successive_halving task_columns train_epochs train_learning_rate
        unlearn_batch_size unlearn_learning_rate unlearn_steps use_cpu""",
    "audit": """attacks budgets full_learning_rates image_column image_size linear_probe_learning_rates
        lora_learning_rates max_eval_images max_stack max_train_images_per_class membership method novel_dataset
        novel_label_column output_dir processor resume retrain retrain_batch_size retrain_epochs retrain_learning_rate
        retrained retrained_revision scratch scratch_revision scrubbed scrubbed_revision seed seeds source_dataset
        source_label_column successive_halving target_dataset target_label_column target_margin undisposed
        undisposed_revision use_cpu""",
    "verify": """attacks budgets forget novel_dataset output_dir revision source_dataset target_dataset use_cpu
        verify""",
}


@pytest.mark.parametrize("script", OLD)
def test_the_scripts_options_of_old_are_still_understood(script):
    command = Command(script, OPTIONS.get(script, ForgetOptions))
    for name in OLD[script].split():
        assert command._own_name(f"--{name}") and command._own_name(f"--{name.replace('_', '-')}")


@pytest.mark.parametrize(("holds", "status"), [(True, 0), (False, 1)])
def test_the_status_of_verify_says_whether_the_report_holds(holds, status, capsys, monkeypatch):
    import hf_dtl.pipeline.verify

    table = SimpleNamespace(rich=lambda: "CELLS")
    found = SimpleNamespace(holds=holds, table=lambda: table, sentences=lambda: ["It [is] so."])
    monkeypatch.setattr(hf_dtl.pipeline.verify, "run", lambda options: found)
    code, out, _ = ended(capsys, "verify", "m", "--use_cpu")
    assert code == status and out == "CELLS\nIt [is] so.\n"


def test_ctrl_c_says_what_continues(monkeypatch, capsys):
    def interrupt(options):
        raise KeyboardInterrupt

    import hf_dtl.pipeline.audit
    import hf_dtl.pipeline.forget

    monkeypatch.setattr(hf_dtl.pipeline.forget, "open_job", interrupt)
    monkeypatch.setattr(hf_dtl.pipeline.audit, "run", interrupt)
    assert ended(capsys, "forget")[2] == "Interrupted. Start the same command again to continue.\n"
    assert ended(capsys, "audit", *GIVEN)[2] == "Interrupted. Start the same command with --resume to continue.\n"


@dataclass
class Options:
    budget: int = option(5, "Images.")


def run(monkeypatch, *words, main=lambda options: None):
    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    run_script(Options, main)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--bugdet", "3"), "has no option '--bugdet'. Did you mean --budget? --help lists all options."),
        (("--zzz=1",), "has no option '--zzz'. --help lists all options."),
        (
            ("three",),
            "has no argument 'three'.",
        ),
    ],
)
def test_an_unknown_option_is_named_before_any_work(monkeypatch, capsys, words, said):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, *words, main=lambda options: pytest.fail("it went on"))
    assert end.value.code == 2 and said in capsys.readouterr().err


def test_options_reach_a_program_of_its_own_and_errors_are_one_line(monkeypatch):
    seen = []
    run(monkeypatch, "--budget", "7", main=seen.append)
    assert seen == [Options(7)]

    def refuse(options):
        raise ConfigError("no")

    with pytest.raises(SystemExit, match="ConfigError: no"):
        run(monkeypatch, main=refuse)


@pytest.mark.parametrize("words", ["--help", "forget --help", "forget --list"])
def test_a_reader_that_leaves_ends_it_quietly(words):
    program = f"{shlex.quote(sys.executable)} -u -m hf_dtl.cli {words} | head -1"
    done = subprocess.run(["sh", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.count("\n") == 1 and not done.stderr
