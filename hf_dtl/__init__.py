"""Scrub a task out of a Hugging Face image classifier, and prove by attack how much of it is left.

    import hf_dtl
    result = hf_dtl.forget("user/classifier", forget="photos[cat,dog]", retain="photos[car,ship]", method="scrub")
    report = result.audit()

Every name is loaded when it is asked for: importing the package alone imports no torch. `hf_dtl.audit` is a package
and a function at once: `hf_dtl.audit("user/scrubbed", undisposed="user/original", forget=..., retain=...)`.
"""

import importlib
import sys
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_dtl.pipeline.audit import audit as audit
    from hf_dtl.pipeline.forget import forget as forget
    from hf_dtl.pipeline.verify import verify as verify

__version__ = "0.1.0"

_NAMES = {
    "audit": ("AttackConfig", "LeakageReport", "run_audit"),
    "data": ("MultiTaskImages", "load_images", "load_multitask", "load_multitask_images", "load_task"),
    "errors": ("ConfigError", "DTLError", "DataError", "DivergedError", "ModelError", "OutputError"),
    "models.heads": ("MultiHeadClassifier",),
    "pipeline.forget": ("forget",),
    "pipeline.verify": ("verify",),
    "trainers.config": ("UnlearningConfig",),
    "trainers.multitask_training": ("MultiTaskTrainer", "MultiTaskTrainingConfig", "measure_tasks", "with_task_heads"),
    "trainers.trainer": ("UnlearningTrainer",),
}
"""Public names by the module that has them; those of the methods are found in their files."""
_BESIDE_METHODS = ("AlreadyForgottenError", "full_task", "partial_task", "unlearn_in_sequence")


class _CallablePackage(ModuleType):
    """The package `hf_dtl.audit`, which can also be called."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """See `hf_dtl.pipeline.audit.audit`."""
        return importlib.import_module("hf_dtl.pipeline.audit").audit(*args, **options)


class _Root(ModuleType):
    """This package: makes `audit` callable when the import system puts it here, whoever imports it first."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "audit" and isinstance(value, ModuleType):
            value.__class__ = _CallablePackage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Root


@cache
def _places() -> dict[str, str]:
    """Public name → module that has it."""
    from hf_dtl.methods.registry import public_names

    places = {name: module for module, names in _NAMES.items() for name in names}
    for name, file in public_names().items():
        if name.endswith(("Config", "Trainer")) or name in _BESIDE_METHODS:
            places[name] = f"methods.{file}"
    return places


def __getattr__(name: str) -> Any:
    if name == "audit":
        return importlib.import_module("hf_dtl.audit")
    if name == "__all__":
        return __dir__()
    if name.startswith("_") or name not in _places():
        raise AttributeError(f"module 'hf_dtl' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"hf_dtl.{_places()[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*_places(), "audit"])
