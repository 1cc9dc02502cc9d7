"""Every method by name, listed without importing torch: the package's own files, entry points, and run-time additions.

A method is one file: a config, and a trainer under `@register_method("name")` whose `config_class` it is. In this
package its decorator line makes it known. In another package an entry point of the group `hf_dtl.methods` does,
`name = "module:TrainerClass"`; in a script, running the decorator.
"""

import ast
import importlib
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hf_dtl.errors import ConfigError
from hf_dtl.options import nearest

if TYPE_CHECKING:
    from hf_dtl.trainers.trainer import UnlearningTrainer

GROUP = "hf_dtl.methods"
"""Entry points of methods in other packages."""

Trainer = TypeVar("Trainer", bound="type[UnlearningTrainer]")
_registered: dict[str, "type[UnlearningTrainer]"] = {}


def register_method(name: str) -> Callable[[Trainer], Trainer]:
    """Make a trainer known by a name; its class attribute `config_class` is the method's config.

    Args:
        name: as a command line writes it: letters, digits and underscores.

    Raises:
        ConfigError: no such name, no `config_class`, or another method is called so.

    Example:
        @register_method("forget_by_hand")
        class ForgetByHandTrainer(UnlearningTrainer):
            config_class = ForgetByHandConfig
    """

    def register(trainer: Trainer) -> Trainer:
        if not name.isidentifier():
            raise ConfigError(f"A method cannot be called {name!r}: use letters, digits and underscores.")
        if "config_class" not in vars(trainer):
            raise ConfigError(f"{trainer.__name__} needs a class attribute config_class to be the method {name!r}.")
        other = _registered.get(name, trainer)
        there, _ = _own_methods().get(name, (other.__module__, ""))
        if there != trainer.__module__ or other.__qualname__ != trainer.__qualname__:
            raise ConfigError(f"There is a method {name!r} already, of {there}; choose another name.")
        _registered[name] = trainer
        return trainer

    return register


def method_names() -> list[str]:
    """Names of all methods, in the order of the alphabet; none of them is imported."""
    return sorted({*_own_methods(), *_registered, *(point.name for point in entry_points(group=GROUP))})


def method_summaries() -> dict[str, str]:
    """One sentence a method, the first line of its trainer's docstring, in the order of `method_names`.

    None is imported: of another package's methods that were not yet loaded it is told where they come from.
    """
    about = {point.name: point.value for point in entry_points(group=GROUP)}
    about |= {name: (trainer.__doc__ or "").strip().partition("\n")[0] for name, trainer in _registered.items()}
    for _, node in _definitions():
        about |= dict.fromkeys(_decorated(node), (ast.get_docstring(node) or "").partition("\n")[0])
    return {name: about[name] for name in method_names()}


def find_method(name: str) -> "type[UnlearningTrainer]":
    """The trainer class of a method, imported now.

    Raises:
        ConfigError: no method is called so, or another package's cannot be loaded.

    Example:
        >>> find_method("scrub").config_class.__name__
        'ScrubConfig'
    """
    if name in _own_methods():
        module, trainer = _own_methods()[name]
        return getattr(importlib.import_module(module), trainer)
    if name in _registered:
        return _registered[name]
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if not points:
        known = method_names()
        raise ConfigError(
            f"Unknown method {name!r}; the methods are: {', '.join(known)}.{nearest(name, known, quoted=True)} "
            "One from elsewhere must be installed, or imported first (CONTRIBUTING.md)."
        )
    try:
        trainer = points[0].load()
        _ = trainer.config_class
    except Exception as error:  # whatever another package does
        raise ConfigError(
            f"The method {name!r} of another package cannot be loaded from {points[0].value!r}: {error}. Repair or "
            "uninstall that package."
        ) from error
    return trainer


def public_names() -> dict[str, str]:
    """Every public class and function that the files of methods define → its submodule of `hf_dtl.methods`."""
    return {name: module for module, node in _definitions() if not (name := node.name).startswith("_")}


Definition = ast.ClassDef | ast.FunctionDef


@cache
def _definitions() -> list[tuple[str, Definition]]:
    """Classes and functions at the top of every file of methods, read and not run."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    trees = {file.stem: ast.parse(file.read_text(encoding="utf-8")) for file in files if file != Path(__file__)}
    return [(module, n) for module, tree in trees.items() for n in tree.body if isinstance(n, Definition)]


@cache
def _own_methods() -> dict[str, tuple[str, str]]:
    """Method of this package → module that defines it, and its trainer."""
    return {name: (f"{__package__}.{file}", node.name) for file, node in _definitions() for name in _decorated(node)}


def _decorated(node: Definition) -> Iterator[str]:
    for call in node.decorator_list:
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == register_method.__name__:
            yield ast.literal_eval(call.args[0])
