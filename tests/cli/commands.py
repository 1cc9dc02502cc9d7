"""Commands as a user starts them: in this process, or in one of their own whose processor time is told."""

import os
import subprocess
import sys
from typing import NamedTuple

from hf_dtl.cli.main import main

TRACED = """
import sys
from hf_dtl.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print("loaded:", *(name for name in ("torch", "transformers", "datasets") if name in sys.modules))
"""


class Ended(NamedTuple):
    status: int
    out: str
    err: str
    seconds: float


def ended(capsys, *words):
    """Status and output of a command in this process."""
    try:
        main([str(word) for word in words])
        status = 0
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr()
    if isinstance(status, str):  # what a process prints at its end
        return 1, said.out, f"{said.err}{status}\n"
    return status, said.out, said.err


def python(code, *words):
    """A program in a process of its own, with the seconds that it computed."""
    command = [sys.executable, "-c", code, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.stdout.read(), process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close(), process.stderr.close()
    return Ended(process.returncode, out, err, used.ru_utime + used.ru_stime)
