"""What every command does around its work: read the options, print, and end with a message instead of a traceback."""

import codecs
import errno
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from hf_dtl.cli.parsing import Command
from hf_dtl.errors import DTLError

if TYPE_CHECKING:
    from accelerate import PartialState
    from rich.console import Console

    from hf_dtl.audit import LeakageReport

CLAIM = "standard-1"
"""The suite that a claim takes."""
AGAIN = "Start the same command again"
PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.EISDIR,
         errno.ENOTDIR, errno.EEXIST)  # fmt: skip
"""What a file system refuses for reasons of its own."""
PLAIN = {"–": "-", "—": "-", "−": "-", "±": "+-", "×": "x", "·": ".", "→": "->", "…": "...", "†": "+", "λ": "lambda"}
"""What stands for a character that a terminal does not have."""


def _plainer(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end


codecs.register_error("plainer", _plainer)


def refused_by_the_disk(error: BaseException | None) -> str:
    """What the file system said, where that is behind an error; empty where it is not.

    Libraries in C++ and Rust tell it in errors of their own: safetensors with the number, torch without.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in PLACE:
            return f"{os.strerror(error.errno)}" + (f": {error.filename}" if error.filename else "")
        number = re.search(r"os error (\d+)", str(error))
        if number and int(number[1]) in PLACE:
            return os.strerror(int(number[1]))
        if isinstance(error, RuntimeError) and re.search(
            "PytorchStreamWriter|file write failed|iostream error", str(error)
        ):
            return os.strerror(errno.ENOSPC)
        error = error.__cause__ or error.__context__
    return ""


@contextmanager
def piped() -> Iterator[None]:
    """Let the reader of a pipe leave when it has seen enough, as `head` does."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@piped()
def run_command(
    command: Command, work: Callable[[Any], None], words: Sequence[str], again: str = AGAIN, failed: int = 1
) -> None:
    """Read the words of a command line and do the work; an error of the library ends it with its text.

    Args:
        command: what the words may say.
        work: is called with the options.
        words: without the name of the program.
        again: what continues it after Ctrl-C, as the beginning of a sentence.
        failed: status after an error of the library; if it is not 1, after any other error too.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where somebody put another one in its place
            stream.reconfigure(errors="plainer")
    try:
        work(command.parse(words))
    except KeyboardInterrupt:
        sys.exit(f"Interrupted. {again} to continue.")
    except Exception as error:
        disk = "" if isinstance(error, BrokenPipeError) else refused_by_the_disk(error)
        text = f"{type(error).__name__}: {error}"
        if not isinstance(error, DTLError) and disk:
            text = (
                f"OutputError: {disk}. Make room there or choose another place. {again} to continue: what was "
                "finished is kept."
            )
        elif not isinstance(error, DTLError) and failed == 1:
            raise  # where a status is an answer, it must not be one
        if failed == 1:
            sys.exit(text)
        print(text, file=sys.stderr)
        sys.exit(failed)


def run_script(options: type, main: Callable[[Any], None], again: str = AGAIN) -> None:
    """The same for a program with options of its own: it takes the words that this process was started with.

    Args:
        options: dataclass whose fields are made by `hf_dtl.options.option`.
        main: the program's work; the text at the top of its file is the description.
        again: what continues it after Ctrl-C, as the beginning of a sentence.
    """
    module = inspect.getmodule(main)
    about = module.__doc__ if module is not None else None
    run_command(Command(Path(sys.argv[0]).name, options, about or ""), main, sys.argv[1:], again)


def console(width: int = 120) -> "Console":
    """The terminal; for a file or pipe Rich would take 80 columns and break the tables.

    Args:
        width: columns where there is no terminal.
    """
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=width)


def say(*sentences: str) -> None:
    """Print sentences as they are, wrapped at the width of the terminal."""
    for sentence in sentences:
        console().print(sentence, highlight=False, markup=False)


@piped()
def show_names(descriptions: Mapping[str, str]) -> None:
    """Print names, each with one line about it."""
    width = max(map(len, descriptions))
    for name, line in descriptions.items():
        print(f"{name:<{width}}  {line}".rstrip())


def show_reports(reports: Sequence["LeakageReport"], holds: str, commands: Mapping[str, str]) -> None:
    """Print the table, the verdict, where everything lies and what to try next, so that the verdict is read last.

    Args:
        reports: one a method or model; of several the table compares them, and the first one's verdict is given.
        holds: what lies where.
        commands: to try next, by what each is for.
    """
    from hf_dtl.audit import comparison_table, table

    terminal = console()
    terminal.print(*([comparison_table(reports)] if len(reports) > 1 else table(reports[0])))
    say(*dict.fromkeys(note for report in reports for note in report.settings.get("notes", ())))
    say(*dict.fromkeys(str(flag) for report in reports for flag in report.flags))
    say("", f"Verdict on {reports[0].method}:", reports[0].verdict, "", holds, "", "Next:")
    for purpose, command in commands.items():
        say(f"  {purpose}:")
        print(f"    {command}")  # unwrapped, to be copied


def spelled(prog: str, options: Any, plain: Mapping[str, Any] | None = None, **changed: Any) -> str:
    """A command line that says every option which differs from its default.

    Args:
        prog: the words that start it.
        options: dataclass of options.
        plain: the defaults; None takes those of the fields.
        **changed: values in place of those of `options`.
    """
    chosen = {f.name: changed.get(f.name, getattr(options, f.name)) for f in fields(options)}
    plain = plain or {f.name: f.default for f in fields(options)}
    words = [f"--{name} {quote(str(value))}" for name, value in chosen.items() if value not in (None, plain[name])]
    return " ".join([prog, *words])


def end_processes(state: "PartialState") -> None:
    """Wait for all processes, and leave their group."""
    import torch

    state.wait_for_everyone()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
