"""The help of a command, written by tyro from a dataclass of options, under the headings of their groups."""

from contextlib import redirect_stdout, suppress
from dataclasses import MISSING, Field, field, fields, make_dataclass
from io import StringIO
from textwrap import indent
from typing import Annotated, Any, get_type_hints

import tyro

from hf_dtl.cli.parsing import Command

GROUPS = ("what to forget", "model", "method", "audit", "run")
"""Headings in this order; options of no group stand before them."""


def show_help(command: Command) -> None:
    """Print how a command is started, what it does, examples, and every option with its meaning and default."""
    places = [f"[{place.upper()}]" for place in command.places]
    print("usage:", command.prog, *places, "[OPTIONS]")
    if command.description:
        print(f"\n{command.description.strip()}")
    if command.examples:
        print(f"\n{indent(command.examples.rstrip(), '  ')}")
    written = StringIO()  # tyro would make one paragraph of description and examples
    with redirect_stdout(written), suppress(SystemExit):
        tyro.cli(
            _grouped(command),
            args=["--help"],
            description="",
            use_underscores=True,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff, tyro.conf.DisallowNone),
        )
    print(*(line.rstrip() for line in written.getvalue().rstrip().splitlines()[1:]), sep="\n")


def _grouped(command: Command) -> type:
    """The options with a dataclass for each group."""
    hints = get_type_hints(command.options)
    by_group: dict[str, list[Any]] = {heading: [] for heading in ("", *GROUPS)}
    for f in fields(command.options):
        by_group[f.metadata.get("group", "")].append((f.name, *_help_field(f, hints[f.name], command.default(f))))
    parts = [
        (
            heading.replace(" ", "_"),
            Annotated[make_dataclass(heading.replace(" ", "_"), own), tyro.conf.arg(name=heading)],
        )
        for heading, own in by_group.items()
        if heading and own
    ]
    return make_dataclass("Options", [*by_group[""], *parts])


def _help_field(f: Field, hint: Any, default: Any) -> tuple[Any, Any]:
    """Type and default of an option as the help shows it; what None stands for, its own text tells."""
    default_text = "(required)" if default is MISSING else f"(default: {default})"
    about = tyro.conf.arg(help=f.metadata.get("help", ""), help_behavior_hint="" if default is None else default_text)
    return Annotated[hint, about], field(default=default, kw_only=True)
