"""Work shared among threads of one process, so that an error or an interruption ends all of them soon."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event, Lock
from typing import TypeVar

from hf_dtl.audit.attacks.stack import Stopped

Piece = TypeVar("Piece")


def share_out(
    pieces: Iterable[Piece], start: Callable[[], Callable[[Piece], None]], workers: int, stop: Event
) -> None:
    """Do every piece of work on some thread, in about the given order.

    Args:
        pieces: the work.
        start: called once on each thread; gives what does a piece there.
        workers: number of threads; with 1 the calling thread does everything.
        stop: set when a thread fails or the caller is interrupted; the work should look at it and raise `Stopped`.

    Raises:
        BaseException: the first error of a thread, after the others have stopped.
    """
    waiting, taking = iter(pieces), Lock()

    def loop() -> None:
        try:
            do = start()
            while not stop.is_set():
                with taking:
                    piece = next(waiting, None)
                if piece is None:
                    return
                do(piece)
        except Stopped:
            pass
        except BaseException:
            stop.set()
            raise

    if workers == 1:
        return loop()
    with ThreadPoolExecutor(workers, "attack") as threads:
        running = [threads.submit(loop) for _ in range(workers)]
        try:
            while wait(running, timeout=0.2).not_done:  # short, so that Ctrl-C reaches this thread
                pass
        except BaseException:
            stop.set()
            raise
    for done in running:
        done.result()
