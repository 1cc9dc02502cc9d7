"""One folder for the temporary files of a process, removed also after a process that was killed."""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

PREFIX = "hf_dtl_page_"


def take_folder() -> Path:
    """Make the folder that all temporary files of this process go to, and remove those whose process is gone.

    A process that lives holds the lock of its folder; the system lets it go however the process ends.

    Returns:
        Where gradio is to put uploads, a folder in it; it must be told before the page is made.
    """
    base = Path(tempfile.gettempdir())
    for left in base.glob(f"{PREFIX}*/"):
        try:
            with FileLock(f"{left}.lock", timeout=0):
                shutil.rmtree(left, ignore_errors=True)
            Path(f"{left}.lock").unlink(missing_ok=True)
        except (Timeout, OSError):  # another page that runs here, or another user's
            continue
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = FileLock(f"{folder}.lock")
    lock.acquire()
    atexit.register(_end, folder, lock)

    def ended(number: int, frame: FrameType | None) -> None:
        _end(folder, lock)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, ended)  # which a host sends, and which ends a process without its last functions
    tempfile.tempdir = str(folder)
    uploads = folder / "uploads"
    uploads.mkdir()
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    return uploads


def _end(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)
