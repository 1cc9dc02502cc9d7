"""The command line: `hf-dtl forget | audit | verify | publish | metrics`, which the scripts call as well.

Nothing here imports torch before the options are read and checked.
"""

from hf_dtl.cli.terminal import console, run_script

__all__ = ["console", "run_script"]
