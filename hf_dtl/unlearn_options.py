"""Options of unlearning a part of one data set."""

from dataclasses import dataclass
from typing import Any, ClassVar

from hf_dtl.job_options import JobOptions
from hf_dtl.methods.by_name import MethodChoice, parse_methods, with_goal
from hf_dtl.methods.registry import method_names
from hf_dtl.multitask_options import OWN, check_for_tasks, several_tasks
from hf_dtl.options import option

STEPS = 100
"""Of unlearning, for methods that do not stop by themselves."""


@dataclass(kw_only=True)
class UnlearnOptions(JobOptions):
    """Options of unlearning.

    Parameters that control the request:
        forget, dataset, image_column, label_column, images_per_class, max_eval_images; of several tasks at once
        forget_tasks, task_columns, images.
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
    dataset: str | None = option(
        None,
        "Data that the model was trained on: NAME[:SPLIT][CLASS,CLASS,...], a Hub id or a folder; default: "
        "fashion_mnist, with --methods multitask glyphs.",
    )
    output_dir: str = option("outputs/unlearn", "Folder of the run; continued when it holds an unfinished part of it.")
    seed: int = option(0, "Seed of training, unlearning, and the draw of --forget random.")
    label_column: str | None = option(None, "Column of classes; default: label.")
    images_per_class: int | None = option(None, "Training images a class; default: all.")
    augmentation: str | None = option(
        None,
        "Random transforms of the training images of all models: none, affine, or affine_flip (no digits); default: "
        "affine, with --methods multitask none: some task may ask for what they change.",
    )
    model_name_or_path: str | None = option(
        None,
        "Hub or local image classifier to unlearn from, with --methods multitask also a folder with heads for several "
        "tasks; default: a small ViT, trained here on the data.",
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
        f"is put at the top of the output folder. There are: {', '.join(method_names())}.",
    )
    goal: str | None = option(
        None, "Goal of the methods that have one, the same as NAME:goal=...: misclassify or relabel of instancewise."
    )
    unlearn_steps: int | None = option(
        None,
        "Steps of unlearning, at most: some methods stop earlier, or take none. Default: "
        f"{STEPS}; instancewise, which stops when all is forgotten, 600 (with strategy=l2ul 1000).",
    )
    unlearn_batch_size: int = option(64, "Forget images, and retain images where they are used, a step.")
    unlearn_learning_rate: float | None = option(
        None, "Learning rate of unlearning; default: the method's own, else 5e-4 for the small ViT, 5e-5 for others."
    )
    attacks: str | None = option(
        None,
        "Attacks, separated by commas: names, grid, adaptive or all; those that do not apply are left out. Default: "
        "linear_probe,full,full_published, with --methods multitask full.",
    )
    budgets: str | None = option(
        None, "Images a class that the attacker gets, separated by commas; default: 5,20, with --methods multitask 5."
    )
    membership: bool = option(True, "Also ask whether forgotten images can be told from images never seen.")

    forget_tasks: str | None = option(
        None, "With --methods multitask: tasks to forget the images for, separated by commas; default: all tasks."
    )
    task_columns: str | None = option(
        None,
        "With --methods multitask: label columns, separated by commas, each of which is a task, or TASK=COLUMN; "
        "default: all of glyphs and fashion_groups. Columns of floats are regression tasks.",
    )
    images: int | None = option(None, "With --methods multitask: training images; default: all.")

    def __post_init__(self) -> None:
        check_for_tasks(self)
        if self.goal is not None:
            self.methods, self.goal = with_goal(self.methods, self.goal), None
        several = self.multitask
        for name, one_task, tasks in (
            ("dataset", "fashion_mnist", "glyphs"),
            ("augmentation", "affine", "none"),
            ("attacks", "linear_probe,full,full_published", "full"),
            ("budgets", "5,20", "5"),
        ):
            if getattr(self, name) is None:
                setattr(self, name, tasks if several else one_task)

    @property
    def multitask(self) -> bool:
        """Whether images are forgotten of a model of several tasks."""
        return several_tasks(self.methods)

    @property
    def choices(self) -> list[MethodChoice]:
        """The methods.

        Raises:
            ConfigError: see `parse_method`.
        """
        return parse_methods(self.methods)

    def recorded(self) -> dict[str, Any]:
        """As in `JobOptions`; the goal is a part of the methods, and one task has no options of several."""
        left_out = ("goal",) if self.multitask else ("goal", *OWN)
        return {name: value for name, value in super().recorded().items() if name not in left_out}
