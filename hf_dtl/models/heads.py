"""One backbone, one head per task: split any Hub image classifier at its classifier, and put it back together."""

import copy
import json
import re
from collections.abc import ItemsView, Sequence, ValuesView
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

from hf_dtl.errors import ModelError


def locate_classifier(model: PreTrainedModel) -> str:
    """Name the final classifier of an image classifier: the one module whose shape depends on the number of labels.

    The model is rebuilt on the meta device (no memory, no weights) with one label more; what changed shape is the
    classifier. Neither module names nor sizes are guessed, so a hidden size equal to the number of labels is harmless.

    Args:
        model: any `AutoModelForImageClassification`.

    Returns:
        The path of an `nn.Linear`, as `model.get_submodule` takes it.

    Raises:
        ModelError: the model has no classifier, several, or one that is not an `nn.Linear`.
    """
    config = copy.deepcopy(model.config)
    config.num_labels = (model.config.num_labels or 0) + 1
    with torch.device("meta"):
        wider = dict(type(model)(config).named_parameters())
    changed = {n.rpartition(".")[0] for n, p in model.named_parameters() if n in wider and p.shape != wider[n].shape}
    name = type(model).__name__
    if len(changed) != 1:
        found = f"several ({', '.join(sorted(changed))})" if changed else "none"
        raise ModelError(
            f"{name} must have exactly one final classifier, found {found}. Use a model that "
            "`AutoModelForImageClassification` loads with a single classification head."
        )
    path = changed.pop()
    classifier = model.get_submodule(path)
    if not isinstance(classifier, nn.Linear):
        raise ModelError(
            f"The final classifier of {name}, `{path}`, is a {type(classifier).__name__}; only `nn.Linear` "
            "classifiers can be exchanged. Use another architecture."
        )
    return path


class Heads(nn.ModuleDict):
    """Linear heads by task: a `ModuleDict` whose values are known."""

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> nn.Linear: ...
        def items(self) -> ItemsView[str, nn.Linear]: ...
        def values(self) -> ValuesView[nn.Linear]: ...


