"""Reference models that show what a number of the audit means."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from hf_dtl.audit.task import AttackedTask
from hf_dtl.errors import ModelError

_OFFSET = 7_368_787


def scratch_model(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Build the floor of the audit: the same architecture with fresh random weights.

    What an attacker reaches from here comes from the attack's own images alone, not from what was learned before.

    Args:
        model: the classifier whose architecture is wanted; not changed.
        seed: seed of the weights. The global random state is not touched, and equal seeds give equal weights.

    Returns:
        A model of the same class, configuration, dtype and device, in evaluation mode.

    Raises:
        ModelError: `model` is not a Hub model.
    """
    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"Expected a Hub model (a transformers PreTrainedModel), got {type(model).__name__}. "
            "Load one with `AutoModelForImageClassification.from_pretrained`."
        )
    config = copy.deepcopy(model.config)
    with torch.random.fork_rng(devices=[]):
        # Seeds the CPU only: the weights are drawn there, so they are the same for a model on any device.
        # The offset keeps them from being the very weights that pre-training with the same seed started from.
        torch.default_generator.manual_seed(seed + _OFFSET)
        fresh = type(model)(config)
    fresh.name_or_path = fresh.config._name_or_path = ""
    fresh.to(device=model.device, dtype=model.dtype)  # type: ignore[call-arg]
    return fresh.eval()


def scratch_models(model: PreTrainedModel, count: int, seed: int = 0) -> list[PreTrainedModel]:
    """Build several draws of `scratch_model`, one for each attack seed.

    Args:
        model: the classifier whose architecture is wanted; not changed.
        count: number of draws.
        seed: the first draw is `scratch_model(model, seed)`.
    """
    return [scratch_model(model, seed + 1_000 * draw) for draw in range(count)]


class PixelConfig(PretrainedConfig):
    """Shape of images, and the number of classes (`num_labels`)."""

    model_type = "pixels"

    def __init__(self, num_channels: int = 3, height: int = 28, width: int = 28, **options: Any):
        super().__init__(**options)
        self.num_channels, self.height, self.width = num_channels, height, width


class PixelModel(PreTrainedModel):
    """A classifier without weights but its head: what enters that are the pixels.

    An attacker who has it has nothing; what he reaches comes from his own images. It is the audit's floor `no_model`.
    """

    config_class = PixelConfig
    main_input_name = "pixel_values"

    def __init__(self, config: PixelConfig):
        super().__init__(config)
        self.scale = nn.Parameter(torch.ones(()))  # a network without any parameter has no device and no type
        self.classifier = nn.Linear(config.num_channels * config.height * config.width, config.num_labels or 0)
        self.post_init()

    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool = False, **options: Any
    ) -> ImageClassifierOutput:
        """Logits (images, labels) of images (images, channels, height, width)."""
        states = (pixel_values,) if output_hidden_states else None
        return ImageClassifierOutput(
            logits=self.classifier(self.scale * pixel_values.flatten(1)), hidden_states=states
        )


def no_model(task: AttackedTask) -> PixelModel:
    """Build the floor of an attacker who has no weights at all, for the images of a task."""
    channels, height, width = task.train.pixel_values.shape[1:]
    config = PixelConfig(num_channels=channels, height=height, width=width, num_labels=len(task.labels))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # the head is never used, and always the same: so is the model's print
        return PixelModel(config).eval()
