"""Publish a scrubbed model on the Hub, with its leakage card, report and plots.

    python scripts/publish.py outputs/demo user/scrubbed-digits --dry_run
    python scripts/publish.py outputs/demo user/scrubbed-digits
    python scripts/publish.py outputs/demo user/scrubbed-digits --private false --revision v2

The folder is the output of dtl_finetune.py or unlearn.py, or the folder of a model with its card and report. Only the
model, its processor, the card, the report and the plots are uploaded. What would leak (a source head, a trainer's
state, pickles, local paths, tokens) is refused before anything is made on the Hub. An interrupted upload is continued
by the same command.
"""

import sys
from dataclasses import dataclass
from itertools import takewhile

import transformers
from rich.table import Table

from hf_dtl.command_line import console, run_script
from hf_dtl.hub.publish import MESSAGE, Published, publish
from hf_dtl.options import option


@dataclass
class PublishOptions:
    """Options of publishing; the first two may also stand alone at the beginning: FOLDER REPO_ID."""

    folder: str = option(help="Output folder of a run, or a model's folder.")
    repo_id: str = option(help="Model repository, user/name; it is made where there is none.")
    private: bool = option(True, "Whether only its owner may see the model.")
    revision: str | None = option(None, "Branch to commit to; default: main.")
    commit_message: str = option(MESSAGE, "First line of the commit.")
    dry_run: bool = option(False, "Only check and show what would be published; nothing is sent.")


def main(options: PublishOptions) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()  # of reading weights
    published = publish(
        options.folder,
        options.repo_id,
        private=options.private,
        revision=options.revision,
        commit_message=options.commit_message,
        dry_run=options.dry_run,
    )
    show(published, options)


def show(published: Published, options: PublishOptions) -> None:
    where = f"{options.repo_id}, {'private' if options.private else 'public'}, branch {options.revision or 'main'}"
    table = Table(title=f"{'Would be published' if published.url is None else 'Published'}: {where}")
    table.add_column("file")
    table.add_column("bytes", justify="right")
    table.add_column("SHA-256", no_wrap=True)
    for file in published.files:
        table.add_row(file.name, f"{file.size:,}", file.sha256)
    shown = console()
    shown.print(table)
    shown.print("Nothing was sent." if published.url is None else published.url, highlight=False)


def named(words: list[str]) -> list[str]:
    """Give the names of their options to the words at the beginning of a command line."""
    places = list(takewhile(lambda word: not word.startswith("-"), words))
    return [w for pair in zip(("--folder", "--repo_id"), places, strict=False) for w in pair] + words[
        len(places[:2]) :
    ]


if __name__ == "__main__":
    sys.argv[1:] = named(sys.argv[1:])
    run_script(PublishOptions, main)
