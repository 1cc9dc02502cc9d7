"""What a published folder must not hold: files that leak, local paths, secrets, and data beside a picture."""

import base64
import contextlib
import re
import struct
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from hf_dtl.errors import PublishError
from hf_dtl.hub.markdown import plain, readings, unseen


class Leak(NamedTuple):
    """Files that give away what was disposed of, or run code."""

    patterns: tuple[str, ...]
    what: str
    remedy: str


LEAKS = (
    Leak(
        ("adapter_config.json", "adapter_model*"),
        "an adapter that was not merged: whoever removes it has the model as it was before the disposal",
        "Merge it (`merge_and_unload`), save the merged model in another folder and audit that one",
    ),
    Leak(
        ("checkpoint-*", "training_args*", "optimizer*", "scheduler*", "trainer_state*", "rng_state*", "scaler*"),
        "a trainer's state: it is a pickle, or remembers gradients and the head of the forgotten task",
        "Publish what `trainer.save_model(folder)` writes to an empty folder",
    ),
    Leak(
        ("tasks.json",),
        "the list of several heads: whoever has the forgotten task's head need not relearn it",
        "Export one task (`MultiHeadClassifier.export`), save and audit it, and publish that folder",
    ),
    Leak(
        ("*.py", "*.pyc", "*.so", "*.ipynb", "*.sh"),
        "code: a published model must load without running any",
        "Delete it, or use an architecture that transformers has",
    ),
    Leak(
        (
            "*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.npy", "*.npz", "*.h5", "*.msgpack",
            "*.onnx", "*.gguf", "*.tar", "*.zip", "*.gz",
        ),
        "a pickle or an archive: what it holds cannot be checked, and reading it may run code",
        "Delete it; weights are published as safetensors (`save_pretrained`)",
    ),
)  # fmt: skip
SECRETS = {
    "a Hugging Face token": re.compile(r"\b(?:(?:hf|api_org)_(?:oauth_|jwt_)?[A-Za-z0-9]{20,}|api_[A-Za-z0-9]{34}\b)"),
    "an AWS key": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|(?i:aws_secret_access_key)\W{1,3}[A-Za-z0-9/+=]{30,}"),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}"),
    "a GitLab, npm or PyPI token": re.compile(r"\b(?:glpat-|npm_|pypi-)[A-Za-z0-9_-]{20,}"),
    "an API key": re.compile(r"\b(?:sk-|[sr]k_(?:live|test)_)[A-Za-z0-9_-]{20,}|\bAIza[A-Za-z0-9_-]{30,}"),
    "a service's token": re.compile(
        r"\b(?:dckr_pat_|shp(?:at|ss|ca|pa)_|nvapi-|gsk_|do[opr]_v1_|hv[sbr]\.|xai-|lin_api_|tskey-[a-z]+-|ATATT3)"
        r"(?=[A-Za-z_-]*\d)(?=[\w-]*[A-Z\d][\w-]*[A-Z\d])[\w-]{20,}"
    ),
    "a Slack token": re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    "a JSON web token": re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{6,}"),
    "a bearer token": re.compile(r"\b[Bb]earer\s+[A-Za-z0-9._~+/=-]{16,}"),
    "a key or password": re.compile(
        r"\b\w*(?i:(?:api|account|access|private)_?key|secret|token|passwd|password)\w*[\"']?\s*[=:]\s*[\"']?(?=\S*\d)[A-Za-z0-9_+/=.-]{20,}"
    ),
    "a password": re.compile(
        r"(?i)\b(?:pass(?:word|wd|wort|phrase|code)|pwd|kennwort)\b[\"'`]?"
        r"(?:\s*[:=]\s*[\"'`]?(?!none|required|optional|protected|your|\W)|(?:\s+(?:is|ist))?\s+(?=[^\s,;]*\d))[^\s,;]{4,}"
    ),
    "a bot's token": re.compile(r"\b\d{8,10}:[A-Za-z0-9_-]{30,}"),
    "a login's key": re.compile(r"(?i)\b(?:wandb|netrc|weights\s*(?:&|and)\s*biases)\b[^\n]{0,60}\b[0-9a-f]{40}\b"),
    "a public key with its owner": re.compile(r"\b(?:ssh-\w+|ecdsa-sha2-[\w-]+)\s+AAAA[A-Za-z0-9+/=]+"),
    "a webhook": re.compile(r"\b(?:discord(?:app)?\.com/api/webhooks|hooks\.slack\.com/\w+)/[\w/-]{20,}"),
    "a signed address": re.compile(r"[?&]sig=[A-Za-z0-9%+/=_-]{20,}"),
    "a SendGrid key": re.compile(r"\bSG\.[\w-]{16,}\.[\w-]{16,}"),
    "a Twilio, Databricks or Replicate key": re.compile(r"\b(?:SK|AC|dapi)[0-9a-f]{32}\b|\br8_[A-Za-z0-9]{30,}"),
    "an age key": re.compile(r"\bAGE-SECRET-KEY-1[A-Z0-9]{20,}"),
    "a user name or password in an address": re.compile(
        r"\b[A-Za-z][\w+.-]*://[^\s/@]+@|\b[\w.-]+@[\w-]+(?:\.[\w-]+)*:(?:[~/]|[\w.-]+/\w)"
        r"|\b(?:ssh|scp|sftp|rsync)\s+(?:-\S+\s+(?:[^\s@-]+\s+)?){0,4}[\w.-]+@[\w-]+"
    ),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a block of encoded data": re.compile(r"[A-Za-z0-9+/_=-]{200,}|(?:(?=\S*\d)[A-Za-z0-9+/=]{40,}\s+){3}"),
}
_CUT = re.compile(
    r"\b(?:hf_|gh[pousr]_|github_pat_|glpat-|npm_|pypi-|sk-|AIza|AKIA|ASIA|xox[a-z]-)"
    r"((?:[A-Za-z0-9]*[^A-Za-z0-9]{1,9}){1,9}[A-Za-z0-9]+)"
)
"""The beginning of a token, and what follows in parts."""
_ROOTS = "home|root|Users|tmp|mnt|var|srv|data|opt|workspace|content|private"
# Absolute paths of two parts or below a usual root, home folders, file:, machines, drives and shares; not /class or
# https://, and after a < only a root, for </table> is markup.
PATHS = re.compile(
    rf"""file:/?\S+
    |\b(?:s?ftp|ssh|scp|rsync|smb|nfs|afp|vscode-\w+|s3[an]?|gs|gcs|hdfs|dbfs|wasbs?|abfss?)://\S+
    |(?i:%2F(?:{_ROOTS})%2F\S+)
    |(?i:\$\{{?(?:HOME|USERPROFILE|TMPDIR|PWD|SCRATCH|WORK|STORE|PROJECT)\}}?|%(?:USERPROFILE|HOMEPATH|(?:LOCAL)?APPDATA|TE?MP)%)[/\\][^\s"'`)\]]*
    |(?:\.\.[/\\]){{2,}}[\w.@+~-]+[/\\][^\s"'`)\]]+
    |(?<=<)/(?:{_ROOTS})/[^\s"'`)\]]+
    |(?<![\w./\\<])(?:
        ~\w*[/\\]\w[^\s"'`)\]]*
        |/(?:{_ROOTS})\b[^\s"'`)\]]*
        |/[\w.@+~-]+/[^\s"'`)\]]+
        |\\?(?:home|Users)[/\\][\w.@+~-]+[/\\][^\s"'`)\]]+
        |[A-Za-z]:[/\\]\w[^\s"'`)\]]*
        |[A-Z]:\w[\w.-]*\\[^\s"'`)\]]+
        |\\\\[\w.$?-]+\\[^\s"'`)\]]+
    )""",
    re.VERBOSE,
)
_MACHINES = re.compile(
    r"\b(?:10(?:\.\d{1,3}){3}|100\.(?:6[4-9]|[7-9]\d|1[01]\d|12[0-7])(?:\.\d{1,3}){2}|192\.168(?:\.\d{1,3}){2}|172\.(?:1[6-9]|2\d|3[01])(?:\.\d{1,3}){2})\b"
    r"|\b[A-Za-z][\w-]*(?:\.[\w-]+)*\.(?:local|localdomain|lan|home|internal|intranet|corp)\b"
)
_HOMES = re.compile(r"/(?:home|Users)/\w|[A-Za-z]:\\Users\\\w")
_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"sRGB", b"gAMA", b"cHRM", b"pHYs", b"sBIT", b"IDAT", b"IEND"}


