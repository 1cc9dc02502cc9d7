"""What a user may say of forgetting, auditing and verifying: the options of the command line and of Python alike."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from hf_dtl.errors import ConfigError
from hf_dtl.options import nearest, numbers, option
from hf_dtl.scenarios.spec import Kind, ScenarioSpec, is_request

WHAT, MODEL, METHOD = "what to forget", "model", "method"
AUDIT, RUN = "audit", "run"
RATES = ("linear_probe_learning_rates", "full_learning_rates", "lora_learning_rates")
FEW_PARAMETERS = 2_000_000
"""Networks up to this size gain nothing from several threads, and take the learning rates of small ones."""


@dataclass(kw_only=True)
class Options:
    """What every command that loads images and attacks models has."""

    image_column: str | None = option(None, "Column of images; default: the only one.", group=WHAT)
    max_eval_images: int | None = option(
        None, "Cap on the images of each validation and test split; default: all.", group=WHAT
    )
    image_size: int | None = option(
        None, "Resize images to this many pixels instead of what the model's processor asks for.", group=MODEL
    )
    suite: str = option("custom", "Suite of attacks: custom, which the following options make up.", group=AUDIT)
    budgets: str | None = option(None, "Images a class that the attacker gets, separated by commas.", group=AUDIT)
    seeds: str = option("0,1,2", "Seeds of the attacks, separated by commas.", group=AUDIT, aliases=("audit_seeds",))
    linear_probe_learning_rates: str | None = option(
        None, "Learning rates that linear probes choose from; default: what suits the size of the model.", group=AUDIT
    )
    full_learning_rates: str | None = option(
        None, "The same for attacks on every weight.", group=AUDIT, aliases=("attack_learning_rates",)
    )
    lora_learning_rates: str | None = option(None, "The same for LoRA.", group=AUDIT)
    successive_halving: bool = option(
        False, "Give up learning rates early: faster, but the attacker is weaker.", group=AUDIT
    )
    max_stack: int | None = option(
        None, "Attacks that run at once; default: what memory allows; 1: one by one.", group=AUDIT
    )
    membership: bool = option(
        True, "Also ask whether forgotten images can be told from images never seen.", group=AUDIT
    )
    seed: int = option(0, "Seed of training and of every draw of images.", group=RUN)
    use_cpu: bool = option(False, "Compute on the CPU even if there is a GPU.", group=RUN)

    FREE: ClassVar[frozenset[str]] = frozenset(
        {"output_dir", "use_cpu", "attacks", "budgets", "seeds", *RATES, "successive_halving", "max_stack"}
        | {"membership", "suite"}
    )
    """What a run may be continued with otherwise: it decides which attacks are run, and none of the stages."""

    def __post_init__(self) -> None:
        if self.suite != "custom":
            raise ConfigError(
                f"suite={self.suite!r} is unknown; there is: custom, made up by attacks, budgets, seeds."
            )
        for name in ("max_eval_images", "image_size", "max_stack"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name} {value} must be at least 1.")
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed} must not be negative.")

    def attack_values(self) -> dict[str, Any]:
        """What the options say of the attacker, as `AttackConfig` takes it."""
        chosen: dict[str, Any] = {name: getattr(self, name) for name in ("successive_halving", "max_stack")}
        rates = {name: getattr(self, name) for name in RATES}
        chosen |= {name: numbers(text, name, float) for name, text in rates.items() if text is not None}
        return chosen | {name: numbers(getattr(self, name), name, int) for name in ("budgets", "seeds")}

    def settings(self) -> dict[str, Any]:
        """What decides the stages of a run: a folder holds one choice of these."""
        return {name: value for name, value in asdict(self).items() if name not in self.FREE}


@dataclass(kw_only=True)
class ForgetOptions(Options):
    """What to forget, of which model, how, and who attacks the result.

    Three kinds of request: a whole task (`--forget DATA --retain DATA`), a part of one data set (`--forget class=3`,
    `random=10%%`, `column=value` or a file of row numbers, with `--retain DATA`), and images of a model of several
    tasks (the same with `--task_columns` or `--method multitask`). Where the default depends on the kind, None stands
    for it.
    """

    forget: str = option(
        "mnist[0,1,2,3,4,5]",
        "What to forget: data, NAME[:SPLIT][CLASS,CLASS,...], for a whole task; or a part of --retain: class=3 (also "
        "class=cat,dog or class=0-2), a file of row numbers of the training split (or of row,class: what to name each "
        "image instead), column=value (such as person=ann), or random=10% of the training images.",
        group=WHAT,
        aliases=("source_dataset",),
    )
    retain: str | None = option(
        None,
        "Data to keep, or that --forget is a part of: a Hub id, a folder, or embedded data; default: mnist[6,7,8,9] "
        "for a whole task, fashion_mnist for a part, glyphs for several tasks.",
        group=WHAT,
        aliases=("target_dataset", "dataset"),
    )
    novel: str | None = option(
        None,
        "Task that nobody trained, for the second axis of the audit of a whole task; default: "
        "fashion_mnist[0,1,2,3] with the built-in model, else none.",
        group=WHAT,
        aliases=("novel_dataset",),
    )
    forget_label_column: str | None = option(
        None, "Column of the classes to forget; default: label.", group=WHAT, aliases=("source_label_column",)
    )
    retain_label_column: str | None = option(
        None, "Column of the classes of --retain; default: label.", group=WHAT,
        aliases=("target_label_column", "label_column"),
    )  # fmt: skip
    novel_label_column: str | None = option(None, "Column of novel classes; default: label.", group=WHAT)
    forget_images_per_class: int | None = option(
        None, "Training images a class to forget; default: all.", group=WHAT, aliases=("source_images_per_class",)
    )
    retain_images_per_class: int | None = option(
        None,
        "Training images a class of --retain; default: all, but 10 for a whole task with the built-in model, so that "
        "transfer matters.",
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
        "Hub id or folder of an image classifier, of several tasks also a folder with all heads; default: a small ViT, "
        "trained here on the embedded data.",
        group=MODEL,
        aliases=("model_name_or_path",),
    )
    revision: str = option("main", "Revision of that model.", group=MODEL)
    train_epochs: float | None = option(
        None,
        "Passes that train the model on what it is to know (a whole task: the source data); default: 16, or 0 for a "
        "given model. 0 skips the stage.",
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
        None, "Passes of the retrained reference; default: as training, of a whole task 400 steps, at least 16 passes.",
        group=MODEL,
    )  # fmt: skip
    retrain_learning_rate: float | None = option(
        None, "Its peak learning rate; default: --train_learning_rate.", group=MODEL
    )
    retrained: str | None = option(
        None, "A reference that was trained without what is to be forgotten, instead: Hub id or folder.", group=MODEL
    )
    retrained_revision: str = option("main", "Revision of that model.", group=MODEL)
    batch_size: int = option(64, "Images a step of ordinary training, over all processes.", group=MODEL)
    augmentation: str | None = option(
        None,
        "Random transforms of the training images of all models: none, affine, or affine_flip (no digits); default: "
        "affine, of several tasks none: some task may ask for what they change.",
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

    attacks: str | None = option(
        None,
        "Attacks, separated by commas: names, grid, adaptive or all; those that do not apply are left out. Default: "
        "linear_probe,full,head_then_full for a whole task, linear_probe,full,full_published for a part, full for "
        "several tasks.",
        group=AUDIT,
    )

    output_dir: str = option(
        "outputs/forget", "Folder of the run; continued when it holds an unfinished part of it.", group=RUN
    )
    bf16: bool = option(False, "Train under bfloat16 autocast.", group=RUN)
    save_steps: int = option(50, "Steps between the checkpoints that an interrupted stage continues from.", group=RUN)

    DISPOSAL: ClassVar[tuple[str, ...]] = ("steps", "forget_batch_size", "learning_rate", "forget_weight")
    """A run may be continued with other ones: they make other stages."""
    FREE: ClassVar[frozenset[str]] = Options.FREE | frozenset(
        {*DISPOSAL, "method", "goal", "save_steps", "novel", "novel_label_column", "max_eval_images"}
        | {"reference", "retrained", "retrained_revision"}
    )
    _DEFAULTS: ClassVar[dict[Kind, dict[str, Any]]] = {
        "task": {
            "retain": "mnist[6,7,8,9]",
            "augmentation": "affine",
            "reference": "retrain",
            "method": "representation_erasure,gradient_collision:max_steps=100",
            "attacks": "linear_probe,full,head_then_full",
            "budgets": "5,20",
        },
        "part": {
            "retain": "fashion_mnist",
            "augmentation": "affine",
            "reference": "none",
            "method": "projected_gradient",
            "attacks": "linear_probe,full,full_published",
            "budgets": "5,20",
        },
        "tasks": {
            "retain": "glyphs",
            "augmentation": "none",
            "reference": "none",
            "method": "multitask",
            "attacks": "full",
            "budgets": "5",
        },
    }
    _ONLY: ClassVar[dict[str, tuple[Kind, ...]]] = {
        **dict.fromkeys(("forget_tasks", "task_columns", "images"), ("tasks",)),
        **dict.fromkeys(("novel", "novel_label_column", "forget_label_column"), ("task",)),
        **dict.fromkeys(("forget_images_per_class", "adapt_epochs", "adapt_learning_rate"), ("task",)),
        **dict.fromkeys(("goal", "retrained", "retain_label_column", "retain_images_per_class"), ("task", "part")),
    }
    """Options that say nothing for other kinds of request."""

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = self.kind
        for name, kinds in self._ONLY.items():
            value = getattr(self, name)
            if value is not None and kind not in kinds:
                raise ConfigError(f"--{name} {value} is {_INSTEAD[name] if name in _INSTEAD else _for(kinds, kind)}.")
        small = kind == "task" and self.model is None
        if small and self.novel is None:
            self.novel = "fashion_mnist[0,1,2,3]"
        if small and self.retain_images_per_class is None:
            self.retain_images_per_class = 10
        asked = self.reference
        for name, default in self._DEFAULTS[kind].items():
            if getattr(self, name) is None:
                setattr(self, name, default)
        if self.reference not in ("none", "retrain"):
            raise ConfigError(f"--reference {self.reference!r} is unknown; use none or retrain.")
        if self.retrained is not None and asked == "retrain":
            raise ConfigError("Give --reference retrain or --retrained, not both.")

    @property
    def kind(self) -> Kind:
        """Which of the three kinds of request this is."""
        names = {part.strip().partition(":")[0] for part in (self.method or "").split(",") if part.strip()}
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
        return ScenarioSpec(**taken)

    def recorded(self) -> dict[str, Any]:
        """Every option that decides a result and is not the kind's default, for the report."""
        return {k: v for k, v in asdict(self).items() if k not in ("output_dir", "method", "goal", "save_steps")}

    def disposal(self) -> dict[str, Any]:
        """Options of the disposal."""
        return {name: getattr(self, name) for name in self.DISPOSAL}


