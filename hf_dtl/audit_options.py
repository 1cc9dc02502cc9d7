"""Options of the audit of two given models, and the attacker they describe."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hf_dtl.audit import AttackConfig, attack_names, parse_attacks
from hf_dtl.data import DatasetSpec
from hf_dtl.errors import ConfigError
from hf_dtl.options import numbers, option

ROLES = ("undisposed", "scrubbed", "scratch", "retrained")
IMAGES = (
    *("image_column", "source_label_column", "target_label_column", "novel_label_column"),
    *("image_size", "max_train_images_per_class", "max_eval_images", "processor", "retrain"),
)
RATES = ("linear_probe_learning_rates", "full_learning_rates", "lora_learning_rates")


@dataclass
class AuditOptions:
    """Options of the audit.

    Parameters that control the models:
        scrubbed, undisposed, retrained, scratch, and of each the revision; processor, image_size, retrain,
        retrain_epochs, retrain_learning_rate, retrain_batch_size.
    Parameters that control the data:
        source_dataset, target_dataset, novel_dataset, image_column, source_label_column, target_label_column,
        novel_label_column, max_train_images_per_class, max_eval_images.
    Parameters that control the attacker:
        attacks, budgets, seeds, linear_probe_learning_rates, full_learning_rates, lora_learning_rates,
        successive_halving, max_stack, membership.
    Parameters that control the report and the run:
        method, target_margin, output_dir, resume, seed, use_cpu.
    """

    scrubbed: str = option(
        help="The model to audit: Hub id or folder of an image classifier (safetensors). To compare a published model "
        "with its own report instead: --verify HUB_ID_OR_FOLDER alone (see --verify . --help)."
    )
    undisposed: str = option(help="The model before disposal, written likewise: what leakage 1 means.")
    source_dataset: str = option(help="Data that were to be forgotten: NAME[:SPLIT][CLASS,CLASS,...].")
    output_dir: str = option("outputs/audit", "Folder of the report, tables, plots and finished attacks.")
    target_dataset: str | None = option(
        None, "Data that were to be kept, written likewise: gives target accuracy and the attacks on retain images."
    )
    novel_dataset: str | None = option(None, "Task that nobody trained, for a second axis; default: none.")
    retrained: str | None = option(None, "Reference that never saw the source data: Hub id or folder.")
    scratch: str | None = option(
        None, "Reference that leakage 0 means; default: the undisposed architecture with random weights."
    )
    scrubbed_revision: str = option("main", "Revision of the scrubbed model.")
    undisposed_revision: str = option("main", "Revision of the undisposed model.")
    retrained_revision: str = option("main", "Revision of the retrained model.")
    scratch_revision: str = option("main", "Revision of the scratch model.")
    processor: str | None = option(
        None,
        "Image processor of all models: undisposed, scrubbed, scratch or retrained for that of the model, or a Hub "
        "id or folder; default: that of the models, which must agree.",
    )
    image_size: int | None = option(None, "Resize images to this many pixels instead of what the processor says.")
    retrain: bool = option(False, "Train the retrained reference here, on the target data alone.")
    retrain_epochs: float = option(100, "Passes over the target data of that training.")
    retrain_learning_rate: float = option(1e-3, "Peak learning rate of that training.")
    retrain_batch_size: int = option(64, "Images a step of that training, over all processes.")
    image_column: str | None = option(None, "Column of images; default: the only one.")
    source_label_column: str | None = option(None, "Column of source classes; default: label.")
    target_label_column: str | None = option(None, "Column of target classes; default: label.")
    novel_label_column: str | None = option(None, "Column of novel classes; default: label.")
    max_train_images_per_class: int | None = option(
        None,
        "Training images a class that are used; default: 400, but 4 to 20 times the largest budget, and all target "
        "images for --retrain.",
    )
    max_eval_images: int | None = option(None, "Cap on the images of each validation and test split; default: all.")
    attacks: str = option(
        "grid", f"Attacks, separated by commas: grid, adaptive, all, or names ({', '.join(attack_names())})."
    )
    budgets: str = option("1,5,20,100", "Images a class that the attacker gets, separated by commas.")
    seeds: str = option("0,1,2", "Seeds of the attacks, separated by commas.")
    linear_probe_learning_rates: str | None = option(
        None, "Learning rates that linear probes choose from; default: what suits the size of the model."
    )
    full_learning_rates: str | None = option(None, "The same for attacks on every weight.")
    lora_learning_rates: str | None = option(None, "The same for LoRA.")
    successive_halving: bool = option(False, "Give up learning rates early: faster, but the attacker is weaker.")
    max_stack: int | None = option(None, "Attacks that run at once; default: what memory allows; 1: one by one.")
    membership: bool = option(
        True, "Also tell forget images (source train split) from unseen ones, where the heads have the source classes."
    )
    method: str | None = option(None, "Name of the method for the report; default: name of the scrubbed model.")
    target_margin: float = option(0.05, "Drop of target accuracy above which the target counts as destroyed.")
    resume: bool = option(False, "Continue the audit in the output folder; finished attacks are never repeated.")
    seed: int = option(0, "Seed of the scratch and the retrained model.")
    use_cpu: bool = option(False, "Attack on the CPU even if there is a GPU.")

    def __post_init__(self) -> None:
        for name in ("max_train_images_per_class", "max_eval_images", "image_size", "retrain_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name} {value} must be at least 1.")
        for name in ("retrain_epochs", "retrain_learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"--{name} {getattr(self, name)} must be positive.")
        if not 0 <= self.target_margin <= 1:
            raise ConfigError(f"--target_margin {self.target_margin} must be in 0..1.")
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed} must not be negative.")
        if self.retrain and (self.retrained is not None or self.target_dataset is None):
            raise ConfigError("--retrain trains a reference on --target_dataset: give that, and no --retrained.")
        if self.processor in ROLES and getattr(self, self.processor) is None:
            raise ConfigError(f"--processor {self.processor} names a model that is not given.")
        self.attacker(parameters=0)

    @property
    def models(self) -> dict[str, tuple[str, str]]:
        """The given models by role: Hub id or folder, and revision."""
        return {
            role: (getattr(self, role), getattr(self, f"{role}_revision"))
            for role in ROLES
            if getattr(self, role) is not None
        }

    @property
    def datasets(self) -> dict[str, str]:
        """The given data sets: source, target, novel."""
        given = {name: getattr(self, f"{name}_dataset") for name in ("source", "target", "novel")}
        return {name: spec for name, spec in given.items() if spec is not None}

    def attacker(self, parameters: int) -> AttackConfig:
        """What the attacker may do to models of so many parameters.

        Raises:
            ConfigError: an option of the attacker is not supported.
        """
        chosen: dict[str, Any] = {name: getattr(self, name) for name in ("successive_halving", "max_stack")}
        rates = {name: getattr(self, name) for name in RATES}
        chosen |= {name: numbers(text, name, float) for name, text in rates.items() if text is not None}
        return AttackConfig.for_model(
            parameters,
            attacks=parse_attacks(self.attacks),
            budgets=numbers(self.budgets, "budgets", int),
            seeds=numbers(self.seeds, "seeds", int),
            **chosen,
        )

    def identity(self) -> dict[str, Any]:
        """What makes it this audit: an audit may be continued with other attacks, budgets, seeds and names."""
        free = {"output_dir", "attacks", "budgets", "seeds", *RATES, "successive_halving", "max_stack", "membership"}
        free |= {"method", "target_margin", "resume", "use_cpu"}
        return {name: value for name, value in asdict(self).items() if name not in free}

    def attacked_images(self) -> dict[str, Any]:
        """What decides which images are attacked and how they are prepared, besides the data sets."""
        chosen = {name: getattr(self, name) for name in IMAGES}
        return chosen | {"processor": public_name(self.processor) if self.processor else None}

    def public(self) -> dict[str, Any]:
        """Every option that differs from its default, without local folders, for the report."""
        changed = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        for name in ("output_dir", "resume"):
            changed.pop(name, None)
        for name in changed.keys() & {*ROLES, "processor"}:
            changed[name] = public_name(changed[name])
        for name in (f"{name}_dataset" for name in self.datasets):
            changed[name] = str(DatasetSpec.parse(changed[name]).public())
        return changed


def public_name(model: str) -> str:
    """A Hub id as it is, a local folder without the folders above it."""
    path = Path(model).expanduser()
    return path.resolve().name if path.exists() or path.is_absolute() else model