def leak_of(name: str) -> Leak | None:
    """What a file would leak by its name, which may have folders in it; None for an unsuspicious one."""
    parts = PurePosixPath(name.lower()).parts
    return next((leak for leak in LEAKS for p in parts if any(fnmatch(p, pattern) for pattern in leak.patterns)), None)


def check_text(name: str, texts: Iterable[str], labels: Collection[str] = ()) -> None:
    """Refuse local paths and secrets.

    Args:
        name: of the file, for the message.
        texts: what a reader of the file can see.
        labels: of the model and its data: they may look like either (/m/01g317, sk-inflammation-of-the-upper-layer).

    Raises:
        PublishError: one was found. Of a secret, only the beginning is repeated.
    """
    own = _without(labels)
    # A word like "password" that is a label hides nothing; what looks like a key as a whole was looked at by itself.
    alike = _without([label for label in labels if any(pattern.search(label) for pattern in SECRETS.values())])
    for label in labels:
        where = f"{name} has the label {label[:40]!r}, which"
        for form in readings(label):
            _check_secrets(where, form, label=True)
            _check_places(where, form, label=True)
    for text in dict.fromkeys(texts):
        for form in readings(alike(text)):
            _check_secrets(name, form)
        _check_one(name, readings(own(text)))
        if one := unseen(text):
            before = text.partition(chr(int(one[2:], 16)))[0]
            raise PublishError(
                f"{name} holds a character that nobody sees ({one}): it may carry a text, or turn one around. Take it "
                f"out, behind {before[-40:]!a}."
            )


