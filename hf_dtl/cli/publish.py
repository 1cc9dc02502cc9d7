"""`hf-dtl publish`: put a scrubbed model on the Hub with its leakage card, report and plots."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from hf_dtl.cli.parsing import Command
from hf_dtl.cli.terminal import console, run_command, say
from hf_dtl.options import option

if TYPE_CHECKING:
    from hf_dtl.hub.publish import Publication


@dataclass
class PublishOptions:
    """Options of publishing."""

    folder: str = option(help="Output folder of a run, or a model's folder.")
    repo_id: str = option(help="Model repository, user/name; it is made where there is none.")
    private: bool = option(True, "Whether only its owner may see the model.")
    revision: str | None = option(None, "Branch to commit to; default: main.")
    commit_message: str = option("Publish the scrubbed model with its leakage report", "First line of the commit.")
    license: str | None = option(None, "Licence that the card is to name, such as apache-2.0; default: what it names.")
    report: str | None = option(
        None, "Report of an audit of these weights (leakage_report.json), for a model's folder without a card."
    )
    dry_run: bool = option(False, "Only check and show what would be published; nothing is sent.")


COMMAND = Command(
    "hf-dtl publish",
    PublishOptions,
    description="""\
Publish a scrubbed model on the Hub, with its leakage card, report and plots.
The folder is the output of forgetting, or a model's with its card and report. Only the model, its
processor, the card, the report and the plots are uploaded. What would leak (a source head, a
trainer's state, pickles, local paths, tokens) is refused before anything is made on the Hub.
The same command continues an interrupted upload.
""",
    examples="""\
hf-dtl publish outputs/forget user/scrubbed-digits --dry_run
hf-dtl publish outputs/forget user/scrubbed-digits
hf-dtl publish ./scrubbed user/scrubbed-digits --report outputs/audit/leakage_report.json
hf-dtl publish outputs/forget user/scrubbed-digits --private False --revision v2
""",
    places=("folder", "repo_id"),
)


def start(words: Sequence[str], **changed: Any) -> None:
    """Run the command.

    Args:
        words: of the command line.
        **changed: of `COMMAND`, for a script with defaults or a name of its own.
    """
    run_command(replace(COMMAND, **changed), work, words)


def work(options: PublishOptions) -> None:
    """Publish and print what was published."""
    from hf_dtl.hub.publish import publish
    from hf_dtl.models.loading import quiet

    quiet()
    show(publish(**asdict(options)), options)


def show(publication: "Publication", options: PublishOptions) -> None:
    """Print the files with sizes and hashes, and where they are."""
    from rich.table import Table

    where = f"{options.repo_id}, {'private' if options.private else 'public'}, branch {options.revision or 'main'}"
    table = Table(title=f"{'Would be published' if publication.url is None else 'Published'}: {where}")
    table.add_column("file")
    table.add_column("bytes", justify="right")
    table.add_column("SHA-256", no_wrap=True)
    for file in publication.files:
        table.add_row(file.name, f"{file.size:,}", file.sha256)
    console().print(table)
    say("Nothing was sent." if publication.url is None else publication.url)
