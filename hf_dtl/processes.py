"""Work of several processes that none of them may leave alone."""

from collections.abc import Callable
from typing import TypeVar

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
    others = [told for told in gather_object([_portable(error)]) if told is not None]
    if error is not None:
        raise error
    if others:
        raise others[0]
    return result  # type: ignore[return-value]


def _portable(error: Exception | None) -> Exception | None:
    """The error where it is one of ours, else its text: another process may not be able to read it."""
    if error is None or isinstance(error, DTLError):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
