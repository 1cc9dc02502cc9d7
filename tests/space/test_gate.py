"""What a hostile visitor sends: addresses that no page needs, events without end, uploads without end."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import pytest
from page_plants import ATTACK, BAD, ELSEWHERE, FLOODS, join

client_module = pytest.importorskip("gradio_client", reason="gradio comes with the extra `space`")
from page import addresses, gate  # noqa: E402  # gradio is there


@pytest.fixture(scope="module")
def web(space):
    with httpx.Client(base_url=space.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def functions(web):
    """Numbers of the page's events by name."""
    return {one["api_name"]: one["id"] for one in web.get("config").json()["dependencies"]}


def called(web, name, data):
    """The last message of a call."""
    answer = web.post(f"gradio_api/call/{name}", json={"data": data})
    assert answer.status_code == 200, answer.text
    return web.get(f"gradio_api/call/{name}/{answer.json()['event_id']}").text.rstrip().rpartition("\n\n")[2]


def waiting(web):
    return web.get("gradio_api/queue/status").json()["queue_size"]


def settled(web):
    deadline = time.monotonic() + 90
    while waiting(web) and time.monotonic() < deadline:
        time.sleep(0.2)


@pytest.mark.parametrize("address", ELSEWHERE)
def test_what_no_page_needs_is_not_there(web, address):
    method, path = address.split()
    assert web.request(method, f"gradio_api/{path}", json={"data": ATTACK + [0]}).status_code == 404


def test_addresses_beside_the_api_are_not_there(web):
    for path in (
        "monitoring",
        "monitoring/summary",
        "docs",
        "redoc",
        "login",
        "?deep_link=x",
        "?deep%5flink=x",
        "config/../docs",
    ):
        assert web.get(path).status_code == 404, path
    for path in ("", "config", "theme.css", "gradio_api/info", "gradio_api/queue/status"):
        assert web.get(path).status_code == 200, path


def test_headers(web):
    page, upload = web.get(""), web.post("gradio_api/upload", files={"files": ("a.html", b"<script>1</script>")})
    file = web.get(f"gradio_api/file={upload.json()[0]}")
    for answer in (page, upload, file):
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "object-src 'none'" in page.headers["content-security-policy"]
    assert file.status_code != 200 or file.headers["content-security-policy"] == gate.OF_FILES


def test_bad_requests_are_refused_without_a_traceback(web, space, functions):
    before = space.log.stat().st_size
    for body in BAD:
        for path in ("call/relearn", "queue/join", "call/v2/relearn"):
            answer = web.post(f"gradio_api/{path}", content=body, headers={"content-type": "application/json"})
            assert answer.status_code in (400, 404, 413), (path, body[:40], answer.text)
    for index in (9999, -1, "x", None, True, [0]):
        assert join(web, index, [], uuid.uuid4().hex).status_code == 404
    for path in (
        "/etc/passwd",
        "../x.png",
        "a\0b",
        "http://127.0.0.1:1/a.png",
        "https://example.org/a.png",
        "file:///etc/passwd",
        None,
        3,
        ["a"],
    ):
        image = {"path": path, "meta": {"_type": "gradio.FileData"}}
        assert web.post("gradio_api/call/probe", json={"data": ["example", "", image]}).status_code == 400
        assert web.post("gradio_api/call/open", json={"data": [image, ""]}).status_code == 400
        assert web.post("gradio_api/call/open", json={"data": ["example", [image]]}).status_code == 400
    for image in ("data:image/png;base64,iVBORw0KGgo=", 5, ["x"]):
        assert web.post("gradio_api/call/probe", json={"data": ["example", "", image]}).status_code == 400
    for chosen in (None, "x", {}, {"index": 10**9, "value": None}, {"index": "x", "value": None}, {"index": [0]}):
        session = uuid.uuid4().hex
        assert join(web, functions["example"], ["example", ""], session, event_data=chosen).status_code == 200
        with web.stream("GET", f"gradio_api/queue/data?session_hash={session}") as answers:
            assert any('"process_completed"' in line for line in answers.iter_lines())
    for data in (ATTACK + ["0"], ATTACK + [[]], [{}, [], 5, {"a": 1}, None, True], ATTACK[:4] + [10**14, 0.5]):
        assert "wrong" in called(web, "relearn", data)
    for data in ([{}, [], 5, None], ["example", "", ["ridge"], {"a": 1}], ["example", "", "ridge", 10**14]):
        assert "wrong" in called(web, "references", data)
    with contextlib.suppress(httpx.RemoteProtocolError):  # gradio begins an answer before it looks for the session
        web.get("gradio_api/queue/data?session_hash=nobody")
    for _ in range(2):  # half of an upload, and gone
        with socket.create_connection((web.base_url.host, web.base_url.port)) as one:
            head = "POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n"
            one.sendall(f"{head}Content-Type: multipart/form-data; boundary=q\r\n\r\n--q\r\n".encode())
            time.sleep(0.5)
    settled(web)
    time.sleep(1)
    said = space.log.read_bytes()[before:].decode()
    assert "Traceback" not in said, said[:3000]
    assert len(re.findall("ClientDisconnect", said)) == 2 == len(re.findall("ClientDisconnect.*\n", said))


