"""Passes over data that several processes share."""

from typing import NamedTuple

import torch.distributed
from torch import Tensor

from hf_dtl.functional.collision import Reduce


class Share(NamedTuple):
    """A process's share of a pass over data, at whose end all processes get the same."""

    process: int = 0
    """The number of this one."""
    processes: int = 1
    progress: bool = True
    """Whether the first process shows a bar."""

    @property
    def reduce(self) -> Reduce | None:
        """Sum of a tensor over all processes, in place; None for one process."""
        return _sum if self.processes > 1 else None

    def summed(self, tensor: Tensor) -> Tensor:
        """Sum of a tensor over all processes, in place."""
        return _sum(tensor) if self.processes > 1 else tensor

    @property
    def quiet(self) -> dict[str, bool]:
        """Arguments of a progress bar: none where the environment decides (TQDM_DISABLE)."""
        return {} if self.progress and not self.process else {"disable": True}


ALONE = Share()
"""One process that goes through everything."""


def _sum(tensor: Tensor) -> Tensor:
    torch.distributed.all_reduce(tensor)
    return tensor
