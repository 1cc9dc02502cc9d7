"""Publish a scrubbed model on the Hub, with its leakage card, report and plots.

    python scripts/publish.py outputs/demo user/scrubbed-digits --dry_run
    python scripts/publish.py outputs/demo user/scrubbed-digits
    python scripts/publish.py outputs/demo user/scrubbed-digits --private false --revision v2

It is `hf-dtl publish`.
"""

import sys

from hf_dtl.cli import publish

if __name__ == "__main__":
    publish.start(sys.argv[1:], prog="publish.py")
