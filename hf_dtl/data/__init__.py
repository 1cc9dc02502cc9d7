"""Data: from a name and a choice of classes to splits without overlap, and from those to tensors."""

from hf_dtl.data.forget_request import Division, ForgetRequest
from hf_dtl.data.images import ImageTensors, LazyImages, load_images
from hf_dtl.data.loading import TaskData, check_disjoint, load_task
from hf_dtl.data.multitask import MultiTaskData, load_multitask
from hf_dtl.data.multitask_images import MultiTaskImages, load_multitask_images
from hf_dtl.data.processors import check_forward, default_processor, embedded_processor, load_processor
from hf_dtl.data.selection import DatasetSpec

__all__ = [
    "DatasetSpec",
    "Division",
    "ForgetRequest",
    "ImageTensors",
    "LazyImages",
    "MultiTaskData",
    "MultiTaskImages",
    "TaskData",
    "check_disjoint",
    "check_forward",
    "default_processor",
    "embedded_processor",
    "load_images",
    "load_multitask",
    "load_multitask_images",
    "load_processor",
    "load_task",
]