def test_one_visitor_cannot_fill_the_queue(web, functions):
    """As 36 attacks of one session did, of which no answer was read: everybody else got 503."""
    own = "attacker" + uuid.uuid4().hex[:8]
    with ThreadPoolExecutor(12) as pool:
        codes = list(pool.map(lambda i: join(web, functions["relearn"], ATTACK + [i], own).status_code, range(36)))
    assert 2 <= codes.count(200) <= 4 and set(codes) == {200, 429}
    opened = [join(web, functions["open"], ["example", ""], own).status_code for _ in range(12)]
    assert opened.count(429) >= 12 - gate.MOST_UNREAD
    start = time.monotonic()
    assert "complete" in called(web, "open", ["example", ""])
    assert "complete" in called(web, "references", ATTACK[:2] + ATTACK[3:])
    assert time.monotonic() - start < 30


def test_attacks_of_many_sessions_that_nobody_reads_give_way(web, functions, monkeypatch):
    many = [join(web, functions["relearn"], ATTACK + [i], uuid.uuid4().hex).status_code for i in range(30)]
    assert many.count(200) <= gate.OWN_ATTACKS + 8 and set(many) <= {200, 429}  # some begin meanwhile
    assert "complete" in called(web, "open", ["example", ""])
    start = time.monotonic()
    while True:
        answer = web.post("gradio_api/call/relearn", json={"data": ATTACK + [0]})
        if answer.status_code == 200:
            break
        assert answer.status_code == 429 and time.monotonic() - start < gate.SILENT + 20
        time.sleep(0.5)
    last = web.get(f"gradio_api/call/relearn/{answer.json()['event_id']}", timeout=90).text
    assert "You relearned it to" in last


@pytest.fixture(scope="module")
def other(space):
    """A visitor with another address than the one who floods."""
    transport = httpx.HTTPTransport(local_address="127.0.0.9")
    with httpx.Client(base_url=space.url, timeout=60, transport=transport) as client:
        yield client


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_one_address_takes_no_place_of_others(web, other, functions, name):
    settled(web)
    with FLOODS[name](web, functions):
        assert "leakage over" in called(other, "open", ["example", ""])
        assert "You relearned it to" in called(other, "relearn", [*ATTACK[:3], "ridge", 5, 0])
        assert other.post("gradio_api/upload", files=[("files", ("a.png", b"x"))]).status_code == 200


class Queue:
    """What the gate asks of gradio's."""

    def __init__(self, *sessions):
        self.pending_event_ids_session = self.pending_messages_per_session = dict.fromkeys(sessions)

    async def clean_events(self, session_hash):
        assert session_hash in self.pending_event_ids_session


