"""Methods as a command line names them, `gradient_collision:chunking=random`: a name and options of its config."""

import dataclasses
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, get_args

from hf_dtl import methods
from hf_dtl.errors import ConfigError
from hf_dtl.trainers.config import UnlearningConfig
from hf_dtl.trainers.trainer import UnlearningTrainer

Methods = dict[str, tuple[type[UnlearningConfig], type[UnlearningTrainer]]]

METHODS: Methods = {
    "representation_erasure": (methods.RepresentationErasureConfig, methods.RepresentationErasureTrainer),
    "gradient_collision": (methods.GradientCollisionConfig, methods.GradientCollisionTrainer),
    "feature_eraser": (methods.FeatureEraserConfig, methods.FeatureEraserTrainer),
    "noise_then_distil": (methods.NoiseThenDistilConfig, methods.NoiseThenDistilTrainer),
    "fresh_distillation": (methods.FreshDistillationConfig, methods.NoiseThenDistilTrainer),
    "weight_distortion": (methods.WeightDistortionConfig, methods.WeightDistortionTrainer),
    "weight_distance": (methods.WeightDistanceRegularisationConfig, methods.WeightDistanceRegularisationTrainer),
    "non_fine_tunable": (methods.NonFineTunableConfig, methods.NonFineTunableTrainer),
    "projected_gradient": (methods.ProjectedGradientConfig, methods.ProjectedGradientTrainer),
    "negative_ce": (methods.NegativeCrossEntropyConfig, methods.NegativeCrossEntropyTrainer),
    "random_fooling": (methods.RandomFoolingConfig, methods.RandomFoolingTrainer),
    "uniform_fooling": (methods.UniformFoolingConfig, methods.UniformFoolingTrainer),
    "retrain": (methods.RetrainConfig, methods.RetrainTrainer),
    "fine_tune": (methods.FineTuneConfig, methods.FineTuneTrainer),
    "neg_grad_plus": (methods.NegGradPlusConfig, methods.NegGradPlusTrainer),
    "random_label": (methods.RandomLabelConfig, methods.RandomLabelTrainer),
    "unseen_label": (methods.UnseenLabelConfig, methods.UnseenLabelTrainer),
    "bad_teaching": (methods.BadTeachingConfig, methods.BadTeachingTrainer),
    "scrub": (methods.ScrubConfig, methods.ScrubTrainer),
    "salun": (methods.SalUnConfig, methods.SalUnTrainer),
    "instancewise": (methods.InstanceUnlearningConfig, methods.InstanceUnlearningTrainer),
    "ssd": (methods.SelectiveSynapticDampeningConfig, methods.SelectiveSynapticDampeningTrainer),
}


@dataclass(frozen=True)
class MethodChoice:
    """A method with options of its own.

    `text` is how it was asked for, `folder` the same as a file name.
    """

    name: str
    text: str
    config_class: type[UnlearningConfig]
    trainer_class: type[UnlearningTrainer]
    options: dict[str, Any]

    @property
    def folder(self) -> str:
        """The choice as a file name."""
        return re.sub(r"[^\w.-]", "_", self.text.replace(":", "-"))

    def config(self, **common: Any) -> UnlearningConfig:
        """The method's config; its own options win over the common ones."""
        return self.config_class(**common | self.options)


def parse_method(text: str, known: Methods = METHODS) -> MethodChoice:
    """Read `NAME[:OPTION=VALUE]...`, the options being fields of the method's config.

    Args:
        text: what a user writes.
        known: the methods that there are, by name.

    Raises:
        ConfigError: an unknown method or option, or a value of the wrong type.

    Example:
        >>> parse_method("gradient_collision:chunking=random").options
        {'chunking': 'random'}
    """
    name, *pairs = text.strip().split(":")
    if name not in known:
        raise ConfigError(f"Unknown method {name!r}; the methods are: {', '.join(known)}.")
    config_class, trainer_class = known[name]
    fields = {f.name: f for f in dataclasses.fields(config_class)}
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in fields:
            raise ConfigError(
                f"{name} has no option {key!r} in {text!r}; write {name}:OPTION=VALUE with one of: "
                f"{', '.join(own_fields(config_class))}, or any of transformers.TrainingArguments."
            )
        if key == "output_dir":
            raise ConfigError(
                f"{name}:output_dir cannot be set: a method writes to its own folder of the run's output."
            )
        options[key] = _value(name, fields[key], value)
    return MethodChoice(name, text.strip(), config_class, trainer_class, options)


def own_fields(config_class: type[UnlearningConfig]) -> list[str]:
    """Names of the fields that the method's config and `UnlearningConfig` add to TrainingArguments."""
    inherited = {f.name for f in dataclasses.fields(UnlearningConfig.__mro__[1])}
    return [f.name for f in dataclasses.fields(config_class) if f.name not in inherited]


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


def parse_methods(text: str, known: Methods = METHODS) -> list[MethodChoice]:
    """Read a comma-separated list of methods, as `parse_method` reads each; each may be named once."""
    choices = [parse_method(part, known) for part in text.split(",") if part.strip()]
    texts = [choice.text for choice in choices]
    if not choices or len(set(texts)) < len(texts):
        raise ConfigError(f"--methods {text!r} must name one or several different methods: {', '.join(known)}.")
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
    if not any("goal" in own_fields(choice.config_class) for choice in choices):
        having = ", ".join(name for name, (config_class, _) in METHODS.items() if "goal" in own_fields(config_class))
        raise ConfigError(f"--goal {goal} is for methods that have goals: {having}. Leave it out for {text!r}.")
    takes = [c for c in choices if "goal" in own_fields(c.config_class) and "goal" not in c.options]
    return ",".join(f"{c.text}:goal={goal}" if c in takes else c.text for c in choices)
