"""One file a method: a config and a thin trainer. Public names of these files resolve here when they are asked for."""

from collections import defaultdict

import lazy_loader

from hf_dtl.methods.registry import find_method, method_names, public_names, register_method

_by_file = defaultdict(list)
for _name, _file in public_names().items():
    _by_file[_file].append(_name)

__getattr__, __dir__, _lazy = lazy_loader.attach(__name__, submod_attrs=_by_file)
__all__ = [*_lazy, "find_method", "method_names", "register_method"]  # noqa: PLE0604
