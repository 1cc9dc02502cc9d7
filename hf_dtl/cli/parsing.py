"""From the words of a command line to a flat dataclass of options; imports no torch.

Words are read here, so that a flag may stand alone (`--resume`, and `--resume False`), words may have hyphens or
underscores, and whatever is wrong is one line; tyro, which knows none of these forms, writes the help.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from io import StringIO
from itertools import takewhile
from textwrap import indent
from typing import Annotated, Any, NoReturn, get_args, get_type_hints

from hf_dtl.options import nearest

GROUPS = ("what to forget", "model", "method", "audit", "run")
"""Headings of the help, in this order; others follow."""
KINDS = {int: "a whole number", float: "a number", bool: "True or False"}
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Command:
    """A command as it is started.

    Args:
        prog: the words that start it.
        options: dataclass whose fields are made by `hf_dtl.options.option`.
        description: what it does.
        examples: command lines.
        places: options that the words at the beginning stand for.
        defaults: in place of those of the dataclass.
        required: options that must be given although the dataclass has a default.
    """

    prog: str
    options: type
    description: str = ""
    examples: str = ""
    places: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()

    def parse(self, words: Sequence[str]) -> Any:
        """Read words into the dataclass. Forms: `--name value`, `--name=value`, `--flag`, `--flag False`, hyphens too.

        Raises:
            SystemExit: status 0 after `--help`, 2 after one line about the first word that is wrong.
            ConfigError: the dataclass refuses the options.
        """
        if any(word in ("-h", "--help") for word in words):
            self._help()
        given = {**self.defaults, **self._values(words)}
        missing = [f"--{f.name}" for f in fields(self.options) if f.name not in given and self._default(f) is MISSING]
        if missing:
            refuse(f"These options are missing: {', '.join(missing)}. --help says what they mean.")
        return self.options(**given)

    def _values(self, words: Sequence[str]) -> dict[str, Any]:
        """Value by name of option, of the right type; of an option that is given twice the last one."""
        kinds = {name: kind_of(hint) for name, hint in get_type_hints(self.options).items()}
        found: dict[str, Any] = {}
        rest = self._named(words)
        while rest:
            word, equals, text = rest.pop(0).partition("=")
            name = self._own_name(word)
            follows = bool(rest) and not rest[0].startswith("--")
            if not equals and kinds[name] is bool:
                text = rest.pop(0) if follows and rest[0].lower() in TRUTH else "True"
            elif not equals:
                if not follows:
                    refuse(f"{word} needs a value: {word} VALUE. --help lists all options.")
                text = rest.pop(0)
            try:
                found[name] = TRUTH[text.lower()] if kinds[name] is bool else kinds[name](text)
            except (KeyError, ValueError):
                refuse(f"{word} {text!r} must be {KINDS[kinds[name]]}.")
        return found

    def _named(self, words: Sequence[str]) -> list[str]:
        """Words with the names of their options before those at the beginning."""
        first = list(takewhile(lambda word: not word.startswith("-"), words))[: len(self.places)]
        pairs = zip(self.places, first, strict=False)
        return [*(f"--{name}={word}" for name, word in pairs), *words[len(first) :]]

    def _own_name(self, word: str) -> str:
        """The field that an option stands for, written with hyphens or underscores, or as one of its aliases."""
        names = {alias: f.name for f in fields(self.options) for alias in f.metadata.get("aliases", ())}
        names |= {f.name: f.name for f in fields(self.options)}
        name = word.removeprefix("--").replace("-", "_")
        if word.startswith("--") and name in names:
            return names[name]
        what = "option" if word.startswith("-") else "argument"
        near = nearest(f"--{name}", (f"--{known}" for known in names)) if what == "option" else ""
        refuse(f"There is no {what} {word!r}.{near} --help lists all options.")

    def _default(self, f: dataclasses.Field) -> Any:
        if f.name in self.required:
            return MISSING
        return self.defaults.get(f.name, f.default if f.default_factory is MISSING else f.default_factory())

    def _help(self) -> NoReturn:
        """Print the help, options under the headings of their groups, and end."""
        import tyro

        hints = get_type_hints(self.options)
        groups: dict[str, list[Any]] = {heading: [] for heading in GROUPS}
        for f in fields(self.options):
            groups.setdefault(f.metadata.get("group", ""), []).append(self._shown(f, hints[f.name]))
        alone, parts = groups.pop("", []), []
        for heading, own in groups.items():
            name = heading.replace(" ", "_")
            parts.append((name, Annotated[make_dataclass(name, own), tyro.conf.arg(name=heading)]))
        written = StringIO()
        with redirect_stdout(written), suppress(SystemExit):
            tyro.cli(
                make_dataclass("Options", [*alone, *(part for part in parts if groups[part[0].replace("_", " ")])]),
                args=["--help"],
                description="",
                use_underscores=True,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff, tyro.conf.DisallowNone),
            )
        print(" ".join(["usage:", self.prog, *(f"[{place.upper()}]" for place in self.places), "[OPTIONS]"]))
        if self.description:
            print(f"\n{self.description.strip()}")
        if self.examples:
            print(f"\n{indent(self.examples.rstrip(), '  ')}")
        print(*(line.rstrip() for line in written.getvalue().rstrip().splitlines()[1:]), sep="\n")
        sys.exit(0)

    def _shown(self, f: dataclasses.Field, hint: Any) -> tuple[str, Any, Any]:
        """A field as the help shows it; a default of None is told by its text."""
        import tyro

        default = self._default(f)
        told = "(required)" if default is MISSING else f"(default: {default})"
        about = tyro.conf.arg(help=f.metadata.get("help", ""), help_behavior_hint="" if default is None else told)
        return f.name, Annotated[hint, about], field(default=default, kw_only=True)


def kind_of(hint: Any) -> type:
    """The type of a value, without None.

    Example:
        >>> kind_of(int | None)
        <class 'int'>
    """
    return next((kind for kind in get_args(hint) if kind is not type(None)), hint)


def refuse(line: str) -> NoReturn:
    """End with one line and status 2."""
    print(line, file=sys.stderr)
    sys.exit(2)
