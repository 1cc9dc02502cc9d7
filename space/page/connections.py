"""Connections to the page: few from one address, and none that says nothing for long."""

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

import uvicorn.config
from uvicorn.protocols.http.h11_impl import H11Protocol

from page.addresses import BEHIND
from page.gate import MOST_STREAMS, OWN_STREAMS

OWN_CONNECTIONS, MOST_CONNECTIONS = 2 * OWN_STREAMS, 2 * MOST_STREAMS
"""Of one address (behind a proxy, whose they all are, of none), and of all."""
SILENT = 10.0
"""Seconds in which a request must have begun, its head whole, since the connection or the answer before."""


class Connection(H11Protocol):
    """A connection that is counted, and closed where it waits without a request."""

    open: Counter[str] = Counter()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.address = str((transport.get_extra_info("peername") or ("",))[0])
        self.seen: object = None
        self.timer: asyncio.TimerHandle | None = None
        own = not BEHIND and self.open[self.address] >= OWN_CONNECTIONS
        self.counted = not own and self.open.total() < MOST_CONNECTIONS
        if not self.counted:  # a crowd that is sent away takes no room from those who come with it
            return transport.abort()
        self.open[self.address] += 1
        self.timer = asyncio.get_running_loop().call_later(SILENT, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open[self.address] -= self.counted
        self.open += Counter()  # what is at zero goes
        if self.timer is not None:
            self.timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Close it where no request came since the last time, and none is being answered."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.seen is self.cycle:
            return self.transport.abort()
        self.seen = self.cycle
        self.timer = asyncio.get_running_loop().call_later(SILENT, self._look)


def bound_connections() -> None:
    """Let the server that gradio starts count its connections, with as many open files as it may have."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{Connection.__name__}"  # type: ignore[index]
    with suppress(ImportError, ValueError, OSError):  # there is no such limit, or it stays
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
