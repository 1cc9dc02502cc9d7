"""The names of the package, and `hf_dtl.audit`, which is a package and a function, whatever was imported first."""

import pytest
from cli.commands import python

import hf_dtl
from hf_dtl.methods.registry import find_method, method_names

STUBS = """
import sys, types
sys.modules["hf_dtl.pipeline.audit"] = types.SimpleNamespace(audit=lambda *words, **options: (words, options))
sys.modules["hf_dtl.audit.report"] = types.SimpleNamespace(LeakageReport=type("LeakageReport", (), {}))
"""  # torch, which they load, takes seconds
ORDERS = {
    "attribute": "import hf_dtl\naudit = hf_dtl.audit",
    "from the root": "from hf_dtl import audit",
    "submodule": "import hf_dtl.audit as audit",
    "name of the submodule": "from hf_dtl.audit import LeakageReport\nimport hf_dtl\naudit = hf_dtl.audit",
    "deeper": "import hf_dtl.audit.attacks.registry\nfrom hf_dtl import audit",
    "through another room": "import hf_dtl.cli.main\nimport hf_dtl.cli.audit\nimport hf_dtl\naudit = hf_dtl.audit",
    "public name first": "from hf_dtl import LeakageReport\nfrom hf_dtl import audit",
    "import_module": "from importlib import import_module\naudit = import_module('hf_dtl.audit')",
}
CHECK = """
from hf_dtl.audit import LeakageReport
import hf_dtl.audit as package
import hf_dtl
assert audit is package is hf_dtl.audit
assert audit.LeakageReport is LeakageReport is hf_dtl.LeakageReport
assert audit("x", undisposed="y") == (("x",), {"undisposed": "y"})
"""


@pytest.mark.parametrize("order", ORDERS)
def test_audit_is_called_whatever_was_imported_first(order):
    ended = python(f"{STUBS}\n{ORDERS[order]}\n{CHECK}")
    assert ended.status == 0, ended.err


def test_every_method_has_its_trainer_and_config_at_the_root():
    for name in method_names():
        trainer = find_method(name)
        assert getattr(hf_dtl, trainer.__name__) is trainer
        assert getattr(hf_dtl, trainer.config_class.__name__) is trainer.config_class


def test_every_listed_name_is_there():
    assert {"audit", "forget", "verify", "ProjectedGradientTrainer", "run_audit", "load_task"} <= set(dir(hf_dtl))
    assert hf_dtl.__all__ == dir(hf_dtl) and all(getattr(hf_dtl, name) is not None for name in dir(hf_dtl))


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="hf_dtl.*ScrubTrianer"):
        hf_dtl.ScrubTrianer  # noqa: B018
