"""What the documents say to a reader's terminal: their blocks of code, their commands, and where they lie."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
)


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name, language):
    """Fenced blocks of one language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(name), flags=re.DOTALL | re.MULTILINE)


def commands(name):
    """Words of every command: lines of shell blocks, and whole cells of tables; without comments and `&&`."""
    lines = "".join(blocks(name, "bash")).replace("\\\n", " ").splitlines()
    lines += re.findall(r"^\|[^|`]*\| `(hf-dtl [^`]+)` \|$", text_of(name), flags=re.MULTILINE)
    words = [shlex.split(part, comments=True) for line in lines for part in line.split(" && ")]
    return [own for own in words if own]


def bare(words):
    """A command without the settings of its environment and without its launcher."""
    words = [word for number, word in enumerate(words) if number or "=" not in word]
    if words[:2] == ["accelerate", "launch"]:
        first = next(number for number, word in enumerate(words) if word.endswith(".py") or word == "-m")
        words = ["python", *words[first:]]
    return words
