"""One server of the Space for the tests of a worker, on free ports of loopback, with a Hub of its own beside it."""

import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from hub.hub_server import HubServer, Repository

from hf_dtl.data.sources import EXAMPLE_FOLDER

SPACE = Path(__file__).parents[2] / "space"
sys.path.insert(0, str(SPACE))  # as `python space/app.py` has it


@dataclass
class Served:
    """A running Space.

    Args:
        url: where it is.
        process: its process; `log` is the file that its output goes to, `temporary` where its temporary files go.
        hub: the Hub that it asks.
    """

    url: str
    process: subprocess.Popen
    log: Path
    temporary: Path
    hub: HubServer
    example: Path = EXAMPLE_FOLDER

    def publish(self, repo, which, **changes):
        """Put a model of the example on the Hub, with other contents of files by stem, None for no such file."""
        files = {path.name: path.read_bytes() for path in (self.example / which).iterdir() if path.is_file()}
        for stem, content in changes.items():
            (name,) = [name for name in files if name.startswith(f"{stem}.")]
            files[name] = content.encode() if isinstance(content, str) else content
        self.hub.repositories[repo] = Repository(private=False)
        self.hub.repositories[repo].commit("main", {n: c for n, c in files.items() if c is not None}, "a model")


@pytest.fixture(scope="session")
def space(tmp_path_factory):
    pytest.importorskip("gradio", reason="gradio comes with the extra `space`")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("space")
    temporary, log, url = home / "temporary", home / "log.txt", f"http://127.0.0.1:{port}/"
    temporary.mkdir()
    with HubServer() as hub, log.open("w") as output:
        own = {"GRADIO_SERVER_PORT": str(port), "TMPDIR": str(temporary), "GRADIO_TEMP_DIR": str(temporary / "gradio")}
        own |= {"HF_HUB_ETAG_TIMEOUT": "120"}  # a Hub that is held must not be given up while visitors come in
        environment = hub.environment(home, token=None) | own | {"PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            [sys.executable, SPACE / "app.py"], env=environment, stdout=output, stderr=output, cwd=home
        )
        try:
            deadline = time.monotonic() + 300
            while True:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                try:
                    urllib.request.urlopen(url, timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield Served(url, process, log, temporary, hub)
        finally:
            process.terminate()
            process.wait(20)