def room(of, own=3, most=6, listens=(), heard=0.0, address="a"):
    """Who is dropped for one more event of an address, or the status of a refusal; `a1` is a session of `a`."""
    queue = Queue(*of)
    asked = gate.Gate(None, SimpleNamespace(_queue=queue), None)
    asked._address = {one: one[0] for one in of}
    asked._heard = {one: heard + i / 100 for i, one in enumerate(of)}
    asked._listeners.update(listens)
    try:
        asyncio.run(asked._give_way(dict.fromkeys(of, 1), address, own, most))
    except gate.Refused as refused:
        return refused.status
    return sorted(set(of) - set(queue.pending_event_ids_session))


def test_who_gives_way():
    now = time.monotonic()
    assert room(["a1", "b1"]) == []
    assert room(["a1", "a2", "a3", "b1"]) == ["a1"], "the oldest of the same address"
    assert room(["a1", "a2", "a3"], listens=["a1"]) == ["a2"], "of those who do not listen"
    assert room(["a1", "a2", "a3"], listens=["a1", "a2", "a3"]) == 429
    assert room(["a1", "a2", "a3"], heard=now) == 429, "who may still begin to listen"
    assert room(["b1", "b2", "b3", "b4", "c1", "c2"]) == ["b1"], "the oldest of the address with the most"
    assert room(["b1", "c1"], most=2, listens=["b1", "c1"]) == 503


class Event(SimpleNamespace):
    __hash__ = object.__hash__


def order(running, *waiting):
    """In which order attacks are served; `a1x` is of the address `a` and its session `a1`."""
    of = {one: Event(name=one, session_hash=one[:2], concurrency_id=0) for one in (*running, *waiting)}
    waits = SimpleNamespace(concurrency_id=0, queue=[of[one] for one in waiting])
    queue = SimpleNamespace(active_jobs=[None, [of[o] for o in running]], event_queue_per_concurrency_id={0: waits})
    asked = gate.Gate(None, SimpleNamespace(_queue=queue), None)
    asked._address = {one[:2]: one[0] for one in of}
    asked._take_turns()
    return " ".join(event.name for event in waits.queue)


def test_nobody_is_served_twice_before_another():
    assert order([], "a1x", "a2x", "b1x", "c1x") == "a1x b1x c1x a2x", "by address"
    assert order(["a1w"], "a1x", "a2x", "b1x") == "b1x a2x a1x", "who runs had his turn"
    assert order(["a1w"], "a1x", "a1y", "a2x") == "a2x a1x a1y", "by session of one address"
    assert order([], "b1x", "a1x", "b1y", "a1y") == "b1x a1x b1y a1y", "else in the order of asking"


def test_a_visitor_waits_for_one_attack_of_another_and_not_for_all(web, other, functions):
    settled(web)
    sessions = [uuid.uuid4().hex for _ in range(gate.OWN_ATTACKS)]
    assert {join(web, functions["relearn"], [*ATTACK, i], one).status_code for i, one in enumerate(sessions)} == {200}
    assert "You relearned it to" in called(other, "relearn", [*ATTACK[:3], "ridge", 5, 0])
    assert waiting(web), "those of the other wait still"


def test_half_of_a_character_is_told(web):
    for data in (b'["example", "\\ud800"]', b'["\\udfff", ""]'):
        answer = web.post("gradio_api/call/open", content=b'{"data": ' + data + b"}")
        assert answer.status_code == 400 and "lone surrogate" in answer.text


