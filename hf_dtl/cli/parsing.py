"""From the words of a command line to a flat dataclass of options; imports no torch.

The words are read here, so that a flag may stand alone or have a value, an option may be called by an older name, and
a mistake is one line; tyro writes the help.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from itertools import takewhile
from typing import Any, NoReturn, get_args, get_type_hints

from hf_dtl.options import TYPE_WORDS, nearest

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
            from hf_dtl.cli.help import show_help  # loads tyro

            show_help(self)
            sys.exit(0)
        given = {**self.defaults, **self._values(words)}
        missing = [f"--{f.name}" for f in fields(self.options) if f.name not in given and self.default(f) is MISSING]
        if missing:
            form = " ".join([self.prog, *(place.upper() for place in self.places), "[OPTIONS]"])
            refuse(f"These options are missing: {', '.join(missing)}. Usage: {form}. --help says what they mean.")
        return self.options(**given)

    def _values(self, words: Sequence[str]) -> dict[str, Any]:
        """Value by name of option, of the right type; of an option that is given twice the last one."""
        kinds = {name: kind_of(hint) for name, hint in get_type_hints(self.options).items()}
        found: dict[str, Any] = {}
        rest = self._with_names(words)
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
                refuse(f"{word} {text!r} must be {TYPE_WORDS[kinds[name]]}.")
        return found

    def _with_names(self, words: Sequence[str]) -> list[str]:
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
        near = nearest(f"--{name}", (f"--{known}" for known in names)) if what == "option" else self._placed()
        refuse(f"{self.prog} has no {what} {word!r}.{near} --help lists all options.")

    def _placed(self) -> str:
        """What words without a name stand for."""
        places = " and ".join(place.upper() for place in self.places) or "nothing"
        return f" Without --NAME before it stands {places} alone, at the beginning."

    def default(self, f: Field) -> Any:
        """What an option is when nobody gives it; MISSING where somebody must."""
        if f.name in self.required:
            return MISSING
        return self.defaults.get(f.name, f.default if f.default_factory is MISSING else f.default_factory())


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
