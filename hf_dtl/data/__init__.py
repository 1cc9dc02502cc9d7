"""Data: from a name and a choice of classes to splits without overlap, and from those to tensors."""

import lazy_loader

_PUBLIC = {
    "forget_request": ["Division", "ForgetRequest"],
    "images": ["ImageTensors", "LazyImages", "load_images"],
    "loading": ["TaskData", "check_disjoint", "load_task"],
    "multitask": ["MultiTaskData", "load_multitask"],
    "multitask_images": ["MultiTaskImages", "load_multitask_images"],
    "processors": ["check_forward", "default_processor", "embedded_processor", "load_processor"],
    "selection": ["DatasetSpec"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_PUBLIC)
