"""What the page takes from visitors: gradio offers far more addresses than a page needs, and bounds none of them."""

import asyncio
import inspect
import json
import logging
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from page.addresses import BEHIND, address_of

logger = logging.getLogger(__name__)
API = "/gradio_api/"
READ = re.compile(
    r"/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|pwa_icon(/\d+)?|(assets|static|svelte)/.*)?|"
    rf"{API}(info|openapi\.json|startup-events|user|login_check|app_id|token|queue/(data|status)|upload_progress|"
    r"call/(v2/)?\w+/\w+|file=.*|heartbeat/[\w-]+)/?"
)
ASKED = re.compile(rf"{API}(?:queue/join|call/(?:v2/)?(\w+))/?")
SENT = re.compile(rf"{API}(upload|cancel|reset)/?")
STREAMS = re.compile(rf"{API}(queue/data|heartbeat/|upload_progress|call/)")
MOST_BODY = 64_000
"""Bytes of a request that is no upload."""
MOST_UPLOAD, MOST_FILES, MOST_UPLOADS = 10_000_000, 5, 24
"""Bytes and files of one upload, and uploads at once."""
TOO_LARGE = f"An upload may have {MOST_FILES} files, {MOST_UPLOAD // 1_000_000} MB together."
ROOM, MOST_STORED, YOUNG = 200_000_000, 2_000, 30.0
"""Bytes and number of uploaded files that are kept, the newest ones; none goes in its first seconds."""
SLOWEST = 60.0
"""Seconds that a request may take to come in."""
MOST_UNREAD, MOST_ATTACKS, MOST_OWN_ATTACKS = 8, 8, 2
"""Events of a visitor that are not answered or not read; attacks that wait, of all visitors and of one."""
MOST_SILENT, SILENT = 100, 20.0
"""Visitors who do not listen to the answers: how many are kept, and for how many seconds."""
MOST_STREAMS = 400
MOST_EVENTS = 60
"""Events that wait or are not read, of all visitors: below what the queue of the page takes."""
OWN_EVENTS, OWN_ATTACKS, OWN_STREAMS, OWN_UPLOADS, OWN_BYTES = 24, 4, 60, 8, 20_000_000
"""Of one address, so that nobody fills the page alone: events, attacks that wait, open answers, uploads at once, and
bytes and (in hundred thousands) files that came in within `YOUNG` seconds."""
AGE = 1.0
"""Seconds in which a visitor begins to listen, and is not taken for one who does not."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self' huggingface.co *.hf.space"
)
OF_FILES = "default-src 'none'; sandbox"


class Refused(Exception):
    """A request that is not taken: the status, and what the visitor is told."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status, self.text = status, text


