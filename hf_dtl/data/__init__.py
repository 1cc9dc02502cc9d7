"""Data: from a name and a choice of classes to splits without overlap, and from those to tensors."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
