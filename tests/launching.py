"""Programs in processes of their own, forked from one that has imported the library: a start takes no seconds."""

import gc
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
from multiprocessing.connection import wait
from pathlib import Path
from subprocess import TimeoutExpired

ACCELERATE = ("-m", "accelerate.commands.launch")
TWO = (
    "--multi_gpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
)
"""Options of it, given after it, so that it asks for no configuration."""

FEW = {"linear_probe_steps": 20, "full_min_steps": 8, "full_passes": 1}
SHORT = False
"""Whether attacks take these few steps, here and in programs: set by the fixture `short_attacks`."""

PATIENCE = 300
"""Seconds after which a program is taken to hang, and killed."""
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    [
        "datasets",
        "matplotlib.pyplot",
        "hf_dtl.cli.forget",
        "hf_dtl.cli.audit",
        "hf_dtl.methods.gradient_collision",
        "hf_dtl.pipeline.forget",
        "hf_dtl.pipeline.verify",
        "hf_dtl.pipeline.part_job",
        "hf_dtl.pipeline.some_tasks_job",
        "hf_dtl.pipeline.whole_task_job",
        "transformers.models.resnet.modeling_resnet",
        "transformers.models.vit.modeling_vit",
    ]
)


def shorten(patch=setattr):
    """Let attacks that no suite fixes take few steps, and reports of a kind be drawn once."""
    from drawing import draw_once

    from hf_dtl.audit.config import AttackConfig

    draw_once(patch, alike=True)

    usual = AttackConfig.for_model
    patch(AttackConfig, "for_model", staticmethod(lambda size, **given: usual(size, **FEW | given)))


def _program(words, environment, session, short, out, err):
    """What the process does: the file of the first word, as `python WORDS` would."""
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    if session:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.freeze()
    os.environ |= environment
    sys.argv = list(words)
    if short:
        shorten()
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


class Program:
    """`python WORDS` that runs, with what the tests need of `subprocess.Popen`."""

    def __init__(self, *words, session=False, **environment):
        self._folder = tempfile.TemporaryDirectory(prefix="hf_dtl_program_")
        self._files = [Path(self._folder.name, name) for name in ("out", "err")]
        words = [str(word) for word in words]
        self._process = _PROCESSES.Process(target=_program, args=(words, environment, session, SHORT, *self._files))
        self._process.start()
        self.pid, self.ends, self.kill = self._process.pid, self._process.sentinel, self._process.kill

    def poll(self):
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def communicate(self, timeout=PATIENCE):
        """What it printed, and what it said of errors, once it has ended."""
        self._process.join(timeout)
        if self.poll() is None:
            if timeout == PATIENCE:
                self.kill()
            raise TimeoutExpired("the program", timeout)
        return tuple(file.read_text() if file.exists() else "" for file in self._files)


def run(*words, **environment):
    """Exit status, output and errors of `python WORDS`."""
    program = Program(*words, **environment)
    out, err = program.communicate()
    return program.poll(), out, err


def run_on_two(*words):
    """The same of two processes that know of each other, as a launcher starts them; where one fails, both end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    programs = [Program(*words, RANK=str(rank), LOCAL_RANK=str(rank), **world) for rank in (0, 1)]
    while any(program.poll() is None for program in programs):
        wait([program.ends for program in programs if program.poll() is None], timeout=PATIENCE)
        if any(program.poll() for program in programs):
            for program in programs:
                program.kill()
    said = [program.communicate() for program in programs]
    statuses = [program.poll() for program in programs]
    return max(statuses, key=abs), *("".join(texts) for texts in zip(*said, strict=True))
