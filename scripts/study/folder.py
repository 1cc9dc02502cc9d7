"""The output folder of a study: made once, and continued by the same study alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_dtl.errors import OutputError
from hf_dtl.pipeline.stages import changed_settings, write_atomically

RECORD = "study.json"


def start_folder(output: Path, settings: Mapping[str, Any], what: str = "study") -> None:
    """Make the folder of a study, or check that it holds an earlier part of this one.

    Args:
        output: the folder.
        settings: what all cells share (JSON values).
        what: the study in a word, for messages.

    Raises:
        OutputError: it holds another study, or files that are not a study's.
    """
    record = output / RECORD
    if output.is_file():
        raise OutputError(f"The output folder {output} is a file. Choose another --output_dir.")
    if record.exists():
        changed = changed_settings(record, settings)
        if changed:
            raise OutputError(
                f"The output folder {output} holds another {what} ({'; '.join(changed)}). Choose another "
                f"--output_dir, or repeat that {what}'s options to continue it."
            )
    elif output.is_dir() and any(path.name != f".{RECORD}.partial" for path in output.iterdir()):
        raise OutputError(
            f"The output folder {output} holds files that are not a {what}'s. Choose another --output_dir."
        )
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(record, json.dumps(settings, indent=2) + "\n")
