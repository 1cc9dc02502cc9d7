"""Publishing: the leakage card, and what belongs to it."""

import lazy_loader

_PUBLIC = {"card": ["leakage_card"], "staging": ["add_evidence", "stage"], "weights": ["weights_sha256"]}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_PUBLIC)
