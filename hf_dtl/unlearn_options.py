"""Options of unlearning a part of one data set."""

from dataclasses import asdict, dataclass
from typing import Any

from hf_dtl.methods.by_name import METHODS
from hf_dtl.options import option


@dataclass
class UnlearnOptions:
    """Options of unlearning.

    Parameters that control the request:
        forget, dataset, image_column, label_column, images_per_class, max_eval_images.
    Parameters that control the model and its training:
        model_name_or_path, revision, image_size, batch_size, train_epochs, train_learning_rate, augmentation,
        reference, retrain_epochs, retrain_learning_rate, retrained, retrained_revision.
    Parameters that control unlearning and audit:
        methods, unlearn_steps, unlearn_batch_size, unlearn_learning_rate, forget_weight, attacks, budgets,
        audit_seeds, attack_learning_rates, successive_halving, membership.
    Parameters that control the run:
        output_dir, seed, use_cpu, bf16, save_steps.
    """

    forget: str = option(
        help="What to forget: class=3 (also class=cat,dog or class=0-2), a file of row numbers of the training "
        "split, column=value (such as person=ann), or random=10% of the training images."
    )
    dataset: str = option(
        "fashion_mnist", "Data that the model was trained on: NAME[:SPLIT][CLASS,CLASS,...], a Hub id or a folder."
    )
    output_dir: str = option("outputs/unlearn", "Folder of the run; continued when it holds an unfinished part of it.")
    seed: int = option(0, "Seed of training, unlearning, and the draw of --forget random.")
    image_column: str | None = option(None, "Column of images; default: the only one.")
    label_column: str | None = option(None, "Column of classes; default: label.")
    images_per_class: int | None = option(None, "Training images a class; default: all.")
    max_eval_images: int | None = option(
        None, "Cap on the images of the validation and test split, and on those that accuracies are measured on."
    )
    model_name_or_path: str | None = option(
        None, "Hub or local image classifier to unlearn from; default: a small ViT, trained here on the data."
    )
    revision: str = option("main", "Revision of that model.")
    image_size: int | None = option(None, "Resize images to this many pixels instead of what the model asks for.")
    batch_size: int = option(64, "Images a step of ordinary training, over all processes.")
    train_epochs: float | None = option(
        None, "Passes over the data that train the model; default: 16, or 0 for a given model. 0 skips the stage."
    )
    train_learning_rate: float = option(1e-3, "Peak learning rate of that training.")
    augmentation: str = option(
        "affine", "Random transforms of training and retain images: none, affine, or affine_flip (no digits)."
    )
    reference: str = option(
        "none", "'retrain' trains the same architecture from random weights on the retained images, to compare with."
    )
    retrain_epochs: float | None = option(None, "Passes over the retained images; default: --train_epochs, or 16.")
    retrain_learning_rate: float | None = option(None, "Peak learning rate; default: --train_learning_rate.")
    retrained: str | None = option(
        None, "Reference that was trained without the images to forget, instead of --reference: Hub id or folder."
    )
    retrained_revision: str = option("main", "Revision of that model.")
    methods: str = option(
        "projected_gradient",
        "Methods, separated by commas, each with options of its config, NAME[:OPTION=VALUE]...; the first "
        f"is put at the top of the output folder. There are: {', '.join(METHODS)}.",
    )
    unlearn_steps: int = option(100, "Steps of unlearning, at most: some methods stop earlier, or take none.")
    unlearn_batch_size: int = option(64, "Forget images, and retain images where they are used, a step.")
    unlearn_learning_rate: float | None = option(
        None, "Learning rate of unlearning; default: the method's own, else 5e-4 for the small ViT, 5e-5 for others."
    )
    forget_weight: float | None = option(
        None, "Weight (lambda) of the forget loss against retention; default: the method's own."
    )
    attacks: str = option(
        "linear_probe,full,full_published",
        "Attacks, separated by commas: names, grid, adaptive or all; those that do not apply are left out.",
    )
    budgets: str = option("5,20", "Images a class that the attacker gets, separated by commas.")
    audit_seeds: str = option("0,1,2", "Seeds of the attacks, separated by commas.")
    attack_learning_rates: str | None = option(
        None, "Learning rates that full fine-tuning attacks choose from; default: what suits the model."
    )
    successive_halving: bool = option(False, "Give up learning rates early: a weaker attacker.")
    membership: bool = option(True, "Also ask whether forgotten images can be told from images never seen.")
    use_cpu: bool = option(False, "Train on the CPU even if there is a GPU.")
    bf16: bool = option(False, "Train under bfloat16 autocast.")
    save_steps: int = option(50, "Steps between the checkpoints that an interrupted stage continues from.")

    def recorded(self) -> dict[str, Any]:
        """Every option that decides a result, for the report."""
        return {k: v for k, v in asdict(self).items() if k not in ("output_dir", "methods", "save_steps")}

    def disposal(self) -> dict[str, Any]:
        """Options of the unlearning: a run may be continued with others."""
        names = ("unlearn_steps", "unlearn_batch_size", "unlearn_learning_rate", "forget_weight")
        return {name: getattr(self, name) for name in names}

    def settings(self) -> dict[str, Any]:
        """What decides the stages that all methods share: a run is one choice of these."""
        free = {"attacks", "budgets", "audit_seeds", "attack_learning_rates", "successive_halving", "membership"}
        free |= {"max_eval_images", "reference", "retrained", "retrained_revision", *self.disposal()}
        return {k: v for k, v in self.recorded().items() if k not in free}
