"""What a user may say of forgetting."""

import os
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from hf_dtl.data.selection import FAMILIES, GLYPHS, STYLES, DatasetSpec
from hf_dtl.errors import ConfigError
from hf_dtl.methods.registry import find_method, method_names
from hf_dtl.options import option
from hf_dtl.pipeline.options import METHOD, MODEL, RUN, WHAT, Options
from hf_dtl.scenarios.spec import ScenarioKind, ScenarioSpec, is_request

GLYPHS_TASK: dict[str, Any] = {"train_epochs": 24.0, "augmentation": "photometric"}
"""Of a whole task of glyphs. They take longer to learn than digits, and turning and stretching would change what is
asked for."""
_NOVEL = {"family": FAMILIES, "style": STYLES}
RESNET_RATES = {"train_learning_rate": 3e-3, "adapt_learning_rate": 1e-3}
"""Of the built-in ResNet; a larger rate of adaptation forgets the source task without a method."""


@dataclass(kw_only=True)
class ForgetOptions(Options):
    """What to forget, of which model, how, and who attacks the result.

    Three kinds of request: a whole task (`--forget DATA --retain DATA`), a part of one data set (`--forget class=3`,
    `random=10%`, `column=value` or a file of row numbers, with `--retain DATA`), and images of a model of several
    tasks (the same with `--task_columns` or `--method multitask`). Where the default depends on the kind, None stands
    for it.
    """

    forget_images_per_class: int | None = option(
        None, "Training images a class to forget; default: all.", group=WHAT, aliases=("source_images_per_class",)
    )
    retain_images_per_class: int | None = option(
        None,
        "Training images a class of --retain; default: all, but 10 for a whole task with the built-in model, so that "
        "transfer matters. Of a part of the data that a given model forgets, it spares what is to be forgotten.",
        group=WHAT,
        aliases=("target_images_per_class", "images_per_class"),
    )
    forget_tasks: str | None = option(
        None, "Of several tasks: those to forget the images for, separated by commas; default: all.", group=WHAT
    )
    task_columns: str | None = option(
        None,
        "Of several tasks: label columns, separated by commas, each of which is a task, or TASK=COLUMN; default: all "
        "of glyphs and fashion_groups. Columns of floats are regression tasks.",
        group=WHAT,
    )
    images: int | None = option(None, "Of several tasks: training images; default: all.", group=WHAT)

    model: str | None = option(
        None,
        "Hub id or folder of an image classifier, of several tasks also a folder with all heads; default: a small "
        "one, trained here on the data.",
        group=MODEL,
        aliases=("model_name_or_path",),
    )
    revision: str = option("main", "Revision of that model.", group=MODEL)
    architecture: str | None = option(
        None, "Of the small model where none is given: vit or resnet; default: resnet for a whole task, else vit.",
        group=MODEL,
    )  # fmt: skip
    train_epochs: float | None = option(
        None,
        "Passes that train the model on what it is to know (a whole task: the source data); default: 16, of a whole "
        "task of glyphs 24, or 0 for a given model. 0 skips the stage.",
        group=MODEL,
        aliases=("pretrain_epochs",),
    )
    train_learning_rate: float | None = option(
        None, "Peak learning rate of that training; default: by the size of the model.", group=MODEL,
        aliases=("pretrain_learning_rate",),
    )  # fmt: skip
    adapt_epochs: float | None = option(
        None, "Passes over the data to keep in adaptation, of a whole task; default: 200 steps, at least 16 passes.",
        group=MODEL,
    )  # fmt: skip
    adapt_learning_rate: float | None = option(
        None, "Peak learning rate of adaptation; default: by the size of the model.", group=MODEL
    )
    reference: str | None = option(
        None,
        "'retrain' trains a reference on what is kept alone, 'none' does not; default: retrain for a whole task.",
        group=MODEL,
    )
    retrain_epochs: float | None = option(
        None, "Passes of the retrained reference; default: as in training, for a whole task 400 steps, at least 16.",
        group=MODEL,
    )  # fmt: skip
    retrain_learning_rate: float | None = option(
        None, "Its peak learning rate; default: --train_learning_rate.", group=MODEL
    )
    retrained: str | None = option(
        None, "A reference that was trained without what is to be forgotten, instead: Hub id or folder.", group=MODEL
    )
    retrained_revision: str = option("main", "Revision of that model.", group=MODEL)
    twin: str | None = option(
        None,
        "Where there are further true labels of --retain: all (its training images beyond "
        "--retain_images_per_class), or data with the same classes. With so many of them that it is as good at the "
        "target as the scrubbed model, a twin that never saw the source is trained and attacked, a floor; default: no "
        "twin.",
        group=MODEL,
    )
    batch_size: int = option(64, "Images a step of ordinary training, over all processes.", group=MODEL)
    augmentation: str | None = option(
        None,
        "Random transforms of the training images of all models: none, affine, affine_flip (no digits), or "
        "photometric (contrast, polarity, noise); default: affine, of a whole task of glyphs photometric, of several "
        "tasks none: some task may ask for what they change.",
        group=MODEL,
    )

    method: str | None = option(
        None,
        "Methods, separated by commas, each with options of its config, NAME[:OPTION=VALUE]...; the first is put at "
        "the top of the output folder. Default: representation_erasure,gradient_collision:max_steps=100 for a whole "
        "task, projected_gradient for a part, multitask for several tasks. `hf-dtl forget --list` names all.",
        group=METHOD,
        aliases=("methods",),
    )
    goal: str | None = option(
        None, "Goal of the methods that have one, the same as NAME:goal=...: misclassify or relabel of instancewise.",
        group=METHOD,
    )  # fmt: skip
    steps: int | None = option(
        None,
        "Steps of disposal, at most: some methods stop earlier, or take none. Default: 300 for a whole task, else the "
        "method's own or 100.",
        group=METHOD,
        aliases=("dispose_steps", "unlearn_steps"),
    )
    forget_batch_size: int = option(
        64, "Images to forget, and images to keep where they are used, a step.", group=METHOD,
        aliases=("dispose_batch_size", "unlearn_batch_size"),
    )  # fmt: skip
    learning_rate: float | None = option(
        None, "Learning rate of disposal; default: the method's own, else by the size of the model.", group=METHOD,
        aliases=("dispose_learning_rate", "unlearn_learning_rate"),
    )  # fmt: skip
    forget_weight: float | None = option(
        None, "Weight (lambda) of the disposal loss against retention; default: the method's own.", group=METHOD
    )
    lora_rank: int | None = option(
        None,
        "Dispose through adapters (LoRA) of this rank, merged before anything is saved, instead of by every weight.",
        group=METHOD,
    )

    channel: str | None = option(
        None,
        "Of anchored_distillation: what the given model may say, labels, outputs:q, outputs or features:r; default: "
        "labels.",
        group=METHOD,
    )
    base_model: str | None = option(
        None,
        "Of anchored_distillation: the public weights that the student starts from, Hub id or folder, of the "
        "architecture of the given model; default: --model where it learns here what is to be forgotten, else random "
        "weights.",
        group=METHOD,
    )
    transfer_dataset: str | None = option(
        None,
        "Of anchored_distillation: images for the given model to name, written as --retain, their labels unused; "
        "default: views of the images to keep.",
        group=METHOD,
    )
    transfer_images: int | None = option(None, "Draw so many of these; default: all.", group=METHOD)

    output_dir: str = option(
        "outputs/forget", "Folder of the run; continued when it holds an unfinished part of it.", group=RUN
    )
    bf16: bool = option(False, "Train under bfloat16 autocast.", group=RUN)
    save_steps: int = option(50, "Steps between the checkpoints that an interrupted stage continues from.", group=RUN)

    DISPOSAL: ClassVar[tuple[str, ...]] = ("steps", "forget_batch_size", "learning_rate", "forget_weight", "lora_rank")
    TRANSFER: ClassVar[tuple[str, ...]] = ("channel", "base_model", "transfer_dataset", "transfer_images")
    """A run may be continued with other ones: they make other stages."""
    FREE: ClassVar[frozenset[str]] = Options.FREE | frozenset(
        {*DISPOSAL, *TRANSFER, "method", "goal", "save_steps", "novel", "novel_label_column", "max_eval_images"}
        | {"reference", "retrained", "retrained_revision", "twin"}
    )
    _DEFAULTS: ClassVar[dict[ScenarioKind, dict[str, Any]]] = {
        "task": {
            "architecture": "resnet",
            "retain": "glyphs[N,Q,R,T]",
            "augmentation": "affine",
            "reference": "retrain",
            "method": "representation_erasure,gradient_collision:max_steps=100",
        },
        "part": {
            "architecture": "vit",
            "retain": "fashion_mnist",
            "augmentation": "affine",
            "reference": "none",
            "method": "projected_gradient",
        },
        "tasks": {
            "architecture": "vit",
            "retain": "glyphs",
            "augmentation": "none",
            "reference": "none",
            "method": "multitask",
        },
    }
    _ATTACKER: ClassVar[dict[ScenarioKind, tuple[str, dict[str, str]]]] = {
        "task": ("quick-1", {"attacks": "linear_probe,full,head_then_full", "budgets": "5,20"}),
        "part": ("quick-1", {"attacks": "linear_probe,full,full_published", "budgets": "5,20"}),
        "tasks": ("custom", {"attacks": "full", "budgets": "5"}),
    }
    """Suite, and what is custom where no attacks and budgets are given."""
    _ONLY: ClassVar[dict[str, tuple[ScenarioKind, ...]]] = {
        **dict.fromkeys(("forget_tasks", "task_columns", "images"), ("tasks",)),
        **dict.fromkeys(("novel", "novel_label_column", "forget_label_column", "twin"), ("task",)),
        **dict.fromkeys(("forget_images_per_class", "adapt_epochs", "adapt_learning_rate"), ("task",)),
        **dict.fromkeys(("goal", "retrained", "retain_label_column", "retain_images_per_class"), ("task", "part")),
        **dict.fromkeys(TRANSFER, ("task", "part")),
        "head_by_position": ("part",),
    }
    """Options that say nothing for other kinds of request."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # What the launcher chose holds for every trainer: it is recorded, and a run is not continued without it.
        self.bf16 = self.bf16 or os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16"
        for name in sorted(self._method_names - set(method_names())):
            find_method(name)  # names the nearest right one
        kind = self.kind
        for name, kinds in self._ONLY.items():
            value = getattr(self, name)
            if value is not None and value is not False and kind not in kinds:
                raise ConfigError(_misplaced(name, value, kinds, self))
        small = kind == "task" and self.model is None
        if small:
            self._of_the_small_model()
        asked = self.reference
        suite, custom = self._ATTACKER[kind]
        self.choose_attacker(suite, **custom)
        for name, default in self._DEFAULTS[kind].items():
            if getattr(self, name) is None:
                setattr(self, name, default)
        if self.model is not None:
            self.architecture = None  # it has its own
        if self.reference not in ("none", "retrain"):
            raise ConfigError(f"--reference {self.reference!r} is unknown; use none or retrain.")
        given = [name for name in self.TRANSFER if getattr(self, name) is not None]
        if given and not any(find_method(name).config_class.transfers for name in self._method_names):
            raise ConfigError(
                f"--{given[0]} {getattr(self, given[0])} is for a method that has a use for it, as "
                f"anchored_distillation, and --method {self.method} has none: leave it out, or add one."
            )
        if self.transfer_images is not None and (self.transfer_dataset is None or self.transfer_images < 1):
            raise ConfigError(
                f"--transfer_images {self.transfer_images} draws from --transfer_dataset: at least 1, and give that."
            )
        if self.retrained is not None and asked == "retrain":
            raise ConfigError("Give --reference retrain or --retrained, not both.")

    def _of_the_small_model(self) -> None:
        """Defaults of a whole task that the built-in model learns here, by the data."""
        data = [DatasetSpec.parse(text) for text in (self.forget, self.retain) if text is not None]
        glyphs, named = data[0].name == GLYPHS, {name for spec in data for name in spec.classes or ()}
        if self.novel is None:  # one that nobody trained: of glyphs another column of the images themselves
            self.novel = "fashion_mnist[0,1,2,3]"
            columns = {self.forget_label_column, self.retain_label_column}
            if glyphs and (free := [c for c, names in _NOVEL.items() if not {c, *names} & (columns | named)]):
                self.novel, self.novel_label_column = GLYPHS, self.novel_label_column or free[0]
        if self.retain_images_per_class is None:
            self.retain_images_per_class = 10
        given = (GLYPHS_TASK if glyphs else {}) | (RESNET_RATES if self.architecture != "vit" else {})
        for name, default in given.items():
            if getattr(self, name) is None:
                setattr(self, name, default)

    @property
    def _method_names(self) -> set[str]:
        """The methods that are asked for, without their options."""
        return {part.strip().partition(":")[0] for part in (self.method or "").split(",") if part.strip()}

    @property
    def kind(self) -> ScenarioKind:
        """Which of the three kinds of request this is."""
        names = self._method_names
        if "multitask" in names and len(names) > 1:
            raise ConfigError(
                f"--method {self.method!r} names multitask, for several tasks at once, and "
                f"{', '.join(sorted(names - {'multitask'}))}, for one. Start one command for each."
            )
        if names == {"multitask"} or (not names and (self.forget_tasks or self.task_columns)):
            return "tasks"
        return "part" if is_request(self.forget) else "task"

    def spec(self) -> ScenarioSpec:
        """What decides the images."""
        taken = {f.name: getattr(self, f.name) for f in fields(ScenarioSpec) if hasattr(self, f.name)}
        given = self.model is not None and not self.train_epochs  # its training is not ours to limit
        limits = {"part": self.retain_images_per_class, "tasks": self.images}
        # a class or a random share is forgotten by the images that are drawn, a person or a list by all of theirs
        listed = not self.forget.startswith(("random=", "class="))
        rendered = self.kind == "tasks" and DatasetSpec.parse(str(self.retain)).name == GLYPHS  # there are no others
        spared = given and listed and not rendered and limits.get(self.kind) is not None
        return ScenarioSpec(**taken, forget_all=spared)

    def recorded(self) -> dict[str, Any]:
        """Every option that decides a result and is not the kind's default, for the report."""
        return {k: v for k, v in asdict(self).items() if k not in ("output_dir", "method", "goal", "save_steps")}

    def plain(self) -> dict[str, Any]:
        """What the options of such a request are where nobody gives them."""
        plain = asdict(ForgetOptions(forget=self.forget, model=self.model, method=self.method))
        return plain | {"forget": ForgetOptions.forget, "model": None, "method": None, "bf16": False}

    def disposal(self, transfers: bool = False) -> dict[str, Any]:
        """Options of the disposal, of a method with or without transfer images."""
        return {name: getattr(self, name) for name in (*self.DISPOSAL, *(self.TRANSFER if transfers else ()))}


