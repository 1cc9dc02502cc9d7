"""Trials side by side in processes of their own, with one line of progress each."""

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState

from hf_dtl.errors import DTLError
from hf_dtl.pipeline.stages import Run

if TYPE_CHECKING:
    from study.engine import Trial

LOADING = 60
"""Seconds to wait while another process takes the folder of the same run."""


def run_trials(
    trials: Sequence["Trial"], workers: int, log: Callable[[str], None], until: float = math.inf
) -> list["Trial"]:
    """Do every trial that is not finished, each after those that it needs.

    Args:
        trials: in the order wanted, what is needed first; those of one seed best follow each other.
        workers: processes; with 1 this process does everything.
        log: called with one line after every trial.
        until: time (`time.monotonic`) after which none is begun.

    Returns:
        Those that are left.

    Raises:
        DTLError: of a trial, or a process was killed. What was finished stays, and no process is left behind.
    """
    left = [trial for trial in trials if not trial.finished]
    if len(left) < len(trials):
        log(f"{len(trials) - len(left)} of {len(trials)} were finished before.")
    progress = _Progress(len(left), min(workers, max(1, len(left))), log)
    with _interruptible() as check:
        if workers == 1:
            for trial in left:
                if time.monotonic() > until:
                    break
                progress.finished(trial, _do(trial))
                check()
        elif left:
            _side_by_side(left, min(workers, len(left)), progress, check, until)
        check()
    return [trial for trial in left if not trial.finished]


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Ctrl-C raises KeyboardInterrupt; Python loses that in a finaliser or callback, and what this gives raises it."""
    asked: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield check
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _side_by_side(
    trials: Sequence["Trial"], workers: int, progress: "_Progress", check: Callable[[], None], until: float
) -> None:
    context, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    for options in {trial.options.output_dir: trial.options for trial in trials}.values():
        Run(options.output_dir, options.settings(), PartialState(cpu=True)).share()  # no two make it at once
    pool = ProcessPoolExecutor(workers, context, _start_worker)
    try:
        # No more than the workers take at once, so that an error stops the study soon.
        waiting, running = list(trials), dict[Future, "Trial"]()
        while True:
            while len(running) < workers and time.monotonic() <= until:
                trial = next((one for one in waiting if all(other.finished for other in one.needs)), None)
                if trial is None:
                    break
                waiting.remove(trial)
                running[pool.submit(_do, trial)] = trial
            if not running:
                break
            for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                progress.finished(running.pop(future), future.result())
            check()
    except BrokenProcessPool:
        raise DTLError(
            "A process of the study was killed, perhaps for want of memory. Start the same command again to "
            "continue; use fewer --workers."
        ) from None
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Prepare a process: one thread, no answer to Ctrl-C (its parent ends it), and no life without its parent."""
    Run.patience = LOADING
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on writing to folders that the next run continues."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(trial: "Trial") -> float:
    """Do a trial; the seconds it took."""
    start = time.perf_counter()
    job = trial.load()
    trial.do(job)
    return time.perf_counter() - start


class _Progress:
    """One line a trial, with the time that is about left."""

    def __init__(self, total: int, workers: int, log: Callable[[str], None]):
        self.total, self.workers, self.log = total, workers, log
        self.seconds: list[float] = []

    def finished(self, trial: "Trial", seconds: float) -> None:
        self.seconds.append(seconds)
        left = (self.total - len(self.seconds)) * sum(self.seconds) / len(self.seconds) / self.workers
        after = f", about {_duration(left)} left in this part" if len(self.seconds) < self.total else ""
        self.log(f"[{len(self.seconds)}/{self.total}] {trial.title} ({_duration(seconds)}{after})")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