class MultiHeadClassifier(nn.Module):
    """A Hub backbone with one linear head per task.

    *Features* are what enters the final classifier module of the Hub model: a tensor of shape (batch, features).
    The backbone is the Hub model itself with its classifier replaced by the identity, so every architecture that
    `AutoModelForImageClassification` knows works unchanged.

    Args:
        model: the Hub classifier. It becomes the backbone (it is changed in place, not copied).
        task: name of the task that its present classifier solves.

    Raises:
        ModelError: see `locate_classifier`, or the task name is not an identifier.

    Example:
        >>> from transformers import AutoModelForImageClassification, ViTConfig
        >>> config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        ...                    image_size=8, patch_size=4, num_labels=3)
        >>> model = MultiHeadClassifier(AutoModelForImageClassification.from_config(config), task="source")
        >>> model.add_head("target", ["cat", "dog"])
        >>> model(torch.zeros(1, 3, 8, 8), task="target").shape
        torch.Size([1, 2])
    """

    def __init__(self, model: PreTrainedModel, task: str = "default"):
        super().__init__()
        if not isinstance(model, PreTrainedModel):
            raise ModelError(
                f"Expected a Hub model (a transformers PreTrainedModel), got {type(model).__name__}. "
                "Load one with `AutoModelForImageClassification.from_pretrained`."
            )
        self.classifier_path = locate_classifier(model)
        classifier = model.get_submodule(self.classifier_path)
        assert isinstance(classifier, nn.Linear)
        model.set_submodule(self.classifier_path, nn.Identity())
        self.backbone = model
        self.heads = Heads()
        self.labels: dict[str, tuple[str, ...]] = {}  # task -> names of its classes; none for a regression task
        self._attention = model.config._attn_implementation
        id2label: dict = model.config.id2label or {}
        regression = model.config.problem_type == "regression" and classifier.out_features == 1
        labels = [] if regression else [id2label[i] for i in range(classifier.out_features)]
        self._register(task, labels, classifier)

    def _register(self, task: str, labels: Sequence[str], head: nn.Linear) -> None:
        if not re.fullmatch(r"[A-Za-z_]\w*", task) or task in self.heads or hasattr(nn.ModuleDict, task):
            raise ModelError(
                f"Task name {task!r} cannot be used: it must be a new identifier (letters, digits and _); "
                f"present tasks: {', '.join(self.heads) or 'none'}."
            )
        self.heads[task] = head
        self.labels[task] = tuple(str(label) for label in labels)

    @property
    def num_features(self) -> int:
        """Width of the features."""
        return next(iter(self.heads.values())).in_features

    def add_head(self, task: str, labels: Sequence[str]) -> None:
        """Add a new, randomly initialised head (truncated normal of deviation 0.02, no bias) for `labels`."""
        like = next(iter(self.heads.values())).weight
        head = nn.Linear(self.num_features, len(labels) or 1, device=like.device, dtype=like.dtype)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        self._register(task, labels, head)

    def add_regression_head(self, task: str) -> None:
        """Add a new head with one output, initialised as in `add_head`; its task has no labels."""
        self.add_head(task, ())

    def is_regression(self, task: str) -> bool:
        """Whether the head of `task` gives one number instead of logits."""
        self._check_task(task)
        return not self.labels[task]

    def remove_head(self, task: str) -> None:
        """Drop the head of `task` for good."""
        self._check_task(task)
        if len(self.heads) == 1:
            raise ModelError(f"{task!r} is the only task left; a model needs one head.")
        del self.heads[task], self.labels[task]

    def _check_task(self, task: str) -> None:
        if task not in self.heads:
            raise ModelError(f"The model has no task {task!r}; its tasks are: {', '.join(self.heads)}.")

    def features(self, pixel_values: Tensor) -> Tensor:
        """Compute what enters the classifier.

        Args:
            pixel_values: (batch, channels, height, width), as the model's processor gives them.

        Returns:
            (batch, features).
        """
        return self.backbone(pixel_values=pixel_values).logits

    def hidden_states(self, pixel_values: Tensor) -> tuple[list[Tensor], Tensor]:
        """Compute what every stage of the backbone gives, from the embedding on, and the features.

        Args:
            pixel_values: (batch, channels, height, width).

        Returns:
            One tensor a depth, (batch, tokens, width) or (batch, channels, height, width), as the Hub model's
            `hidden_states`; and the features (batch, features).

        Raises:
            ModelError: the backbone does not give its hidden states.
        """
        output = self.backbone(pixel_values=pixel_values, output_hidden_states=True)
        if not output.get("hidden_states"):
            raise ModelError(f"{type(self.backbone).__name__} gives no hidden states; use another method or model.")
        return list(output.hidden_states), output.logits

    def forward(self, pixel_values: Tensor, task: str | None = None) -> Tensor | dict[str, Tensor]:
        """Compute the logits (batch, labels) of `task`, or of every task in a dictionary when `task` is None.

        A regression head gives (batch, 1).
        """
        if task is not None:
            self._check_task(task)
            return self.heads[task](self.features(pixel_values))
        features = self.features(pixel_values)
        return {name: head(features) for name, head in self.heads.items()}

    def use_eager_attention(self) -> None:
        """Switch to attention that can be differentiated twice (fused kernels have no second derivative)."""
        if self._attention not in (None, "eager"):
            self.backbone.set_attn_implementation("eager")

    def activation_checkpointing_enable(self, **kwargs) -> None:
        """Enable activation checkpointing of the backbone (called by `transformers.Trainer`)."""
        self.backbone.activation_checkpointing_enable(**kwargs)

    def export(self, task: str) -> PreTrainedModel:
        """Give back a plain Hub model for one task: a copy that holds this task's head and no other.

        Args:
            task: the task to keep.

        Returns:
            A model of the backbone's own class, with this task's labels (for a regression head the task's name and
            the `problem_type` "regression"), on the CPU, whose saved folder
            `AutoModelForImageClassification.from_pretrained` loads without custom code.
        """
        self._check_task(task)
        model: Any = copy.deepcopy(self.backbone)
        model.set_submodule(self.classifier_path, copy.deepcopy(self.heads[task]))
        if self._attention not in (None, "eager"):
            model.set_attn_implementation(self._attention)
        regression = self.is_regression(task)
        labels = (task,) if regression else self.labels[task]
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: i for i, label in enumerate(labels)}
        model.config.architectures = [type(model).__name__]
        model.config.problem_type = "regression" if regression else "single_label_classification"
        # The name may be a local path, and the published model is no longer the model of that name.
        model.config._name_or_path = ""
        model.name_or_path = ""
        model.num_labels = len(labels)
        return model.requires_grad_(True).eval().cpu()

    def save(self, folder: str | Path) -> None:
        """Write backbone and EVERY head to `folder`, for local use only: it holds the task to be disposed of."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.export(next(iter(self.heads))).config.save_pretrained(folder)
        parts = ("backbone.", "heads.")  # and not what a trainer adds to the model it trains
        state = {name: value.contiguous() for name, value in self.state_dict().items() if name.startswith(parts)}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "tasks.json").write_text(json.dumps(self.labels))

    @classmethod
    def load(cls, folder: str | Path) -> "MultiHeadClassifier":
        """Read what `save` wrote."""
        labels = json.loads((Path(folder) / "tasks.json").read_text())
        first, *others = labels
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = cls(AutoModelForImageClassification.from_config(config), task=first)
        for task in others:
            model.add_head(task, labels[task])
        model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return model
