"""Publishing: the leakage card, and what belongs to it."""

from hf_dtl.hub.card import leakage_card

__all__ = ["leakage_card"]