def _without(labels: Iterable[str]) -> Callable[[str], str]:
    """Take labels out of a text, as they are written and as Markdown writes them."""
    known = sorted({form for label in labels for form in (label, plain(label)) if form.strip()}, key=len, reverse=True)
    if not known:
        return lambda text: text
    found = re.compile("|".join(rf"(?<!\w){re.escape(label)}(?![\w/\\])" for label in known))
    return lambda text: found.sub("label", text)


def _check_secrets(name: str, text: str, label: bool = False) -> None:
    for what, pattern in SECRETS.items():
        # A label may have the form of a key, but not its digits or a word of its length, and no address's password.
        for secret in pattern.finditer(text):
            if (
                not label
                or len(re.findall(r"\d", secret[0])) > 1
                or re.search(r"[A-Z0-9]{20}|[A-Za-z0-9]{24}|://", secret[0])
            ):
                raise PublishError(
                    f"{name} holds {what} ({secret.group()[:6]}...). Remove it, and revoke it if it opens anything: "
                    "it may have been read."
                )


def _check_places(name: str, text: str, label: bool = False) -> None:
    if path := (_HOMES if label else PATHS).search(text):
        raise PublishError(
            f"{name} names a local folder: {path.group()}. It tells about your machine: remove it, or write the "
            "file anew from a relative path or Hub id."
        )
    if not label and (machine := _MACHINES.search(text)):
        raise PublishError(
            f"{name} names a machine of a private network: {machine.group()}. It tells about your machines: remove it."
        )


def _check_one(name: str, forms: Sequence[str]) -> None:
    """Refuse what one text holds besides labels and secrets in one piece, in any of the forms that it is read in."""
    for text in forms:
        if hidden := next(_decoded(text), None):
            raise PublishError(f"{name} holds an encoded text ({hidden[:20]}...). Remove it, or write it plainly.")
        _check_places(name, text)
    for text in forms:  # where none of them has it in one piece
        if cut := next(_in_parts(text), None):
            raise PublishError(f"{name} holds a token in parts ({cut[:6]}...). Remove it, and revoke it.")


def _in_parts(text: str) -> Iterator[str]:
    """Tokens that blanks, cells or lines cut; of words the parts are no mixture of letters and digits."""
    for found in _CUT.finditer(text):
        size = 0
        for part in re.split(r"[^A-Za-z0-9]+", found[1]):
            if part and sum(bool(re.search(kind, part)) for kind in ("[a-z]", "(?<!^)[A-Z]", "[0-9]")) < 2:
                break
            size += len(part)
        if size >= 20:
            yield found[0]


def _decoded(text: str) -> Iterator[str]:
    """What in a text is another one, by its bytes in base 16, 32 or 64; of other words the bytes are no letters."""
    runs = (run.replace(" ", "") for run in re.findall(r"(?:\b[A-Z2-7]{4,16} ){3,}[A-Z2-7=]+", text))
    for word in (*re.findall(r"[A-Za-z0-9+/_=-]{20,}", text), *runs):
        for decode in (bytes.fromhex, base64.b32decode, base64.b64decode, base64.urlsafe_b64decode):
            with contextlib.suppress(ValueError):
                told = decode(word).decode("ascii")
                if told.isprintable():
                    yield told


def check_picture(path: Path) -> None:
    """Refuse a PNG that carries more than pixels: texts, EXIF, private chunks, further frames, bytes behind its end.

    Raises:
        PublishError: naming what it carries.
    """
    content, place, kind = path.read_bytes(), 8, b""
    while kind != b"IEND" and content[:8] == b"\x89PNG\r\n\x1a\n" and place + 12 <= len(content):
        size, kind = struct.unpack(">I4s", content[place : place + 8])
        body = content[place + 8 : place + 8 + size]
        if kind not in _CHUNKS:
            raise PublishError(f"{path.name} carries {kind!r} beside its pixels. {_DRAW}")
        if content[place + 8 + size :][:4] != struct.pack(">I", zlib.crc32(kind + body)):
            break
        place += size + 12
    else:
        if kind == b"IEND" and place == len(content):
            return
        if kind == b"IEND":
            raise PublishError(f"{path.name} carries {len(content) - place:,} bytes behind its end. {_DRAW}")
    raise PublishError(f"{path.name} cannot be read: it is no whole PNG. {_DRAW}")


_DRAW = "Draw the pictures anew: `report.plot(folder)`."
