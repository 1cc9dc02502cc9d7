"""Network-free tests in a home of their own; set before anything imports the Hub client."""

import gc
import os
import signal
import tempfile

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


def pytest_collection_finish(session):
    """What was imported stays: without it the collections that every training asks for take half of the time."""
    gc.collect()
    gc.freeze()
