"""Options of unlearning a part of one data set."""

from dataclasses import dataclass
from typing import Any, ClassVar

from hf_dtl.job_options import JobOptions
from hf_dtl.methods.by_name import METHODS, with_goal
from hf_dtl.options import option


@dataclass(kw_only=True)
class UnlearnOptions(JobOptions):
    """Options of unlearning.

    Parameters that control the request:
        forget, dataset, image_column, label_column, images_per_class, max_eval_images.
    Parameters that control the model and its training:
        model_name_or_path, revision, image_size, batch_size, train_epochs, train_learning_rate, augmentation,
        reference, retrain_epochs, retrain_learning_rate, retrained, retrained_revision.
    Parameters that control unlearning and audit:
        methods, goal, unlearn_steps, unlearn_batch_size, unlearn_learning_rate, forget_weight, attacks, budgets,
        audit_seeds, attack_learning_rates, successive_halving, membership.
    Parameters that control the run:
        output_dir, seed, use_cpu, bf16, save_steps.
    """

    DISPOSAL: ClassVar[tuple[str, ...]] = (
        "unlearn_steps",
        "unlearn_batch_size",
        "unlearn_learning_rate",
        "forget_weight",
    )
    FREE: ClassVar[tuple[str, ...]] = ("reference", "retrained", "retrained_revision", "membership")

    forget: str = option(
        help="What to forget: class=3 (also class=cat,dog or class=0-2), a file of row numbers of the training "
        "split (or of row,class: what to name each image instead), column=value (such as person=ann), or "
        "random=10%% of the training images."
    )
    dataset: str = option(
        "fashion_mnist", "Data that the model was trained on: NAME[:SPLIT][CLASS,CLASS,...], a Hub id or a folder."
    )
    output_dir: str = option("outputs/unlearn", "Folder of the run; continued when it holds an unfinished part of it.")
    seed: int = option(0, "Seed of training, unlearning, and the draw of --forget random.")
    label_column: str | None = option(None, "Column of classes; default: label.")
    images_per_class: int | None = option(None, "Training images a class; default: all.")
    model_name_or_path: str | None = option(
        None, "Hub or local image classifier to unlearn from; default: a small ViT, trained here on the data."
    )
    train_epochs: float | None = option(
        None, "Passes over the data that train the model; default: 16, or 0 for a given model. 0 skips the stage."
    )
    train_learning_rate: float = option(1e-3, "Peak learning rate of that training.")
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
    goal: str | None = option(
        None, "Goal of the methods that have one, the same as NAME:goal=...: misclassify or relabel of instancewise."
    )
    unlearn_steps: int = option(100, "Steps of unlearning, at most: some methods stop earlier, or take none.")
    unlearn_batch_size: int = option(64, "Forget images, and retain images where they are used, a step.")
    unlearn_learning_rate: float | None = option(
        None, "Learning rate of unlearning; default: the method's own, else 5e-4 for the small ViT, 5e-5 for others."
    )
    attacks: str = option(
        "linear_probe,full,full_published",
        "Attacks, separated by commas: names, grid, adaptive or all; those that do not apply are left out.",
    )
    membership: bool = option(True, "Also ask whether forgotten images can be told from images never seen.")

    def __post_init__(self) -> None:
        if self.goal is not None:
            self.methods, self.goal = with_goal(self.methods, self.goal), None

    def recorded(self) -> dict[str, Any]:
        """As in `JobOptions`; the goal is a part of the methods."""
        return {name: value for name, value in super().recorded().items() if name != "goal"}