def test_a_visitor_cannot_say_where_the_page_is(web):
    for name in ("x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "forwarded"):
        assert "evil.example" not in web.get("", headers={name: "evil.example"}).text, name


def test_whose_request_it_is(monkeypatch):
    def told(*forwarded):
        headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
        return addresses.address_of({"client": ("10.0.0.1", 5), "headers": headers})

    assert told("9.9.9.9") == "10.0.0.1", "nobody stands before this server"
    monkeypatch.setattr(addresses, "BEHIND", True)
    assert told("9.9.9.9, 8.8.8.8, 10.1.1.1") == "8.8.8.8" == told("9.9.9.9", "8.8.8.8")
    assert told("8.8.8.8, x") == "10.0.0.1" == told()


def test_uploads_are_bounded(web, other):
    def upload(files, **more):
        return other.post("gradio_api/upload", files=[("files", file) for file in files], **more).status_code

    assert upload([(f"{i}.png", b"x") for i in range(gate.MOST_FILES)]) == 200
    assert upload([(f"{i}.png", b"x") for i in range(900)]) == 413
    assert upload([(f"{i}.png", bytes(4_000_000)) for i in range(3)]) == 413
    assert web.post("gradio_api/upload", content=b"x" * 11_000_000, headers={"content-type": "x/y"}).status_code >= 400


def test_a_visitor_on_this_machine_cannot_say_for_whom_he_asks(space):
    transport = httpx.HTTPTransport(local_address="127.0.0.7")
    with httpx.Client(base_url=space.url, timeout=60, transport=transport) as here:
        codes = [
            here.post("gradio_api/upload", files=[("files", ("a.png", bytes(9_900_000)))],
                      headers={"x-forwarded-for": f"7.7.{i}.1"}).status_code for i in range(6)
        ]  # fmt: skip
    assert codes[-1] == 429


def test_small_uploads_of_one_address_do_not_hold_up_each_other(space):
    """An upload may have the size that it says, so that many may be under way; one that says none counts as large."""
    host, port = space.url.removeprefix("http://").rstrip("/").split(":")
    form = "Content-Type: multipart/form-data; boundary=b\r\n"
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}:{port}\r\n{form}"

    def begun(length):
        one = socket.create_connection((host, int(port)), 10, ("127.0.0.8", 0))
        one.sendall((head + length + "\r\n").encode())
        return one

    def answer(one):
        one.settimeout(1)
        try:
            return one.recv(100).decode().split()[1]
        except TimeoutError:
            return "under way"

    ways = [begun("Content-Length: 1000\r\n") for _ in range(gate.OWN_UPLOADS)]
    assert {answer(one) for one in ways} == {"under way"}
    for one in ways:
        one.close()
    time.sleep(0.5)
    chunked = "Transfer-Encoding: chunked\r\n"
    ways = [begun(length + chunked) for length in ("Content-Length: 1000\r\n", "", "", "", "")]
    assert [answer(one) for one in ways][-2:] == ["429", "429"]
    for one in ways:
        one.close()


def test_the_oldest_uploads_go(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "MOST_STORED", 3)
    now = time.time()
    for i, age in enumerate((500, 400, 300, 200, 100)):
        path = tmp_path / f"{i}" / "image.png"
        path.parent.mkdir()
        path.write_bytes(b"x")
        os.utime(path, (now - age, now - age))
    own = gate.Gate(None, None, tmp_path)
    assert own._make_room() and sorted(p.parent.name for p in tmp_path.rglob("*.png")) == ["2", "3", "4"]
    for path in tmp_path.rglob("*.png"):
        os.utime(path)
    monkeypatch.setattr(gate, "ROOM", 2)
    assert not own._make_room(), "none goes in its first seconds: the next upload is refused"


def test_a_killed_page_leaves_nothing_behind(tmp_path):
    code = "from page.temporary import take_folder; print(take_folder(), flush=True); import time; time.sleep(99)"
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    started = []
    try:
        for _ in range(2):
            started.append(subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE))
            assert re.search(rb"hf_dtl_page_.*uploads", started[-1].stdout.readline())
        assert len(list(tmp_path.glob("hf_dtl_page_*/"))) == 2, "the folder of a page that runs stays"
        started[0].send_signal(signal.SIGKILL)
        started[0].wait()
        started[1].send_signal(signal.SIGTERM)
        assert started[1].wait() == -signal.SIGTERM
        assert len(list(tmp_path.glob("hf_dtl_page_*/"))) == 1, "who is asked to end takes his folder along"
        ending = code.replace("time.sleep(99)", "pass")
        subprocess.run([sys.executable, "-c", ending], env=environment, check=True, capture_output=True)
        assert not list(tmp_path.glob("hf_dtl_page_*/")), "nor of the one that was killed"
    finally:
        for process in started:
            process.kill()
            process.wait()
