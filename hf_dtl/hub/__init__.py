"""Publishing: the leakage card, and what belongs to it."""

from hf_dtl.hub.card import leakage_card
from hf_dtl.hub.weights import weights_sha256

__all__ = ["leakage_card", "weights_sha256"]
