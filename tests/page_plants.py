"""What a hostile visitor of the page sends: addresses that no page needs, broken requests, floods."""

import json
import socket
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from threading import Event

ATTACK = ["example", "", "scrubbed", "ridge_affine_8", 20]
ELSEWHERE = (
    "POST run/relearn", "POST run/predict", "POST api/relearn", "POST component_server", "POST process_recording",
    "POST vibe-edit", "POST vibe-code", "POST undo-vibe-edit", "POST stream/x", "POST launch-local", "GET runs",
    "GET proxy=http://127.0.0.1:1/", "GET deep_link?session_hash=x", "GET dev/reload", "GET file/etc/passwd",
    "GET stream/a/b/1/playlist.m3u8", "GET custom_component/1/server/x/y", "POST queue/data", "PUT upload",
    "GET profiling/traces", "POST mcp/http",
)  # fmt: skip
BAD = (
    b"", b"{", b"[]", b"null", b"[" * 60_000, b'{"data": [' + b"[" * 30_000, b'{"data": 5}', b'{"data": []}',
    b'{"data": ["example"]}', b'{"data": ["example", "", "scrubbed", "ridge", NaN, 0]}', b"\xff\xfe", b" " * 70_000,
    b'{"data": ["example", "", "scrubbed", "ridge", 5, 0], "session_hash": "../x"}',
    b'{"data": ["example", "", "scrubbed", "ridge", 5, 0], "session_hash": 5}',
)  # fmt: skip


def join(web, function, data, session, **more):
    body = {"data": data, "fn_index": function, "session_hash": session, "trigger_id": 1, **more}
    return web.post("gradio_api/queue/join", json=body)


def events(name, data):
    """Events without end, of which no answer is read."""

    @contextmanager
    def flood(web, functions):
        ended = Event()

        def ask(_):
            while not ended.is_set():
                join(web, functions[name], data, uuid.uuid4().hex)
                time.sleep(0.02)  # a hundred or two in a second are many, and leave the tests' own core some time

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask, i) for i in range(4)]
            time.sleep(1)
            try:
                yield
            finally:
                ended.set()
        assert not any(one.exception() for one in asking)

    return flood


@contextmanager
def connections(web, functions):
    with ExitStack() as held:
        for i in range(900):
            one = socket.create_connection((web.base_url.host, web.base_url.port), 10, ("127.0.0.3", 0))
            with suppress(OSError):  # one more than an address may have is closed
                held.enter_context(one).sendall(
                    f"GET /gradio_api/heartbeat/held{i} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
                )
        yield


@contextmanager
def silent(web, functions):
    """Connections on which nothing is asked: most are closed at once, the others soon."""

    def closed(one):
        one.setblocking(False)
        try:
            return one.recv(1) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    with ExitStack() as held:
        address = (web.base_url.host, web.base_url.port)
        ones = [held.enter_context(socket.create_connection(address, 10, ("127.0.0.6", 0))) for _ in range(600)]
        time.sleep(1)
        assert 400 <= sum(map(closed, ones)) < 600
        yield
        time.sleep(11)
        assert all(map(closed, ones))


@contextmanager
def uploads(web, functions):
    codes = [
        web.post("gradio_api/upload", files=[("files", ("a.png", bytes(9_900_000)))]).status_code for _ in range(6)
    ]
    assert codes[0] == 200 and codes[-1] == 429
    yield


@contextmanager
def slow_uploads(web, functions):
    """At once, so that each is asked in before the others are counted, and none comes to an end."""
    head = (
        "POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=B\r\n"
        'Content-Length: 9900000\r\n\r\n--B\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    )
    with ExitStack() as held:
        for _ in range(60):
            one = socket.create_connection((web.base_url.host, web.base_url.port), 10, ("127.0.0.4", 0))
            held.enter_context(one).sendall(head.encode() + bytes(1000))
        time.sleep(0.5)
        yield


@contextmanager
def unread(web, functions):
    """Answers that are not read: the server cannot write one to its end, and must not keep others waiting for that."""

    def pair(number):
        asked = {"data": ["example", ""], "fn_index": functions["open"], "session_hash": f"unread{number}"}
        body = json.dumps(asked)
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
        post = f"POST /gradio_api/queue/join HTTP/1.1\r\nHost: x\r\n{kind}\r\n\r\n{body}"
        return f"GET /config HTTP/1.1\r\nHost: x\r\n\r\n{post}".encode()

    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        one.bind(("127.0.0.5", 0))
        one.connect((web.base_url.host, web.base_url.port))
        for number in range(50):
            one.sendall(pair(number))
            time.sleep(0.1)
        yield


FLOODS = {
    "attacks": events("relearn", [*ATTACK, 0]), "opens": events("open", ["example", ""]), "connections": connections,
    "uploads": uploads, "slow uploads": slow_uploads, "unread": unread, "silent": silent,
}  # fmt: skip
