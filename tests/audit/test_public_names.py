import types

import hf_dtl.audit
import hf_dtl.audit.run  # loads most of the modules, none of which may hide a public name


def test_every_public_name_resolves_and_to_no_module():
    assert {"LeakageReport", "leakage", "accuracy", "u_lira", "run_audit"} < set(hf_dtl.audit.__all__)
    for name in hf_dtl.audit.__all__:
        assert not isinstance(getattr(hf_dtl.audit, name), types.ModuleType), name
        assert name in dir(hf_dtl.audit)
