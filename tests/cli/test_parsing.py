"""From words to options: every form that is in use, and one line about whatever is wrong."""

from dataclasses import dataclass

import pytest

from hf_dtl.cli.parsing import Command
from hf_dtl.options import option


@dataclass
class Options:
    model: str = option(help="Which model, 100% of it.", aliases=("model_name_or_path",))
    data: str = option("mnist[0,1]", "Which data.", group="what to forget")
    max_images: int | None = option(None, "How many.", group="what to forget")
    rate: float = option(0.1, "How fast.", group="method")
    attacks: str | None = option(None, "Which attacks.", group="audit", aliases=("attack_names",))
    membership: bool = option(True, "Whether.", group="audit")
    use_cpu: bool = option(False, "Where.", group="run")


PLACED = " Without --NAME before it stands MODEL and DATA alone, at the beginning."
COMMAND = Command("try", Options, "It tries.", "try x --use_cpu", places=("model", "data"))


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("a", {}),
        ("--model a", {}),
        ("--model=a", {}),
        ("--model-name-or-path a", {}),
        ("--model_name_or_path=a", {}),
        ("b --model a", {}),
        ("a 3[7,8]", {"data": "3[7,8]"}),
        ("a --data [4]", {"data": "[4]"}),
        ("a --data=x=1:y=2", {"data": "x=1:y=2"}),
        ("a --max_images 5", {"max_images": 5}),
        ("a --max-images=5 --max_images 6", {"max_images": 6}),
        ("a --rate 1e-3", {"rate": 1e-3}),
        ("a --rate -1", {"rate": -1.0}),
        ("a --attacks full", {"attacks": "full"}),
        ("a --attack-names 5x,grid", {"attacks": "5x,grid"}),
        ("a --use_cpu", {"use_cpu": True}),
        ("a --use-cpu --rate 2", {"use_cpu": True, "rate": 2.0}),
        ("a --use_cpu True", {"use_cpu": True}),
        ("a --use_cpu=true --membership False", {"use_cpu": True, "membership": False}),
        ("a --membership=0 --use_cpu yes", {"use_cpu": True, "membership": False}),
    ],
)
def test_forms(words, changed):
    assert COMMAND.parse(words.split()) == Options(**{"model": "a"} | changed)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("a --atacks full", "try has no option '--atacks'. Did you mean --attacks? --help lists all options."),
        ("a --use-cpus", "try has no option '--use-cpus'. Did you mean --use_cpu? --help lists all options."),
        ("a --zzzz=1", "try has no option '--zzzz'. --help lists all options."),
        ("a -x", "try has no option '-x'. --help lists all options."),
        ("a b c", f"try has no argument 'c'.{PLACED} --help lists all options."),
        ("a --use_cpu maybe", f"try has no argument 'maybe'.{PLACED} --help lists all options."),
        ("a --use_cpu=maybe", "--use_cpu 'maybe' must be True or False."),
        ("a --max_images few", "--max_images 'few' must be a whole number."),
        ("a --max_images 1.5", "--max_images '1.5' must be a whole number."),
        ("a --rate fast", "--rate 'fast' must be a number."),
        ("a --data --use_cpu", "--data needs a value: --data VALUE. --help lists all options."),
        ("a --data", "--data needs a value: --data VALUE. --help lists all options."),
        (
            "--use_cpu",
            "These options are missing: --model. Usage: try MODEL DATA [OPTIONS]. --help says what they mean.",
        ),
    ],
)
def test_a_mistake_is_one_line(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        COMMAND.parse(words.split())
    assert end.value.code == 2 and capsys.readouterr() == ("", f"{said}\n")


def test_defaults_of_a_script(capsys):
    command = Command("try", Options, defaults={"model": "b", "rate": 3.0}, required=("data",))
    assert command.parse(["--data", "x"]) == Options("b", "x", rate=3.0)
    with pytest.raises(SystemExit):
        command.parse([])
    assert "--data" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.parse(["--help"])
    shown = capsys.readouterr().out
    assert "Which data. (required)" in shown and "(default: b)" in shown and "(default: 3.0)" in shown


def test_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as end:
        COMMAND.parse(["--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0 and shown.startswith(
        "usage: try [MODEL] [DATA] [OPTIONS]\n\nIt tries.\n\n  try x --use_cpu\n"
    )
    headings = [line.strip() for line in shown.splitlines() if line.endswith(" options")]
    assert headings == ["options", "what to forget options", "method options", "audit options", "run options"]
    assert "Which model, 100% of it. (required)" in shown and "(default: mnist[0,1])" in shown
    assert "None" not in shown and "attack_names" not in shown, "one name for one thing"
