"""Network-free tests in a home of their own; set before anything imports the Hub client."""

import gc
import os
import signal
import tempfile
from pathlib import Path

import pytest

# A shell that starts the tests in the background has Ctrl-C ignored, and every process would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

_HOME = tempfile.mkdtemp(prefix="hf_dtl_tests_")
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HOME": _HOME,
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
    "GRADIO_ANALYTICS_ENABLED": "False",
}

ROOT = Path(__file__).resolve().parents[1]
QUICK = (
    "tests/functional",
    "tests/methods",
    "tests/trainers",
    "tests/models",
    "tests/data",
    "tests/audit",
    "tests/test_",
)
"""Where the tests of `make quick` are."""
NOT_QUICK = (
    "tests/audit/test_plots",
    "tests/audit/test_run",
    "tests/audit/test_stack",
    "tests/audit/test_verdicts",
    "tests/methods/test_collages",
    "tests/methods/test_continual",
    "tests/methods/test_feature_eraser",
)
"""But for these, which take long."""
LONG = ("tests/scripts", "tests/pipeline", "tests/trainers/test_distributed", "tests/space", "tests/hub/test_publish")
"""Begun first: what is begun last keeps the other worker waiting."""


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="the tests of `make quick` alone")


def _is_quick(path):
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else ""
    return name.startswith(QUICK) and not name.startswith(NOT_QUICK)


def pytest_ignore_collect(collection_path, config):
    """Rooms that are not quick are not even imported."""
    if config.option.quick and collection_path.suffix == ".py" and not _is_quick(collection_path):
        return True


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(config, items):
    """Files go to the workers whole, and those of the page together: its server is started once."""
    for item in items:
        file = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group("space" if file.startswith("tests/space") else file))
    if config.option.quick:
        left_out = [item for item in items if any(map(item.get_closest_marker, ("slow", "distributed", "browser")))]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


@pytest.fixture(scope="module")
def short_attacks():
    """Attacks of few steps, and few pictures, here and in programs that are started, where neither is the point."""
    import launching

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launching, "SHORT", True)
        launching.shorten(patch.setattr)
        yield


@pytest.fixture(scope="module")
def small_batches():
    """Networks that a suite trains see few images a step, where what they reach is not the point."""
    from hf_dtl.audit.attacks import fresh_network

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fresh_network, "BATCH", 4)
        yield


@pytest.fixture(scope="module")
def small_suite():
    """Of `quick-1` the quickest attacks, where which ones it has is not the point."""
    from dataclasses import replace

    from hf_dtl.audit.suites import LARGE, SMALL, SUITES

    quick = SUITES["quick-1"]
    with pytest.MonkeyPatch.context() as patch:
        small = replace(quick, attacks=("ridge", "class_means", "ridge_affine_8", "committee"))
        hashes = tuple(small.config(size).hash() for size in (SMALL, LARGE))
        patch.setitem(SUITES, "quick-1", replace(small, hashes=hashes))
        yield


@pytest.fixture(scope="module")
def few_pictures():
    """Reports of a kind are drawn once."""
    from drawing import draw_once

    with pytest.MonkeyPatch.context() as patch:
        draw_once(patch.setattr, alike=True)
        yield


def pytest_collection_finish(session):
    """What was imported stays: without it the collections that every training asks for take half of the time."""
    gc.collect()
    gc.freeze()
