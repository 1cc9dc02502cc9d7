"""Methods as a command line names them, `gradient_collision:chunking=random`: a name and options of its config."""

import dataclasses
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from hf_dtl.errors import ConfigError
from hf_dtl.methods.registry import find_method, method_names

if TYPE_CHECKING:
    from hf_dtl.trainers.config import UnlearningConfig
    from hf_dtl.trainers.trainer import UnlearningTrainer


@dataclass(frozen=True)
class MethodChoice:
    """A method with options of its own.

    `text` is how it was asked for, `folder` the same as a file name.
    """

    name: str
    text: str
    options: dict[str, Any]

    @property
    def trainer_class(self) -> "type[UnlearningTrainer]":
        """The method's trainer, imported when it is asked for."""
        return find_method(self.name)

    @property
    def config_class(self) -> "type[UnlearningConfig]":
        """The method's config."""
        return self.trainer_class.config_class

    @property
    def folder(self) -> str:
        """The choice as a file name."""
        return re.sub(r"[^\w.-]", "_", self.text.replace(":", "-"))

    def config(self, **common: Any) -> "UnlearningConfig":
        """The method's config; its own options win over the common ones."""
        return self.config_class(**common | self.options)


def parse_method(text: str) -> MethodChoice:
    """Read `NAME[:OPTION=VALUE]...`, the options being fields of the method's config.

    Raises:
        ConfigError: an unknown method or option, or a value of the wrong type.

    Example:
        >>> parse_method("gradient_collision:chunking=random").options
        {'chunking': 'random'}
    """
    name, *pairs = text.strip().split(":")
    if not pairs and name in method_names():
        return MethodChoice(name, text.strip(), {})
    config_class, options = find_method(name).config_class, {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        fields = {f.name: f for f in dataclasses.fields(config_class) if f.name not in config_class.unused}
        if not equals or key not in fields:
            raise ConfigError(
                f"{name} has no option {key!r} in {text!r}; write {name}:OPTION=VALUE with one of: "
                f"{', '.join(own_fields(config_class))}, or any of transformers.TrainingArguments."
            )
        if key == "output_dir":
            raise ConfigError(f"{name}:output_dir cannot be set: a method writes to its own folder of the output.")
        options[key] = _value(name, fields[key], value)
    return MethodChoice(name, text.strip(), options)


def own_fields(config_class: "type[UnlearningConfig]") -> list[str]:
    """Options that the method and `UnlearningConfig` add to TrainingArguments, those without effect left out."""
    from transformers import TrainingArguments  # loads torch

    others = {f.name for f in dataclasses.fields(TrainingArguments)} | config_class.unused
    return [f.name for f in dataclasses.fields(config_class) if f.name not in others]


def _value(name: str, field: dataclasses.Field, text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    wanted = type(field.default)
    if field.default is None:  # X | None
        wanted = next((kind for kind in get_args(field.type) if kind is not type(None)), str)
    if wanted is float and type(value) in (int, str):  # JSON has no ".5"
        with suppress(ValueError):
            return float(value)
    if wanted in (bool, int, float) and type(value) is not wanted:
        raise ConfigError(f"{name}:{field.name}={text} must be a {wanted.__name__}.")
    return value


def parse_methods(text: str) -> list[MethodChoice]:
    """Read a comma-separated list of methods, as `parse_method` reads each; each may be named once."""
    choices = [parse_method(part) for part in text.split(",") if part.strip()]
    if not choices or len({choice.text for choice in choices}) < len(choices):
        known = ", ".join(method_names())
        raise ConfigError(f"--methods {text!r} must name one or several different methods: {known}.")
    return choices


def with_goal(text: str, goal: str) -> str:
    """A list of methods in which those that have goals, and name none, are given this one.

    Raises:
        ConfigError: no method of the list has goals.

    Example:
        >>> with_goal("instancewise:epsilon=2,salun", "relabel")
        'instancewise:epsilon=2:goal=relabel,salun'
    """
    choices = parse_methods(text)
    having = [choice for choice in choices if "goal" in own_fields(choice.config_class)]
    if not having:
        names = ", ".join(name for name in method_names() if "goal" in own_fields(find_method(name).config_class))
        raise ConfigError(f"--goal {goal} is for methods that have goals: {names}. Leave it out for {text!r}.")
    return ",".join(f"{c.text}:goal={goal}" if c in having and "goal" not in c.options else c.text for c in choices)
