"""What a stage costs: processor and wall-clock seconds, and the memory that it takes beyond what was there."""

import json
import time
from pathlib import Path

import torch

COST = "cost.json"
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Cost:
    """The cost of what this process does from now on until `save`.

    Args:
        path: of the file to write.
        device: whose memory counts: a GPU's own; for the CPU that of the process, where the system (Linux) tells it.
    """

    def __init__(self, path: Path, device: torch.device):
        self.path, self.cuda = path, device.type == "cuda"
        self.before = self._reset()
        self.start = {"cpu": time.process_time(), "wall": time.perf_counter()}

    def save(self) -> None:
        """Write `cpu` and `wall` (seconds), and `peak_mib`, the highest memory since the start less that at the start.

        The last is left out where it cannot be known.
        """
        now = {"cpu": time.process_time(), "wall": time.perf_counter()}
        found = {name: now[name] - start for name, start in self.start.items()}
        peak = self._peak()
        if peak is not None and self.before is not None:
            found["peak_mib"] = max(peak - self.before, 0) / 2**20
        self.path.write_text(json.dumps(found))

    def _reset(self) -> int | None:
        """Start a new maximum; bytes in use now."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        try:
            _CLEAR.write_text("5")
        except OSError:
            return None
        return _process("VmRSS")

    def _peak(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self.cuda else _process("VmHWM")


def _process(name: str) -> int | None:
    """A line of the process's status, in bytes."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith(f"{name}:")]
    return int(found[0][1]) * 1024 if found else None


def read_cost(folder: Path) -> dict[str, float] | None:
    """The cost of the finished stage in a folder, None where it is not known."""
    path = folder / COST
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