CANNOT = {
    "task": "it forgets a part of one task, or of several, and this is a whole one (a part: --forget class=3, "
    "random=10% or a file of rows, with --retain DATA)",
    "part": "it does not forget a part of one task",
    "tasks": "it does not forget images of several tasks, which multitask does",
}
"""What a method cannot do, by the kind of request."""
_KINDS = {"task": "a whole task", "part": "a part of one data set", "tasks": "several tasks at once"}
_INSTEAD = {
    "goal": "images to forget become like images never seen: leave it out",
    "retrained": "use --reference retrain",
    "retain_label_column": "name the columns with --task_columns",
    "retain_images_per_class": "use --images",
}
"""Options of one task alone, and what several have in their place."""


def _misplaced(name: str, value: object, kinds: tuple[ScenarioKind, ...], options: ForgetOptions) -> str:
    """That an option is for other kinds of request than this one, and what to do."""
    kind = options.kind
    if kind == "tasks" and name in _INSTEAD:
        return f"--{name} {value} is for methods of one task; with --method multitask {_INSTEAD[name]}."
    if kinds == ("tasks",):
        return (
            f"--{name} {value} is for several tasks at once, --method {options.method} is for one. Add --method "
            "multitask, or leave it out."
        )
    wanted = " or ".join(_KINDS[k] for k in kinds)
    return f"--{name} {value} is for {wanted}, and this is a request of {_KINDS[kind]}: leave it out."
