"""What a user may say of an audit of given models, and of a verification."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from hf_dtl.audit.attacks.registry import parse_attacks
from hf_dtl.errors import ConfigError
from hf_dtl.options import option
from hf_dtl.pipeline.options import AUDIT, MODEL, RUN, WHAT, Options, public_name
from hf_dtl.scenarios.spec import ScenarioKind, ScenarioSpec, is_request

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
        None, "The public weights that the owner started from, Hub id or folder: a floor.", group=MODEL
    )
    twin: str | None = option(
        None,
        "A model that never saw the source task and is as good at the target as the scrubbed one, Hub id or folder: a "
        "floor that tells the private task from being good at the target.",
        group=MODEL,
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
    max_train_images_per_class: int | None = option(
        None,
        "Training images a class that are used; default: 400, but 4 to 20 times the largest budget, and all target "
        "images for --retrain.",
        group=WHAT,
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

    FREE: ClassVar[frozenset[str]] = Options.FREE | frozenset(
        {"method", "target_margin", "resume", "base_model", "twin"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.choose_attacker("quick-1", attacks="grid", budgets="5,20")
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
    def kind(self) -> ScenarioKind:
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
        most = max(self.attacker().budgets)
        pool = self.max_train_images_per_class
        taken["pool"] = min(max(400, 4 * most), 20 * most) if pool is None else pool
        taken["retain_pool"] = None if pool is None and self.retrain else taken["pool"]
        return ScenarioSpec(**taken)

    def public(self) -> dict[str, Any]:
        """Every option that names a model, without local folders."""
        found = asdict(self)
        names = {*ROLES, "processor", "base_model", "twin"}
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
    undisposed: str | None = option(
        None, "The model before disposal, Hub id or folder: with it the leakage is checked too.", group=MODEL
    )
    retrained: str | None = option(None, "The retrained reference, likewise.", group=MODEL)
    twin: str | None = option(None, "The twin, likewise.", group=MODEL)
    base_model: str | None = option(
        None, "The public weights, likewise; default: those that the report names.", group=MODEL
    )
    retrain: bool = option(
        False, "Train the undisposed model and the retrained reference again as the report says, where they are not "
        "given: then nobody is trusted.", group=MODEL,
    )  # fmt: skip
    rebuild: bool = option(
        False,
        "Also make the model again from public weights, images and the published labels (anchored_distillation), and "
        "compare it bit by bit.",
        group=MODEL,
    )
    transfer_dataset: str | None = option(
        None, "For that: the transfer images, where the report names some that are elsewhere here.", group=WHAT
    )
    attacks: str | None = option(
        None, "Of the report's attacks only these, separated by commas; default: all.", group=AUDIT
    )
    budgets: str | None = option(None, "Of its budgets only these, separated by commas; default: all.", group=AUDIT)
    output_dir: str = option(
        "", "Folder of the result and of finished attacks, which are not repeated; default: outputs/verify/MODEL.",
        group=RUN,
    )  # fmt: skip
    use_cpu: bool = option(False, "Attack on the CPU even if there is a GPU.", group=RUN)

    def __post_init__(self) -> None:
        if not self.output_dir:  # several models of a folder of runs are each called scrubbed
            parts = Path(self.model).expanduser().resolve().parts[-2:] if Path(self.model).exists() else (self.model,)
            self.output_dir = f"outputs/verify/{'--'.join('/'.join(parts).strip('/').split('/'))}"
        if self.attacks is not None:
            parse_attacks(self.attacks)
