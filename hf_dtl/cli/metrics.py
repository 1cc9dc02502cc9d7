"""`hf-dtl metrics`: make the metrics loadable by name in `evaluate`, as `python -m hf_dtl.metrics` does."""

from collections.abc import Sequence

from hf_dtl.cli.parsing import refuse
from hf_dtl.metrics import NAMES
from hf_dtl.metrics.__main__ import COMMANDS, main
from hf_dtl.options import nearest


def start(words: Sequence[str]) -> None:
    """Run the command; a misspelt word gets the nearest right one.

    Args:
        words: of the command line.
    """
    for word, known in zip(words, ((*COMMANDS, "path"), *[NAMES] * len(words)), strict=False):
        if not word.startswith("-") and word not in known:
            refuse(f"There is no {word!r} among: {', '.join(known)}.{nearest(word, known)}")
    main(list(words))
