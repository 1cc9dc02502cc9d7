"""Errors of pure functions, told to the user as options to change."""

from collections.abc import Iterator
from contextlib import contextmanager

from hf_dtl.errors import ConfigError


@contextmanager
def refused(before: str = "", remedy: str = "") -> Iterator[None]:
    """Turn a `ValueError` into a `ConfigError` that says what to do.

    Args:
        before, remedy: put before and after its text.

    Raises:
        ConfigError: instead of a `ValueError`.
    """
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{before}{error}{remedy and f' {remedy}'}") from None
