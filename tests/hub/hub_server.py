"""A Hub on the loopback interface, with the routes that the real clients use for models; it can fail on request.

    with HubServer() as hub:
        subprocess.run([...], env=hub.environment(home))

The clients read HF_ENDPOINT when they are imported, so they run in a process of their own.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

WRITER, READER = "hf_writer", "hf_reader"
USERS = {WRITER: "ann", READER: "bob"}  # bob's token may only read
LARGE = (".safetensors", ".png")


@dataclass
class Repository:
    """A model repository: the files of every commit, and the newest commit of every branch."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        oid = hashlib.sha1(f"{branch} {len(self.commits)}".encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        self.messages.append(message)
        return oid

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]


class Refusal(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, said: str, code: str | None = None):
        self.status, self.said, self.code = status, said, code


class HubServer:
    """Serves until the end of the `with` block.

    Attributes:
        repositories: by id.
        large: large files by SHA-256.
        received: the SHA-256 of every large file that came, in order.
        requests: every request, as "METHOD path".
        ignored: names of files that a .gitignore keeps out of every repository.
        faults: (pattern of a request, status), each used once; the status 0 closes the connection.
        endless: pattern of a file that does not end, whatever its size is said to be.
        hold: pattern of a request that is not answered until `release` is set; `held` tells that it came.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.received: list[str] = []
        self.requests: list[str] = []
        self.ignored: set[str] = set()
        self.faults: list[tuple[str, int]] = []
        self.hold: str | None = None
        self.endless: str | None = None
        self.held, self.release, self.lock = threading.Event(), threading.Event(), threading.RLock()

    def __enter__(self) -> "HubServer":
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home, token: str | None = WRITER) -> dict[str, str]:
        """The environment of a client that knows this Hub and nothing else."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE_"))}
        kept |= {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": str(home),
        }
        return kept | {"NO_PROXY": "127.0.0.1", "TQDM_DISABLE": "1"} | ({"HF_TOKEN": token} if token else {})

    def writes(self) -> list[str]:
        """The requests that may have changed something."""
        return [request for request in self.requests if not request.startswith(("GET", "HEAD"))]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self):
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.requests.append(request)
        if hub.hold and re.search(hub.hold, request):
            hub.held.set()
            hub.release.wait()
            self.close_connection = True  # else the client would wait for an answer until its patience ends
            return
        fault = next((fault for fault in hub.faults if re.search(fault[0], request)), None)
        try:
            if fault is not None:
                hub.faults.remove(fault)
                if not fault[1]:
                    self.close_connection = True
                    return
                raise Refusal(fault[1], "planted")
            for method, pattern, route in ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in method:
                    with hub.lock:
                        return self._send(200, *route(self, *found.groups(), body))
            raise Refusal(404, f"no route for {request}")
        except Refusal as refused:
            headers = {"X-Error-Code": refused.code} if refused.code else {}
            self._send(refused.status, {"error": refused.said}, headers | {"X-Error-Message": refused.said})

    def _send(self, status, content, headers=()):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        endless = self.hub.endless and self.command == "GET" and re.search(self.hub.endless, self.path)
        headers = dict(headers) | ({"Content-Length": 10**12} if endless else {})
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
            if endless:
                self.close_connection = True
                with contextlib.suppress(OSError):
                    for _ in range(300):
                        self.wfile.write(bytes(1_000_000))

    # Who asks ------------------------------------------------------------------------------------------------

    def _user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in USERS:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return USERS.get(token)

    def _may_write(self, name: str) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self._user() != name.split("/")[0] or token == READER:
            raise Refusal(403, "You don't have the rights to write to this namespace")

    def _repository(self, name: str) -> Repository:
        repository, user = self.hub.repositories.get(name), self._user()
        if repository is None or (repository.private and user != name.split("/")[0]):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        return repository

    def _commit(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        repository = self._repository(name)
        oid = repository.branches.get(revision, revision)
        if oid not in repository.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, repository.commits[oid]

    # Routes --------------------------------------------------------------------------------------------------

    def whoami(self, body):
        if self._user() is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return ({"name": self._user(), "type": "user"},)

    def create(self, body):
        asked = json.loads(body)
        name = f"{asked.get('organization') or self._user()}/{asked['name']}"
        self._may_write(name)
        if name in self.hub.repositories:
            raise Refusal(409, "You already created this model repo")
        new = self.hub.repositories[name] = Repository(private=asked.get("visibility") == "private")
        new.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        return ({"url": f"{self.hub.url}/{name}"},)

    def validate(self, body):
        return ({"errors": [], "warnings": []},)

    def info(self, name, revision, body):
        oid, files = self._commit(name, revision or "main")
        found = {"id": name, "sha": oid, "private": self.hub.repositories[name].private, "tags": [], "downloads": 0}
        found |= {"pipeline_tag": "image-classification", "library_name": "transformers"}
        return (found | {"siblings": [{"rfilename": path} for path in sorted(files)]},)

    def tree(self, name, revision, body):
        _, files = self._commit(name, revision)
        return ([{"type": "file", "path": p, "size": len(c), "oid": _git_oid(c)} for p, c in sorted(files.items())],)

    def branch(self, name, branch, body):
        self._may_write(name)
        repository = self._repository(name)
        repository.branches[branch] = repository.branches["main"]
        return ({},)

    def preupload(self, name, revision, body):
        self._may_write(name)
        _, present = self._commit(name, revision)
        answers = []
        for file in json.loads(body)["files"]:
            large, content = file["path"].endswith(LARGE), present.get(file["path"])
            oid = None if content is None else (hashlib.sha256(content).hexdigest() if large else _git_oid(content))
            mode = "lfs" if large else "regular"
            left_out = file["path"] in self.hub.ignored
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": left_out, "oid": oid})
        return ({"files": answers},)

    def batch(self, name, body):
        self._may_write(name)
        objects = []
        for wanted in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/store/{wanted['oid']}", "header": {}}}
            objects.append(wanted if wanted["oid"] in self.hub.large else wanted | {"actions": upload})
        return ({"transfer": "basic", "objects": objects},)

    def store(self, oid, body):
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "the content has another hash")
        self.hub.large[oid] = body
        self.hub.received.append(oid)
        return ({},)

    def commit(self, name, revision, body):
        self._may_write(name)
        _, present = self._commit(name, revision)
        files, message = dict(present), ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            else:
                del files[value["path"]]
        oid = self.hub.repositories[name].commit(revision, files, message)
        return ({"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid},)

    def resolve(self, name, revision, path, body):
        oid, files = self._commit(name, revision)
        if path not in files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        return files[path], {"ETag": f'"{_git_oid(files[path])}"', "X-Repo-Commit": oid}


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


MODEL = r"([\w.-]+/[\w.-]+)"
ROUTES = (
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("GET", f"/api/models/{MODEL}(?:/revision/(.+))?", _Handler.info),
    ("GET", f"/api/models/{MODEL}/tree/([^/]+)/?", _Handler.tree),
    ("POST", f"/api/models/{MODEL}/branch/(.+)", _Handler.branch),
    ("POST", f"/api/models/{MODEL}/preupload/(.+)", _Handler.preupload),
    ("POST", f"/api/models/{MODEL}/commit/(.+)", _Handler.commit),
    ("POST", f"/{MODEL}\\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/store/([0-9a-f]{64})", _Handler.store),
    ("GET HEAD", f"/{MODEL}/resolve/([^/]+)/(.+)", _Handler.resolve),
)
