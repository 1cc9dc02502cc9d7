"""The audit: attacks on published weights, and the report of what they found. Loads what is asked for, when it is."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
