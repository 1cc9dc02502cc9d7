"""The Space's server as clients see it: each endpoint, inputs of the worst kind, and many visitors at once."""

import html
import io
import json
import random
import re
import string
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from hf_dtl.audit import LeakageReport

client_module = pytest.importorskip("gradio_client", reason="gradio comes with the extra `space`")
AppError, handle_file = client_module.exceptions.AppError, client_module.handle_file

ENDPOINTS = {"/open", "/probe", "/references", "/relearn", "/stop"}
HEADLINE = 4
TELLS_TOO_MUCH = re.compile(r"Traceback|File \"|site-packages|/tmp/|/work/|/home/|/root/|\.py\b(?<!audit\.py)")


def connected(space):
    return client_module.Client(space.url, verbose=False)


@pytest.fixture(scope="module")
def client(space):
    return connected(space)


@pytest.fixture(scope="module")
def digit(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "digit.png"
    image = Image.new("L", (28, 28))
    image.paste(255, (12, 4, 16, 24))
    image.save(path)
    return path


def unchanged(output):
    """Whether an output stays as it was: an update of nothing."""
    return isinstance(output, dict) and {**output.get("props", {}), **output}.keys() <= {"__type__", "props"}


def refused(client, endpoint, *inputs):
    """The message that an endpoint refuses inputs with, beside which nothing else is changed."""
    try:
        found = client.predict(*inputs, api_name=endpoint)
    except AppError as error:  # of a value that its field does not offer
        message = str(error)
    else:
        places = 2 if endpoint == "/open" else 1
        (said,) = filter(None, found[:places])
        assert said.startswith('<p class="wrong" role="alert">') and "<" not in said[4:-4].replace('">', "")
        assert all(map(unchanged, found[places:])), found
        message = html.unescape(re.sub("<[^>]*>", "", said))
    assert not TELLS_TOO_MUCH.search(message), message
    return message


def test_the_endpoints(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == ENDPOINTS


def probed(client, published, undisposed, path):
    wrong, seen = client.predict(published, undisposed, handle_file(path), api_name="/probe")
    assert not wrong
    return seen


def test_open(client, space):
    floor = LeakageReport.load(space.example / "scrubbed" / "leakage_report.json").floor
    opened = client.predict("example", "", api_name="/open")
    headline, examples, seen, card = opened[HEADLINE], opened[HEADLINE + 1], opened[HEADLINE + 4], opened[-1]
    assert f"leakage over {floor}" in headline and "these very weights" in headline
    assert "Attacked by quick-1, a first look." in headline
    assert len(examples["value"] if isinstance(examples, dict) else examples) == 8
    assert "Before disposal" in seen and card.count("<table ") == 3


def test_probe(client, digit):
    seen = probed(client, "example", "", digit)
    assert seen.count('<ol class="bars">') == 4 and seen.count("(source)") >= 2
    assert "upload an image" in client.predict("example", "", None, api_name="/probe")[1]


def test_relearn(client):
    client.predict("example", "", api_name="/open")
    _, picture, status = client.predict("example", "", "ridge_affine_8", 20, api_name="/references")
    assert "has not begun" in picture and "undisposed" in picture and "Nothing is running" in status
    job = client.submit("example", "", "scrubbed", "ridge_affine_8", 20, 0, api_name="/relearn")
    _, picture, status = job.result(timeout=120)
    told, says = (float(value) for value in re.findall(r"(?:it to|says) (\d\.\d{3})", status))
    assert told == pytest.approx(says, abs=0.02)  # another kind of processor may round otherwise
    assert len(job.outputs()) >= 8 and "The attack" not in picture and "a first look" in status
    assert unchanged(client.predict(api_name="/stop")), "what has ended stays as it is"


def test_a_stopped_attack_shows_how_far_it_came(client):
    client.predict("example", "", api_name="/open")
    job = client.submit("example", "", "scrubbed", "ridge_affine_8", 20, 0, api_name="/relearn")
    while not job.outputs():
        time.sleep(0.01)
    client.predict(api_name="/stop")
    _, picture, status = job.result(timeout=60)
    assert "Stopped after" in status and "a first look" in status and 'class="live now"' in picture


def bomb():
    """A PNG whose header says 60,000 × 60,000 pixels."""
    content = io.BytesIO()
    Image.new("L", (9, 9)).save(content, "PNG")
    data = bytearray(content.getvalue())
    data[16:24] = (60_000).to_bytes(4) * 2
    return bytes(data)


def malformed(draw, folder):
    """Endpoint and inputs with at least one thing wrong in it, drawn by `draw`."""
    texts = ["/etc/passwd", "../../etc/passwd", "file:///etc/passwd", "C:\\windows", "~/.ssh/id_rsa", "a/../../b",
             "${jndi:ldap://a}", "<script>alert(1)</script>", "a/b/c", "https://127.0.0.1/a", "' OR 1=1 --", "\x00",
             "\u202e/a", "x" * 90, "{{7*7}}", "user/%2e%2e", "space/example", "demo/../example"]  # fmt: skip
    texts += ["".join(draw.choices(string.printable, k=draw.randrange(1, 40))) + "\n" for _ in range(20)]
    unknown = [f"user{draw.randrange(99)}/model-{draw.randrange(99)}" for _ in range(3)]
    values = [None, [], {}, True, -1, 10**12, 0.5, "5", "ridge", "nan", ["scrubbed"], {"path": "/etc/passwd"}]

    def image():
        kind = draw.randrange(6)
        noise = draw.randbytes(draw.randrange(1, 400))
        good = io.BytesIO()
        Image.new("RGB", (30, 30)).save(good, draw.choice(["PNG", "JPEG", "GIF"]))
        cut = good.getvalue()[: len(good.getvalue()) // 2]
        narrow = io.BytesIO()
        Image.new("1", (draw.randrange(900, 9000), draw.randrange(1, 40))).save(narrow, "PNG")
        made = [noise, cut, bomb(), narrow.getvalue(), b"<svg onload='alert(1)'/>", b"\x89PNG\r\n\x1a\n" + noise]
        path = folder / f"{draw.randrange(10**9)}.{draw.choice(['png', 'jpg', 'svg', 'exe', 'gif'])}"
        path.write_bytes(made[kind])
        return handle_file(path)

    names = [*texts, *unknown, *[value for value in values if value not in (None, "ridge")]]
    kind = draw.choice(["open", "probe", "probe image", "probe image", "references", "relearn", "relearn value"])
    if kind == "open":
        return "/open", (draw.choice(names), draw.choice(["", *texts, *unknown]))
    if kind == "probe":
        return "/probe", (draw.choice(names), "", None)
    if kind == "probe image":
        return "/probe", ("example", "", image())
    if kind == "references":
        return "/references", (draw.choice(names), "", "ridge", 5)
    if kind == "relearn":
        return "/relearn", (draw.choice(names), "", "scrubbed", "ridge", 5, 0)
    good = ["scrubbed", "ridge", 5, 0]
    place = draw.randrange(4)
    good[place] = draw.choice(
        [v for v in values if not (place == 2 and v == "5") and not (place == 1 and v == "ridge")]
    )
    return "/relearn", ("example", "", *good)


@pytest.mark.parametrize("count", (50, pytest.param(200, marks=pytest.mark.slow)))
def test_malformed_inputs_get_a_message(count, client, digit, space, tmp_path):
    draw = random.Random(0)
    client.predict("example", "", api_name="/open")  # so that the choices of attacks are there
    messages = []
    for _ in range(count):
        endpoint, inputs = malformed(draw, tmp_path)
        messages.append(refused(client, endpoint, *inputs))
    assert len(set(messages)) > 20 and all(messages)
    assert space.process.poll() is None
    assert "Before disposal" in probed(client, "example", "", digit)


@pytest.mark.parametrize("path", ("/etc/passwd", "/proc/self/environ", "../app.py", "C:\\a.png", "", None, 3))
def test_a_path_of_the_machine_is_never_read(space, path):
    """As somebody sends it who does not use the client, which would upload a file of his own."""
    image = {"meta": {"_type": "gradio.FileData"}, "orig_name": "a.png", "path": path}
    call = f"{space.url}gradio_api/call/probe"
    joined = httpx.post(call, json={"data": ["example", "", image]}, timeout=60)
    answer = httpx.get(f"{call}/{joined.json()['event_id']}", timeout=60).text if joined.is_success else "event: error"
    assert answer.startswith("event: error") or 'class=\\"wrong\\"' in answer, answer
    assert "Before disposal" not in answer and not TELLS_TOO_MUCH.search(answer), answer


def test_large_uploads_are_refused(client, tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(bytes(6_000_000))
    assert "larger than 5 MB" in refused(client, "/probe", "example", "", handle_file(path))
    path.write_bytes(bytes(21_000_000))  # is not even received
    with pytest.raises(Exception, match="(?i)size|large|413"):
        client.predict("example", "", handle_file(path), api_name="/probe")


@pytest.mark.parametrize("count", (4, pytest.param(8, marks=pytest.mark.slow)))  # as many as may upload at once
def test_whoever_opens_a_slow_model_holds_up_nobody(count, space, digit):
    """Some wait for a Hub that does not answer, the next one is told to come again, and all others are served."""
    with ThreadPoolExecutor(count) as pool:
        visitors = list(pool.map(lambda _: connected(space), range(count + 3)))
    space.hub.held.clear()
    space.hub.release.clear()
    space.hub.hold = "ann/held"
    waiting = [visitor.submit("ann/held", "", api_name="/open") for visitor in visitors[:3]]
    try:
        assert space.hub.held.wait(60)
        while any(job.status().rank is not None and job.status().code.name == "IN_QUEUE" for job in waiting):
            time.sleep(0.02)
        assert "3 other models of the Hub are being opened" in refused(visitors[3], "/open", "ann/other", "")
        assert "leakage over" in visitors[3].predict("example", "", api_name="/open")[HEADLINE]
        jobs = [visitor.submit("example", "", handle_file(digit), api_name="/probe") for visitor in visitors[3:]]
        seen = {job.result(timeout=120)[1] for job in jobs}
        assert len(seen) == 1 and "Before disposal" in seen.pop()
        assert not any(job.done() for job in waiting)
    finally:
        space.hub.hold = None
        space.hub.release.set()
    assert all("ann/held" in "".join(map(str, job.result(timeout=120)[:2])) for job in waiting)


# Models of the Hub --------------------------------------------------------------------------------------------


def test_a_pair_of_the_hub(client, space, digit):
    space.publish("ann/scrubbed", "scrubbed")
    space.publish("ann/before", "undisposed")
    alone = probed(client, "ann/scrubbed", "", digit)
    assert "The undisposed model is not published" in alone and alone.count('<ol class="bars">') == 2
    both = probed(client, "ann/scrubbed", "ann/before", digit)
    assert both == probed(client, "example", "", digit)
    headline = client.predict("ann/scrubbed", "", api_name="/open")[HEADLINE]
    assert "these very weights" in headline and "the undisposed model is not published" in headline
    fetched = {request.split("/")[-1] for request in space.hub.requests if "/resolve/" in request}
    assert fetched == {"config.json", "model.safetensors", "preprocessor_config.json", "leakage_report.json"}
    assert not list(space.temporary.rglob("pair_*"))


def test_models_of_the_hub_that_are_refused(client, space):
    config = json.loads((space.example / "scrubbed" / "config.json").read_text())

    def message(name, **files):
        space.publish(f"bad/{name}", "scrubbed", **files)
        return refused(client, "/open", f"bad/{name}", "")

    assert "There is no public model bad/none" in refused(client, "/open", "bad/none", "")
    assert "has no leakage_report.json" in message("no-report", leakage_report=None)
    assert "has no model.safetensors" in message("pickle", model=None)
    assert "code of its own" in message("code", config=json.dumps(config | {"auto_map": {"AutoConfig": "a.B"}}))
    assert "only architectures" in message("bert", config=json.dumps(config | {"model_type": "bert"}))
    assert "up to 64" in message("deep", config=json.dumps(config | {"num_hidden_layers": 10**6}))
    started, long = time.monotonic(), {"model_type": "vit", "image_size": 512, "patch_size": 2, "hidden_size": 16,
                                       "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16,
                                       "id2label": {"0": "a", "1": "b"}}  # fmt: skip
    assert "multiply-adds for an image of 512×512" in message("long", config=json.dumps(long))
    assert time.monotonic() - started < 20
    assert "parameters" in message("wide", config=json.dumps(config | {"hidden_sizes": [16, 32, 4096]}))
    assert "lack" in message("other-size", config=json.dumps(config | {"hidden_sizes": [16, 32, 64]}))
    assert "cannot be" in message("broken", model="no safetensors")
    assert "no JSON object" in message("list", config="[" * 20_000)
    assert "up to 512" in message("resized", preprocessor_config=json.dumps({"size": {"height": 9000, "width": 9000}}))
    report = json.loads((space.example / "scrubbed" / "leakage_report.json").read_text())
    assert "schema_version" in message("schema", leakage_report=json.dumps(report | {"schema_version": 99}))
    report["leakage"]["mean"] = 0.0
    assert "changed by hand" in message("forged", leakage_report=json.dumps(report))
    assert "bytes; this page takes" in message("long-report", leakage_report=" " * 2_000_001)
    assert not list(space.temporary.rglob("pair_*"))


def test_a_hub_that_lies_about_sizes_fills_no_disk(client, space):
    space.publish("bad/endless", "scrubbed")
    space.hub.endless = "bad/endless/resolve/.*/config.json"
    started = time.monotonic()
    assert "larger than the" in refused(client, "/open", "bad/endless", "")
    space.hub.endless = None
    assert time.monotonic() - started < 20 and not list(space.temporary.rglob("pair_*"))


def test_a_report_of_other_weights_is_named(client, space):
    other = (space.example / "undisposed" / "model.safetensors").read_bytes()
    space.publish("bob/swapped", "scrubbed", model=other)
    headline = client.predict("bob/swapped", "", api_name="/open")[HEADLINE]
    assert "OTHER weights" in headline


def test_no_traceback_was_shown_and_none_was_needed(space):
    """Messages for visitors are no faults of the server: its log stays free of tracebacks of this page's own code."""
    log = space.log.read_text()
    assert "was written to the log" not in log and not re.search(r'Traceback(.|\n)*File "[^"]*space/page', log)
