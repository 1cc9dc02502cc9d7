"""Cells side by side in processes of their own, with one line of progress each."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from hf_dtl.errors import DTLError

if TYPE_CHECKING:
    from study.engine import Cell


_loading: Any = nullcontext()
"""Held while a job is loaded: several processes must not write the record of one run at once."""


def run_cells(cells: Sequence["Cell"], workers: int, told: Callable[[str], None]) -> None:
    """Do every cell that is not finished; they must not depend on each other.

    Args:
        cells: in the order wanted; those of one seed best follow each other.
        workers: processes; with 1 this process does everything.
        told: called with one line after every cell.

    Raises:
        DTLError: of a cell, or a process was killed. What was finished stays, and no process is left behind.
    """
    left = [cell for cell in cells if not cell.finished]
    if len(left) < len(cells):
        told(f"{len(cells) - len(left)} of {len(cells)} were finished before.")
    progress = _Progress(len(left), min(workers, max(1, len(left))), told)
    with _interruptible() as check:
        if workers == 1:
            for cell in left:
                progress.finished(cell, _do(cell))
                check()
        elif left:
            _side_by_side(left, min(workers, len(left)), progress, check)
        check()


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


def _side_by_side(cells: Sequence["Cell"], workers: int, progress: "_Progress", check: Callable[[], None]) -> None:
    context, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context, _start_worker, (context.Lock(),))
    try:
        # No more than the workers take at once, so that an error stops the study soon.
        waiting, running = iter(cells), dict[Future, "Cell"]()
        while True:
            while len(running) < workers and (cell := next(waiting, None)) is not None:
                running[pool.submit(_do, cell)] = cell
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


def _start_worker(loading: Any) -> None:
    """Prepare a process: one thread, no answer to Ctrl-C (its parent ends it), and no life without its parent."""
    global _loading
    _loading = loading
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


def _do(cell: "Cell") -> float:
    """Do a cell; the seconds it took."""
    start = time.perf_counter()
    with _loading:
        job = cell.load()
    cell.do(job)
    return time.perf_counter() - start


class _Progress:
    """One line a cell, with the time that is about left."""

    def __init__(self, total: int, workers: int, told: Callable[[str], None]):
        self.total, self.workers, self.told = total, workers, told
        self.seconds: list[float] = []

    def finished(self, cell: "Cell", seconds: float) -> None:
        self.seconds.append(seconds)
        left = (self.total - len(self.seconds)) * sum(self.seconds) / len(self.seconds) / self.workers
        after = f", about {_duration(left)} left in this part" if len(self.seconds) < self.total else ""
        self.told(f"[{len(self.seconds)}/{self.total}] {cell.title} ({_duration(seconds)}{after})")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
