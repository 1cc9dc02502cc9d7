"""Low-rank adapters (LoRA): in a model while it trains, and merged into its weights for everybody else."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from hf_dtl.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence


def base_of(name_or_path: str | Path, revision: str = "main") -> str | None:
    """The model that an adapter was trained for; None where the place holds no adapter.

    Args:
        name_or_path: Hub id or folder.
        revision: of a Hub repository.
    """
    try:
        found = find_adapter_config_file(str(name_or_path), revision=revision)
    except Exception:  # whatever the Hub says of a place that is not there; who loads the model tells it
        return None
    if found is None or (Path(found).parent / "model.safetensors").is_file():
        return None  # the latter: a whole model, with what it was made of beside it
    return json.loads(Path(found).read_text(encoding="utf-8")).get("base_model_name_or_path")


def rows_of_adapter(file: Path, heads: "Sequence[str]") -> int | None:
    """Rows of the head that an adapter brings, None where it keeps its base's.

    Args:
        file: its safetensors.
        heads: paths of the base's classifiers.
    """
    with safe_open(file, "pt") as tensors:
        names = {name: name.removeprefix("base_model.model.") for name in tensors.keys()}  # noqa: SIM118
        found = [
            tensors.get_slice(n).get_shape()[0] for n, own in names.items() if own in {f"{h}.weight" for h in heads}
        ]
    return found[0] if found else None


def add_adapters(model: PreTrainedModel, rank: int) -> list[str]:
    """Put LoRA adapters, which change nothing yet, on every linear layer, or if there is none on every convolution.

    Args:
        model: changed in place; its own weights are frozen.
        rank: of the adapters, >= 1.

    Returns:
        The paths of the adapted layers.

    Raises:
        ModelError: there is no layer for it.

    Source: Hu et al., LoRA, arXiv 2106.09685.
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds to import

    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    targets = linear or convolutions
    if not targets:
        raise ModelError(
            f"{type(model).__name__} has no linear layer or convolution that LoRA can adapt. "
            "Leave `lora` out of the attacks, and --lora_rank out of the disposal."
        )
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets), model)
    for adapted in (model.get_submodule(target) for target in targets if not linear):
        for name in ("stride", "padding", "dilation", "kernel_size", "groups"):  # some models' code reads them
            setattr(adapted, name, getattr(adapted.base_layer, name))
    return targets


def adapted(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Modules of PEFT inside a model, with their names."""
    return [(name, module) for name, module in model.named_modules() if type(module).__module__.startswith("peft.")]


def merge_adapters(model: nn.Module) -> bool:
    """Add adapters to the weights that they adapt, and take them out; say whether there were any.

    A model that keeps them apart is saved by transformers as adapters alone, and whoever takes them off has the
    weights from before.
    """
    if not (tuned := adapted(model)):
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    for name, module in tuned:
        whole: Any = None
        if isinstance(module, BaseTunerLayer):
            module.merge()
            whole = module.get_base_layer()
        elif isinstance(module, ModulesToSaveWrapper):
            whole = module.modules_to_save[module.active_adapters[0]]
        if whole is not None:
            model.set_submodule(name, whole)
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module._hf_peft_config_loaded:
            module._hf_peft_config_loaded = False
            # Renamings that loading an adapter left there: saving would give the weights an adapter's names.
            vars(module).pop("_weight_conversions", None)
    model.requires_grad_(True)
    return True
