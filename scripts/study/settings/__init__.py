"""What is compared on what, as data: a file of settings for each study."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_dtl.data import embedded_processor
from hf_dtl.errors import ConfigError
from hf_dtl.models.built_in import built_in_model
from hf_dtl.pipeline.stages import fresh_folder, replace_folder


@dataclass(frozen=True)
class Knob:
    """The one option of a method that says how hard it disposes, and the values that are tried, ascending."""

    option: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Setting:
    """Data, a model, and the options that all methods share.

    Args:
        title: what is compared on what, for the head of the table.
        options: of `ForgetOptions`; `{data_dir}` and `{model}` stand for what is given with --data_dir and --model.
        methods: compared unless --methods says otherwise, as a command line names them; none: those of the study.
        tiny_resnet: write a small ResNet with random weights, another one for each seed, and start from it.
        classes: of its head.
        widths, depth, image_size: of its stages, of each of them, and of its images in pixels.
        partial: of several tasks, those that images are forgotten for in the scope partial.
    """

    title: str
    options: dict[str, Any]
    methods: tuple[str, ...] = ()
    tiny_resnet: bool = False
    classes: int = 2
    widths: tuple[int, ...] = (16, 32, 64)
    depth: int = 1
    image_size: int = 28
    partial: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Which of --data_dir and --model the options ask for."""
        text = "".join(str(value) for value in self.options.values())
        return tuple(name for name in ("data_dir", "model") if f"{{{name}}}" in text)


def options_of(settings: Mapping[str, Setting], name: str, **places: str | None) -> dict[str, Any]:
    """Options of the jobs of a setting.

    Args:
        settings: of the study.
        name: of the one that is asked for.
        **places: `data_dir` and `model`, where the study has such options.

    Raises:
        ConfigError: there is no such setting, or it needs more.
    """
    if name not in settings:
        raise ConfigError(f"Unknown --setting {name!r}; there are: {', '.join(settings)}.")
    for place in settings[name].needs:
        if places.get(place) is None:
            raise ConfigError(f"--setting {name} needs --{place}; see --help.")
    return {k: v.format(**places) if isinstance(v, str) else v for k, v in settings[name].options.items()}


def write_tiny_resnet(folder: Path, seed: int, setting: Setting) -> Path:
    """Write a small ResNet with BatchNorm and random weights, with its processor; an existing folder is kept.

    Args:
        folder: of the model.
        seed: of the weights.
        setting: its shape.
    """
    if not folder.exists():
        labels = [f"LABEL_{i}" for i in range(setting.classes)]
        model = built_in_model("resnet", labels, widths=setting.widths, depth=setting.depth, seed=seed)
        new = fresh_folder(folder)
        model.save_pretrained(new)
        embedded_processor(setting.image_size).save_pretrained(new)
        replace_folder(new, folder)
    return folder
