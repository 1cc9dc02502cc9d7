"""The command that repeats what a report speaks of."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_OF_THE_RUN = ("output_dir", "resume", "save_steps", "goal")


def command(name: str, options: Mapping[str, Any], plain: Mapping[str, Any], processes: int = 1) -> str:
    """Write a command with the options that differ from their defaults, without folders of the machine.

    Args:
        name: of the subcommand.
        options: options by name.
        plain: what they are where nobody gives them.
        processes: number of processes.
    """
    words = ["hf-dtl", name]
    if processes > 1:
        words = ["accelerate", "launch", "--num_processes", str(processes), "-m", "hf_dtl.cli", name]
    for option, value in options.items():
        if value != plain.get(option) and option not in _OF_THE_RUN:
            words += [f"--{option}", shlex.quote(_public(value))]
    return " ".join(words)


def _public(value: Any) -> str:
    """A value without the folders above a path."""
    path = Path(str(value)).expanduser()
    return path.name if path.is_absolute() and path.exists() else str(value)
