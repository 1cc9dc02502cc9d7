"""The models of an attack, by object, Hub id or folder, and the processor that their images need."""

from pathlib import Path

from transformers import BaseImageProcessor, PreTrainedModel

from hf_dtl.data import load_processor
from hf_dtl.errors import ConfigError, ModelError
from hf_dtl.models.loading import load_classifier

Model = PreTrainedModel | str | Path


def load_model(model: Model) -> PreTrainedModel:
    """Return a classifier, loaded from a Hub id or folder where it is not one yet.

    Args:
        model: the classifier, its Hub id, or its folder. Only safetensors are read and no code of it is run.

    Raises:
        ModelError: it cannot be loaded, or is something else.
    """
    if isinstance(model, PreTrainedModel):
        return model
    if not isinstance(model, (str, Path)):
        raise ModelError(
            f"A model is a transformers PreTrainedModel, a Hub id or a folder, got {type(model).__name__}."
        )
    return load_classifier(model)


def find_processor(
    model: Model, loaded: PreTrainedModel, processor: BaseImageProcessor | str | Path | None
) -> BaseImageProcessor:
    """Return the image processor of the attacked model.

    Args:
        model: the model as the user gave it.
        loaded: the same, loaded.
        processor: the processor that the user asked for, or where it is; None means that of the model.

    Raises:
        ConfigError: there is no place to take it from.
        ModelError: it cannot be loaded.
    """
    if isinstance(processor, BaseImageProcessor):
        return processor
    place = processor or (model if isinstance(model, (str, Path)) else loaded.name_or_path)
    if not place:
        raise ConfigError(
            "Which processor prepares the images? The model was not loaded from the Hub or a folder that would say. "
            "Give processor=, for example AutoImageProcessor.from_pretrained(…), or tensors as data sets."
        )
    return load_processor(place, loaded.config)
