"""The command that repeats what a report speaks of."""

import shlex
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any


def command(name: str, options: Any, cls: type, instead: dict[str, Any], processes: int = 1) -> str:
    """Write a command with the options that differ from their defaults, without folders of the machine.

    Args:
        name: of the subcommand.
        options: what was asked for.
        cls: its dataclass.
        instead: values in place of those of the options.
        processes: number of processes.
    """
    words = ["hf-dtl", name]
    if processes > 1:
        words = ["accelerate", "launch", "--num_processes", str(processes), "-m", "hf_dtl.cli", name]
    plain = {f.name: f.default for f in fields(cls)}
    for option, value in (asdict(options) | instead).items():
        if value != plain[option] and option not in ("output_dir", "resume", "save_steps", "goal"):
            words += [f"--{option}", shlex.quote(_public(value))]
    return " ".join(words)


def _public(value: Any) -> str:
    """A value without the folders above a path."""
    path = Path(str(value)).expanduser()
    return path.name if path.is_absolute() and path.exists() else str(value)