ROLES = ("undisposed", "scrubbed", "scratch", "retrained")


@dataclass(kw_only=True)
class AuditOptions(Options):
    """What is audited: two models or more, on what was to be forgotten and what was to be kept.

    `forget` and `retain` are written as for forgetting: data for a whole task, or a request and the data set that it
    is a part of.
    """

    scrubbed: str = option(
        help="The model to audit: Hub id or folder of an image classifier (safetensors).", group=MODEL,
        aliases=("model",),
    )  # fmt: skip
    undisposed: str = option(help="The model before disposal, written likewise: what leakage 1 means.", group=MODEL)
    retrained: str | None = option(
        None, "Reference that never saw what was to be forgotten: Hub id or folder.", group=MODEL
    )
    scratch: str | None = option(
        None, "Reference that leakage 0 means; default: the undisposed architecture with random weights.", group=MODEL
    )
    base_model: str | None = option(
        None, "Hub id of the public weights that the owner started from: the report and the card name it.", group=MODEL
    )
    scrubbed_revision: str = option("main", "Revision of the scrubbed model.", group=MODEL)
    undisposed_revision: str = option("main", "Revision of the undisposed model.", group=MODEL)
    retrained_revision: str = option("main", "Revision of the retrained model.", group=MODEL)
    scratch_revision: str = option("main", "Revision of the scratch model.", group=MODEL)
    processor: str | None = option(
        None,
        "Image processor of all models: undisposed, scrubbed, scratch or retrained for that of the model, or a Hub "
        "id or folder; default: that of the models, which must agree.",
        group=MODEL,
    )
    retrain: bool = option(False, "Train the retrained reference here, on the data to keep alone.", group=MODEL)
    retrain_epochs: float = option(100, "Passes over these data.", group=MODEL)
    retrain_learning_rate: float = option(1e-3, "Peak learning rate of that training.", group=MODEL)
    retrain_batch_size: int = option(64, "Images a step of that training, over all processes.", group=MODEL)

    forget: str = option(
        help="What was to be forgotten: data, NAME[:SPLIT][CLASS,CLASS,...], or a part of --retain (class=3, ...).",
        group=WHAT,
        aliases=("source_dataset",),
    )
    retain: str | None = option(
        None,
        "What was to be kept, written likewise: gives target accuracy and the attacks on retain images.",
        group=WHAT,
        aliases=("target_dataset", "dataset"),
    )
    novel: str | None = option(
        None, "Task that nobody trained, for a second axis; default: none.", group=WHAT, aliases=("novel_dataset",)
    )
    forget_label_column: str | None = option(
        None, "Column of the classes to forget; default: label.", group=WHAT, aliases=("source_label_column",)
    )
    retain_label_column: str | None = option(
        None, "Column of the classes of --retain; default: label.", group=WHAT, aliases=("target_label_column",)
    )
    novel_label_column: str | None = option(None, "Column of novel classes; default: label.", group=WHAT)
    max_train_images_per_class: int | None = option(
        None,
        "Training images a class that are used; default: 400, but 4 to 20 times the largest budget, and all target "
        "images for --retrain.",
        group=WHAT,
    )

    attacks: str = option("grid", "Attacks, separated by commas: grid, adaptive, all, or names.", group=AUDIT)
    budgets: str | None = option(
        "1,5,20,100", "Images a class that the attacker gets, separated by commas.", group=AUDIT
    )
    method: str | None = option(
        None, "Name of the method for the report; default: name of the scrubbed model.", group=AUDIT
    )
    target_margin: float = option(
        0.05, "Drop of target accuracy above which the target counts as destroyed.", group=AUDIT
    )
    output_dir: str = option("outputs/audit", "Folder of the report, tables, plots and finished attacks.", group=RUN)
    resume: bool = option(
        False, "Continue the audit in the output folder; finished attacks are never repeated.", group=RUN
    )

    FREE: ClassVar[frozenset[str]] = Options.FREE | frozenset({"method", "target_margin", "resume", "base_model"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_train_images_per_class", "retrain_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name} {value} must be at least 1.")
        for name in ("retrain_epochs", "retrain_learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"--{name} {getattr(self, name)} must be positive.")
        if not 0 <= self.target_margin <= 1:
            raise ConfigError(f"--target_margin {self.target_margin} must be in 0..1.")
        if self.retrain and (self.retrained is not None or self.retain is None):
            raise ConfigError("--retrain trains a reference on --retain: give that, and no --retrained.")
        if self.retrain and self.kind == "part":
            raise ConfigError("--retrain is for a whole task; of a part give the reference as --retrained.")
        if self.processor in ROLES and getattr(self, self.processor) is None:
            raise ConfigError(f"--processor {self.processor} names a model that is not given.")

    @property
    def kind(self) -> Kind:
        """Whether a whole task was forgotten or a part of one."""
        return "part" if is_request(self.forget) else "task"

    @property
    def models(self) -> dict[str, tuple[str, str]]:
        """The given models by role: Hub id or folder, and revision."""
        return {
            role: (getattr(self, role), getattr(self, f"{role}_revision"))
            for role in ROLES
            if getattr(self, role) is not None
        }

    def spec(self) -> ScenarioSpec:
        """What decides the images."""
        taken = {f.name: getattr(self, f.name) for f in fields(ScenarioSpec) if hasattr(self, f.name)}
        if self.kind == "part":
            return ScenarioSpec(**{name: value for name, value in taken.items() if not name.startswith("novel")})
        most = max(numbers(self.budgets, "budgets", int))
        pool = self.max_train_images_per_class
        taken["pool"] = min(max(400, 4 * most), 20 * most) if pool is None else pool
        taken["retain_pool"] = None if pool is None and self.retrain else taken["pool"]
        return ScenarioSpec(**taken)

    def public(self) -> dict[str, Any]:
        """Every option that names a model, without local folders."""
        found = asdict(self)
        names = {*ROLES, "processor", "base_model"}
        return {name: public_name(value) if name in names and value else value for name, value in found.items()}


@dataclass(kw_only=True)
class VerifyOptions:
    """Which published model is verified, and with what in place of local data that its report names."""

    model: str = option(
        help="The published model: Hub id, or folder with weights and leakage_report.json.", group=MODEL,
        aliases=("verify",),
    )  # fmt: skip
    revision: str = option("main", "Revision of a model on the Hub.", group=MODEL)
    forget: str | None = option(
        None, "Data or file of rows to forget, where the report names one that is elsewhere here.", group=WHAT,
        aliases=("source_dataset",),
    )  # fmt: skip
    retain: str | None = option(
        None, "The same of the data to keep.", group=WHAT, aliases=("target_dataset", "dataset")
    )
    novel: str | None = option(None, "The same of the novel task.", group=WHAT, aliases=("novel_dataset",))
    attacks: str | None = option(
        None, "Of the report's attacks only these, separated by commas; default: all.", group=AUDIT
    )
    budgets: str | None = option(None, "Of its budgets only these, separated by commas; default: all.", group=AUDIT)
    output_dir: str = option(
        "outputs/verify", "Folder of the result and of finished attacks, which are not repeated.", group=RUN
    )
    use_cpu: bool = option(False, "Attack on the CPU even if there is a GPU.", group=RUN)


_KINDS = {"task": "a whole task", "part": "a part of one data set", "tasks": "several tasks at once"}
_INSTEAD = {
    "goal": "for methods of one task; with --method multitask instances to forget become like images never seen: leave "
    "it out",
}


def _for(kinds: tuple[Kind, ...], kind: Kind) -> str:
    """That an option is for other kinds of request than this one."""
    return f"for {' or '.join(_KINDS[k] for k in kinds)}, and this is a request of {_KINDS[kind]}: leave it out"


def check_names(given: dict[str, Any], options: type) -> None:
    """Refuse arguments that are no options.

    Raises:
        ConfigError: naming the nearest right one.
    """
    known = [f.name for f in fields(options)]
    for name in given:
        if name not in known:
            raise ConfigError(f"There is no option {name!r}.{nearest(name, known)} There are: {', '.join(known)}.")


def public_name(model: str) -> str:
    """A Hub id as it is, a local folder without the folders above it."""
    path = Path(model).expanduser()
    return path.resolve().name if path.exists() or path.is_absolute() else model
