"""Named, frozen sets of attacks; anything else is `custom` and never called otherwise."""

from dataclasses import asdict

from hf_dtl.audit.config import AttackConfig
from hf_dtl.fingerprint import fingerprint

_HOW = ("max_stack", "workers", "eval_batch_size")
"""Settings of the cost, which decide no number."""


def suite_of(config: AttackConfig) -> dict[str, str]:
    """Name of the suite that an attacker's settings are, and a hash of all of them that decide numbers.

    Example:
        >>> suite_of(AttackConfig())["name"]
        'custom'
    """
    return {"name": "custom", "hash": fingerprint([{k: v for k, v in asdict(config).items() if k not in _HOW}])}
