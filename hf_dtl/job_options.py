"""Options that every job has: images and their training, the attacker, and the run."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from hf_dtl.options import option

_ATTACKER = ("attacks", "budgets", "audit_seeds", "attack_learning_rates", "successive_halving", "max_eval_images")


@dataclass(kw_only=True)
class JobOptions:
    """Options that every job has; a subclass adds what it trains on, with what methods, and where it writes."""

    DISPOSAL: ClassVar[tuple[str, ...]] = ()
    """Options of the disposal: a run may be continued with others."""
    FREE: ClassVar[tuple[str, ...]] = ()
    """Options of the audit, besides those of the attacker: likewise."""

    image_column: str | None = option(None, "Column of images; default: the only one.")
    max_eval_images: int | None = option(None, "Cap on the images of each validation and test split; default: all.")
    revision: str = option("main", "Revision of the given model.")
    image_size: int | None = option(None, "Resize images to this many pixels instead of what the model asks for.")
    batch_size: int = option(64, "Images a step of ordinary training, over all processes.")
    augmentation: str = option(
        "affine", "Random transforms of the training images of all models: none, affine, or affine_flip (no digits)."
    )
    forget_weight: float | None = option(
        None, "Weight (lambda) of the disposal loss against retention; default: the method's own."
    )
    budgets: str = option("5,20", "Images a class that the attacker gets, separated by commas.")
    audit_seeds: str = option("0,1,2", "Seeds of the attacks, separated by commas.")
    attack_learning_rates: str | None = option(
        None, "Learning rates that full fine-tuning attacks choose from; default: what suits the model."
    )
    successive_halving: bool = option(False, "Give up learning rates early: a weaker attacker.")
    use_cpu: bool = option(False, "Train on the CPU even if there is a GPU.")
    bf16: bool = option(False, "Train under bfloat16 autocast.")
    save_steps: int = option(50, "Steps between the checkpoints that an interrupted stage continues from.")

    def recorded(self) -> dict[str, Any]:
        """Every option that decides a result, for the report."""
        return {k: v for k, v in asdict(self).items() if k not in ("output_dir", "methods", "save_steps")}

    def disposal(self) -> dict[str, Any]:
        """Options of the disposal."""
        return {name: getattr(self, name) for name in self.DISPOSAL}

    def settings(self) -> dict[str, Any]:
        """What decides the stages that all methods share: a run is one choice of these."""
        free = {*_ATTACKER, *self.FREE, *self.DISPOSAL}
        return {k: v for k, v in self.recorded().items() if k not in free}
