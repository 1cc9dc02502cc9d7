"""Errors a user can act on: each names the value that was wrong and the remedy."""

from collections.abc import Sequence


class DTLError(ValueError):
    """Base of every error that `hf_dtl` raises on purpose."""


class DataError(DTLError):
    """A data set, selection, split, column or image cannot be used as given."""


class ModelError(DTLError):
    """A model cannot be loaded, split into backbone and head, or fed with the images given."""


class ConfigError(DTLError):
    """An option, or a combination of options, is not supported."""


class OutputError(DTLError):
    """An output folder holds something that must not be overwritten."""


class DivergedError(DTLError):
    """Training produced a value that is not finite and was stopped before it could be saved."""


class PublishError(DTLError):
    """A model cannot be published: its folder would leak something, or the Hub refuses it."""


def listing(entries: Sequence[object], limit: int = 30) -> str:
    """Name entries in a message, the first few of many.

    Example:
        >>> listing(["a", "b", "c"], 2)
        'a, b and 1 more'
    """
    rest = f" and {len(entries) - limit} more" if len(entries) > limit else ""
    return ", ".join(map(str, entries[:limit])) + rest
