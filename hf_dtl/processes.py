"""Work of several processes that none of them may leave alone, and the processor cores they use."""

import os
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate.utils import gather_object

from hf_dtl.errors import DTLError

Result = TypeVar("Result")


def together(work: Callable[[], Result]) -> Result:
    """Do `work` on every process; an error on one of them is raised on all, so that none waits for it forever.

    Args:
        work: must not wait for other processes itself.

    Returns:
        What `work` gives on this process.

    Raises:
        Exception: this process's own error, else the first one of another process.
    """
    try:
        result, error = work(), None
    except Exception as caught:
        result, error = None, caught
    others = [told for told in gather_object([portable(error)]) if told is not None]
    if error is not None:
        raise error
    if others:
        raise others[0]
    return result  # type: ignore[return-value]


def portable(error: Exception | None) -> Exception | None:
    """The error where it is one of ours, else its text: another process may not be able to read it."""
    if error is None or isinstance(error, DTLError):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def one_core_each(device: torch.device, processes: int) -> int:
    """Let every operation use one core, for networks so small that they gain nothing from more of them.

    They lose a lot from threads where other work shares the cores; several networks side by side do gain. Nothing is
    changed on a GPU, or where OMP_NUM_THREADS says what the user wants.

    Args:
        device: where the networks are.
        processes: number of processes that share the cores.

    Returns:
        The number of networks to train side by side: this process's share of the cores, at most 8.
    """
    if device.type != "cpu" or "OMP_NUM_THREADS" in os.environ:
        return 1
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // processes))
