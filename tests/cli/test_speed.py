"""What answers at once: the package, every help and every mistake of a command line."""

import pytest
from cli.commands import TRACED, python

HELP = [(name, "--help") for name in ("forget", "audit", "verify", "publish", "metrics")]
MISTAKES = [
    ("adit",),
    ("audit", "--bugdet", "5"),
    ("audit", "--attacks", "ful", "--scrubbed", "a", "--undisposed", "b", "--forget", "mnist[0-5]"),
    ("forget", "--method", "scrup"),
    ("verify", "a", "--attacks", "ful"),
    ("publish", "--foldr", "a"),
    ("metrics", "instal"),
]


def test_the_package_alone():
    ended = python("import hf_dtl, sys; hf_dtl.__version__, dir(hf_dtl); print('torch' in sys.modules)")
    assert ended.out == "False\n" and ended.seconds < 1


@pytest.mark.parametrize("words", [(), *HELP, ("forget", "--list"), ("audit", "--list"), *MISTAKES])
def test_a_command_that_does_no_work(words):
    ended = python(TRACED, *words)
    assert ended.out.endswith("loaded:\n"), ended
    assert ended.status == (
        0 if words not in MISTAKES else 1 if "ConfigError" in ended.err and "verify" not in words else 2
    )
    assert ended.seconds < 2