class Gate:
    """Lets in what the page and its clients need, within bounds, and nothing else.

    Args:
        app: the server behind.
        blocks: the page. Its queue tells what waits and what was not read.
        uploads: folder of uploaded files.
    """

    def __init__(self, app: ASGIApp, blocks: gr.Blocks, uploads: Path):
        self.app, self.blocks, self.uploads = app, blocks, uploads
        self._listeners: Counter[str] = Counter()
        self._streams: Counter[str] = Counter()
        self._heard: dict[str, float] = {}
        self._uploading: defaultdict[str, list[int]] = defaultdict(list)
        self._uploaded: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
        self._address: dict[str, str] = {}
        self._asking = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})
        began = False
        if not BEHIND:  # nobody stands before this server who could say it
            scope["headers"] = [pair for pair in scope["headers"] if not pair[0].startswith(b"x-forwarded-")]

        async def guarded(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
                headers["Content-Security-Policy"] = OF_FILES if f"{API}file=" in scope["path"] else POLICY
            await send(message)

        try:
            await self._let_in(scope, receive, guarded)
        except Exception as error:
            if not isinstance(error, (Refused, TimeoutError)):  # a visitor who leaves in the middle, an unknown answer
                cause = error.__cause__ or error
                said = f"{type(cause).__name__}: {cause}".splitlines()[0][:200]
                logger.warning("%s %.60r: %s", scope["method"], scope["path"], said)
            if began:
                return
            told = error if isinstance(error, Refused) else Refused(400, "The request could not be answered.")
            told = Refused(408, "The request took too long to come in.") if isinstance(error, TimeoutError) else told
            await JSONResponse({"detail": told.text, "error": told.text}, told.status)(scope, receive, guarded)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if (
            method in ("GET", "HEAD", "OPTIONS")
            and READ.fullmatch(path)
            and b"deep_link" not in unquote_to_bytes(scope["query_string"])
        ):
            if method == "GET" and STREAMS.match(path):
                return await self._stream(path, scope, receive, send)
            return await self.app(scope, receive, send)
        if method == "POST" and (asked := ASKED.fullmatch(path)):
            body, answer = await _whole(receive), list[Message]()

            async def keep(message: Message) -> None:
                answer.append(message)

            async with self._asking:  # the next one is counted after this one stands in the queue
                await self._check(body, asked[1], address_of(scope))
                pending = self.blocks._queue.pending_event_ids_session
                before = set(pending)
                await self.app(scope, _again(body, receive), keep)
                self._address |= dict.fromkeys(pending.keys() - before, address_of(scope))
                self._heard |= dict.fromkeys(pending.keys() - before, time.monotonic())
                self._take_turns()
            for message in answer:  # whoever does not read it holds up nobody
                await send(message)
            return
        if method == "POST" and SENT.fullmatch(path):
            if "upload" in path:
                return await self._upload(scope, receive, send)
            body = await _whole(receive)
            _read(body)
            return await self.app(scope, _again(body, receive), send)
        raise Refused(404, "There is nothing here.")

    # Events ---------------------------------------------------------------------------------------------------

    async def _check(self, body: bytes, name: str | None, address: str) -> None:
        """Refuse an event that the page does not have, or whose visitor, or all of them, wait for too many."""
        content = _read(body)
        index, session = content.get("fn_index"), content.get("session_hash")
        functions = self.blocks.fns.values()
        found = [f for f in functions if (f.api_name == name if name else f._id == index and type(index) is int)]
        if not found:
            raise Refused(404, "The page has no such event.")
        function = found[0]
        if session is not None and not (isinstance(session, str) and re.fullmatch(r"[\w-]{1,64}", session)):
            raise Refused(400, "The session is no short word.")
        inputs = [block for block in function.inputs if not (name and block.skip_api)]
        values = content.get("data")
        if values is None and name:  # of v2, by name
            names = list(inspect.signature(function.fn).parameters)[: len(function.inputs)]
            values = [content[name] for name in names if name in content]
        if not isinstance(values, list) or len(values) not in (len(inputs), len(function.inputs)):
            raise Refused(400, f"This event has {len(inputs)} inputs, and as many must be given.")
        for block, value in zip(inputs if len(values) == len(inputs) else function.inputs, values, strict=True):
            if isinstance(block, gr.Image) and not self._uploaded_here(value):
                raise Refused(400, "An image is a file that was uploaded here.")
            if not isinstance(block, gr.Image) and "gradio.FileData" in json.dumps(
                value
            ):  # gradio looks for files anywhere
                raise Refused(400, "This input takes no file.")
        await self._forget_silent()
        queue = self.blocks._queue
        if len(queue.pending_event_ids_session.get(session, ())) >= MOST_UNREAD:
            raise Refused(429, f"{MOST_UNREAD} of your requests are not answered or not read yet. Wait for them.")
        pending = queue.pending_event_ids_session
        await self._give_way({one: len(pending.get(one, ())) for one in pending}, address, OWN_EVENTS, MOST_EVENTS)
        if function.api_name == "relearn":
            waiting = queue.event_queue_per_concurrency_id.get(function.concurrency_id)
            sessions = [str(event.session_hash) for event in waiting.queue] if waiting else []
            if sessions.count(session) >= MOST_OWN_ATTACKS:
                raise Refused(429, f"{MOST_OWN_ATTACKS} attacks of yours wait already. Wait for them, or stop them.")
            await self._give_way(Counter(sessions), address, OWN_ATTACKS, MOST_ATTACKS)
        if session is not None:
            self._heard[session] = time.monotonic()
        self._address = {one: where for one, where in self._address.items() if one in pending}

    def _take_turns(self) -> None:
        """Put those who wait in such an order that no session, and then no address, is served twice before another."""
        queue = self.blocks._queue
        running = [event for job in queue.active_jobs if job for event in job]
        for waiting in queue.event_queue_per_concurrency_id.values():
            for whose in (lambda e: str(e.session_hash), lambda e: self._address.get(e.session_hash, "")):
                served = Counter(whose(e) for e in running if e.concurrency_id == waiting.concurrency_id)
                turns = {}
                for event in waiting.queue:
                    turns[event] = served[whose(event)]
                    served[whose(event)] += 1
                waiting.queue.sort(key=turns.__getitem__)

    async def _give_way(self, waiting: dict[str, int], address: str, own: int, most: int) -> None:
        """Make room for one more event: the oldest ones that nobody listens to go, first of the same address, then of
        the one that has the most.

        Args:
            waiting: number of events by session.
            address: of who asks.
            own, most: events that one address, and all together, may have.
        """
        now = time.monotonic()
        silent = [one for one in waiting if not self._listeners[one] and now - self._heard.get(one, now) > AGE]
        silent.sort(key=lambda one: self._heard.get(one, now))
        while True:
            of = Counter[str]()
            for one, count in waiting.items():
                of[self._address.get(one, one)] += count
            full = sum(waiting.values()) >= most
            greedy = address if of[address] >= own else max(of, key=of.__getitem__) if full else None
            if greedy is None:
                return
            victim = next((one for one in silent if one in waiting and self._address.get(one, one) == greedy), None)
            if victim is None and greedy == address:
                raise Refused(429, f"{of[address]} requests from your address wait already. Wait for them.")
            if victim is None:
                raise Refused(503, f"{sum(waiting.values())} requests wait already. Try again in a minute.")
            await self._forget(victim)
            del waiting[victim]

    async def _forget_silent(self) -> None:
        """Drop the events and answers of visitors who do not listen."""
        queue, now = self.blocks._queue, time.monotonic()
        silent = [name for name in queue.pending_messages_per_session if not self._listeners[name]]
        self._heard = {name: self._heard.get(name, now) for name in silent}
        oldest = sorted(silent, key=self._heard.__getitem__)
        late = {name for name in silent if now - self._heard[name] > SILENT}
        for name in late | set(oldest[: max(0, len(silent) - MOST_SILENT)]):
            await self._forget(name)

    async def _forget(self, session: str) -> None:
        """Drop a visitor's events and answers."""
        queue = self.blocks._queue
        await queue.clean_events(session_hash=session)
        queue.pending_messages_per_session.pop(session, None)
        queue.pending_event_ids_session.pop(session, None)
        self._heard.pop(session, None)

    async def _stream(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """An answer that stays open; whoever has one of the queue listens."""
        beats = sum(count for name, count in self._listeners.items() if name.startswith(f"{API}heartbeat/"))
        most = MOST_STREAMS // 2 if path.startswith(f"{API}heartbeat/") else MOST_STREAMS
        if self._listeners.total() >= MOST_STREAMS or beats >= most:  # who only beats takes no answer from others
            raise Refused(503, "Too many visitors at the moment. Try again in a minute.")
        address = address_of(scope)
        if self._streams[address] >= OWN_STREAMS:
            raise Refused(429, f"{OWN_STREAMS} answers go to your address already. Close some of its pages.")
        name = path  # of what is no answer
        if "/queue/data" in path:
            found = re.search(r"session_hash=([\w-]+)", scope["query_string"].decode("latin-1"))
            name = found[1] if found else path
        elif "/call/" in path:
            event = path.rstrip("/").rpartition("/")[2]
            pending = self.blocks._queue.pending_event_ids_session.items()
            name = next((session for session, events in pending if event in events), event)
        self._listeners[name] += 1
        self._streams[address] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._listeners[name] -= 1
            self._streams[address] -= 1
            self._listeners += Counter()  # what is at zero goes
            self._streams += Counter()
            self._heard[name] = time.monotonic()

    # Uploads --------------------------------------------------------------------------------------------------

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        address, now = address_of(scope), time.monotonic()
        young = [(when, cost) for when, cost in self._uploaded.pop(address, ()) if now - when < YOUNG]
        if young:
            self._uploaded[address] = young
        said = dict(scope["headers"]).get(b"content-length", b"")
        most = int(said) if said.isdigit() else MOST_UPLOAD  # who says nothing may send as much as any
        if most > MOST_UPLOAD:
            raise Refused(413, TOO_LARGE)
        begun = self._uploading.get(address, [])
        if len(begun) >= OWN_UPLOADS or sum(cost for _, cost in young) + sum(begun) > OWN_BYTES:
            raise Refused(429, "Too many uploads from your address. Try again in a minute.")
        if sum(map(len, self._uploading.values())) >= MOST_UPLOADS:
            raise Refused(503, "Too many uploads at the moment. Try again in a minute.")
        self._uploading[address].append(most)  # before anything is awaited: many may come at once
        size, files, end, until = 0, 0, b"", time.monotonic() + SLOWEST

        async def bounded() -> Message:
            nonlocal size, files, end
            message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
            part = message.get("body", b"")
            size, seen = size + len(part), end + part
            files, end = files + seen.count(b"filename"), seen[-7:]
            if size > most or files > 2 * MOST_FILES:  # `filename*` may stand beside `filename`
                raise Refused(413, TOO_LARGE)
            return message

        try:
            if not await asyncio.to_thread(self._make_room):
                raise Refused(503, "There is no room for uploads at the moment. Try again in a minute.")
            await self.app(scope, bounded, send)
        finally:
            self._uploading[address].remove(most)
            if not self._uploading[address]:
                del self._uploading[address]
            self._uploaded[address].append((now, size + 100_000 * files))

    def _uploaded_here(self, value: Any) -> bool:
        """Whether an input is nothing, or a path of an upload; gradio would fetch an address."""
        if not isinstance(value, dict):
            return value is None
        path = value.get("path")
        if not isinstance(path, str) or "://" in path or "\0" in path or value.get("is_stream"):
            return False
        return Path(path).resolve().is_relative_to(self.uploads.resolve())

    def _make_room(self) -> bool:
        """Remove the oldest uploads where there are too many; whether that was enough."""
        found = []
        for path in self.uploads.rglob("*"):
            try:
                state = path.stat()
            except FileNotFoundError:
                continue
            if path.is_file():
                found.append((state.st_mtime, state.st_size, path))
        total, count, now = sum(size for _, size, _ in found), len(found), time.time()
        for changed, size, path in sorted(found):
            if (total <= ROOM and count <= MOST_STORED) or now - changed < YOUNG:
                break
            path.unlink(missing_ok=True)
            total, count = total - size, count - 1
        return total <= ROOM and count <= MOST_STORED


async def _whole(receive: Receive) -> bytes:
    """The body of a request, within bounds of size and time."""
    body = b""
    async with asyncio.timeout(SLOWEST):
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > MOST_BODY:
                raise Refused(413, f"A request may have up to {MOST_BODY:,} bytes.")
            if not message.get("more_body"):
                return body


def _again(body: bytes, receive: Receive) -> Receive:
    """The body once more, and then what comes."""
    messages: Iterable[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replayed() -> Message:
        for message in messages:
            return message
        return await receive()

    return replayed


def _read(body: bytes) -> dict[str, Any]:
    """The JSON object of a request; NaN and Infinity are none of its values."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        content = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise Refused(400, "The request is no JSON object.")
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Refused(400, "The text holds half of a character (a lone surrogate). Write it again.") from error
    return content
