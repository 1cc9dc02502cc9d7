"""Names in options that are checked before anything heavy is loaded: methods and attacks."""

from collections.abc import Sequence

from hf_dtl.audit.attacks.registry import attack_names, attack_sets
from hf_dtl.cli.parsing import refuse
from hf_dtl.methods.registry import method_names
from hf_dtl.options import nearest


def check_methods(text: str | None) -> None:
    """End with the nearest right name where a list of methods, NAME[:OPTION=VALUE]...,... names one that is none."""
    _check("method", text, method_names(), "method")


def check_attacks(text: str | None) -> None:
    """The same for a list of attacks and sets of them."""
    _check("attack", text, (*attack_sets(), *attack_names()), "attacks")


def _check(what: str, text: str | None, known: Sequence[str], option: str) -> None:
    for name in (part.partition(":")[0].strip() for part in (text or "").split(",")):
        if name and name not in known:
            hint = f"{nearest(name, known)} There are: {', '.join(known)}."
            refuse(f"ConfigError: Unknown {what} {name!r} in --{option} {text!r}.{hint}")
