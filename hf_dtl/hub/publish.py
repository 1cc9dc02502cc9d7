"""Publish a scrubbed model on the Hub, together with its leakage card and report."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from huggingface_hub import HfApi, errors, get_token
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import validate_repo_id
from transformers import BaseImageProcessor, PreTrainedModel

from hf_dtl.audit import LeakageReport
from hf_dtl.errors import DTLError, PublishError
from hf_dtl.hub.apart import check_apart
from hf_dtl.hub.claims import check_words
from hf_dtl.hub.leaks import check_text, leak_of
from hf_dtl.hub.model_settings import save_plain
from hf_dtl.hub.staging import PLOTS, REPORT, StagedFile, add_evidence, stage
from hf_dtl.hub.weights import CONFIG, INDEX, ONE, PROCESSORS
from hf_dtl.methods.transfer_images import TRANSFER

MAIN = "main"
logger = logging.getLogger(__name__)
MESSAGE = "Publish the scrubbed model with its leakage report"
# Of these, an earlier publication leaves nothing behind: a card never stands beside other weights than its own.
_REPLACED = [
    "*.safetensors",
    PLOTS,
    TRANSFER,
    *(n for name in (CONFIG, INDEX, *PROCESSORS) for n in (name, f"*/{name}")),
]


class Publication(NamedTuple):
    """What was published: the files, and where they are; without an address after a dry run."""

    files: tuple[StagedFile, ...]
    url: str | None = None
    commit: str | None = None


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    commit_message: str = MESSAGE,
    dry_run: bool = False,
    token: str | None = None,
    license: str | None = None,
    report: str | Path | None = None,
) -> Publication:
    """Stage a run's scrubbed model and upload it in one commit; nothing is made on the Hub before all is checked.

    An interrupted upload is continued by the same call: what the Hub has received is not sent again, and until the
    commit at the end nothing of it is visible.

    Args:
        folder: output folder of a run, or a model's folder; see `stage`.
        repo_id: `user/name`; `name` alone is put under the token's user. The repository is made where there is none.
        private: whether only its owner may see it. An existing repository must be as this says.
        revision: branch to commit to, which is made from `main` where there is none; default: `main`.
        commit_message: first line of the commit.
        dry_run: only stage and check; nothing is sent.
        token: of a user who may write there; default: that of `hf auth login` or HF_TOKEN.
        license: what the card is to name, as the Hub writes it (`apache-2.0`); default: what it names.
        report: file of an audit of these weights, for a model's folder that has no card yet; one is made of it.

    Returns:
        The published files, and the address of model and commit.

    Raises:
        PublishError: the folder would leak something or is incomplete, or the Hub refuses or cannot be reached.
    """
    try:
        validate_repo_id(repo_id)
    except errors.HFValidationError as error:
        raise PublishError(
            f"{repo_id!r} is not the id of a model: write user/name, in letters, digits, '-', '_' and '.', without an "
            "address or a type (datasets/, spaces/) before it."
        ) from error
    for name, text in (("commit_message", commit_message), ("revision", revision), ("license", license)):
        check_text(f"--{name}", [text] if text else [])
        if text and text != MESSAGE:
            check_words(f"--{name}", text)
    check_text("the repository's name", [repo_id.rpartition("/")[2]])
    check_words("The repository's name", repo_id.rpartition("/")[2])
    place = Path(folder)
    if (place / "attacks.jsonl").is_file() and not any(any(place.glob(f"{p}{CONFIG}")) for p in ("", "*/", "*/*/")):
        raise PublishError(
            f"{folder} is the folder of an audit and holds no model. Give the folder of the model that was audited, "
            f"with --report {place / REPORT}."
        )
    if odd := [path for path in place.rglob("*") if path.exists() and not (path.is_file() or path.is_dir())]:
        raise PublishError(f"{odd[0]} is neither a file nor a folder. Remove it.")
    if report is not None and place.is_dir():
        with TemporaryDirectory(prefix="hf_dtl_model_") as own:
            model, audited = shutil.copytree(folder, Path(own) / "scrubbed", symlinks=True), LeakageReport.load(report)
            check_apart(place, audited)
            add_evidence(model, audited, license=license)
            return publish(
                model, repo_id, private=private, revision=revision, commit_message=commit_message, dry_run=dry_run,
                token=token,
            )  # fmt: skip
    with TemporaryDirectory(prefix="hf_dtl_publish_") as new:
        files = stage(folder, new, license)
        _tell_named(LeakageReport.load(Path(new) / REPORT))
        if dry_run:
            return Publication(files)
        if not (token or get_token()):
            raise PublishError(
                "There is no token of the Hub. Log in with `hf auth login`, or set HF_TOKEN to a token with write "
                "permission (https://huggingface.co/settings/tokens)."
            )
        api = HfApi(token=token, library_name="hf_dtl")
        try:
            if "/" not in repo_id:
                repo_id = f"{api.whoami()['name']}/{repo_id}"
            _prepare(api, repo_id, private, revision)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=new,
                revision=revision,
                commit_message=commit_message,
                delete_patterns=_REPLACED,
            )
            arrived = set(api.list_repo_files(repo_id, revision=commit.oid))
        except DTLError:
            raise
        except Exception as error:  # the client wraps errors of the network in various others
            raise PublishError(_explanation(error, repo_id)) from error
    missing = [file.name for file in files if file.name not in arrived]
    if missing:
        raise PublishError(
            f"The Hub left out {', '.join(missing)}. Look into the .gitignore of {repo_id}, and publish again."
        )
    return Publication(files, f"{api.endpoint}/{repo_id}", commit.commit_url)


def publish_model(
    model: PreTrainedModel | Mapping[str, PreTrainedModel],
    processor: BaseImageProcessor,
    report: LeakageReport,
    repo_id: str,
    *,
    base_model: str | None = None,
    **options: Any,
) -> Publication:
    """Publish a model in memory with the report of its audit, from which card and plots are made.

    Args:
        model: the scrubbed model, with its weights as they were audited; of several tasks, one model for each name.
        processor: its image processor.
        report: of the audit of what `model.save_pretrained` writes.
        repo_id: see `publish`.
        base_model: Hub id of the model that the work started from.
        **options: of `publish`.

    Raises:
        PublishError: see `publish`; also where the report was made from other weights.
    """
    with TemporaryDirectory(prefix="hf_dtl_model_") as folder:
        for name, one in (model if isinstance(model, Mapping) else {ONE: model}).items():
            save_plain(one, processor, Path(folder) / name)
        add_evidence(folder, report, base_model=base_model)
        return publish(folder, repo_id, **options)


def _prepare(api: HfApi, repo_id: str, private: bool, revision: str | None) -> None:
    """Find or make the repository and the branch; whatever speaks against them is found before anything is made."""
    found = _model_info(api, repo_id, None)
    if found is None:
        api.create_repo(repo_id, private=private, exist_ok=True)  # it may have been made meanwhile
        found = api.model_info(repo_id)
    if bool(found.private) != private:
        now, wanted = ("private", "public") if found.private else ("public", "private")
        raise PublishError(
            f"The repository {repo_id} is {now}, but was to be {wanted}. Change that in its settings on the Hub, say "
            f"that it is {now} (--private {str(bool(found.private)).lower()}), or choose another repository."
        )
    branch = found if revision in (None, MAIN) else _model_info(api, repo_id, revision)
    leaks = [file.rfilename for file in (branch or found).siblings or () if leak_of(file.rfilename)]
    if leaks:
        raise PublishError(
            f"The repository {repo_id} already holds what a published model must not: {', '.join(leaks[:3])}. Its "
            "history would keep that even if it were deleted: publish to a new repository."
        )
    if branch is None:
        api.create_branch(repo_id, branch=str(revision), exist_ok=True)


def _model_info(api: HfApi, repo_id: str, revision: str | None) -> ModelInfo | None:
    try:
        return api.model_info(repo_id, revision=revision)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        return None


def _tell_named(report: LeakageReport) -> None:
    """Say that a request by value stands in the card: somebody who is forgotten may not want to be named there."""
    request = "" if report.unlearning is None else report.unlearning.request
    if "=" in request and not request.startswith(("class=", "random=")):
        logger.warning("Card and report say what was forgotten: %s. List rows in a file where none may know.", request)


def _explanation(error: Exception, repo_id: str) -> str:
    again = "Start the same command again: what has arrived is not sent twice."
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    if any(isinstance(cause, errors.OfflineModeIsEnabled) for cause in causes):
        return "The Hub is not to be asked: HF_HUB_OFFLINE is set. Unset it to publish."
    answer = next((cause for cause in causes if isinstance(cause, errors.HfHubHTTPError)), None)
    if answer is None:
        return f"The Hub cannot be reached ({type(error).__name__}: {error}). Check the network. {again}"
    status, said = answer.response.status_code, answer.server_message or str(answer).strip().splitlines()[0]
    if isinstance(answer, errors.RepositoryNotFoundError) or status == 404:
        return f"The Hub shows this token no model {repo_id} ({status}). Check the id and the token's permissions."
    if status == 401:
        return f"The Hub does not accept the token: {said}. Log in again with `hf auth login`, or correct HF_TOKEN."
    if status in (402, 403):
        return (
            f"This token may not write to {repo_id}: {said}. Publish under your own name, or use a token with write "
            "permission for it."
        )
    if status == 409:
        return f"The name {repo_id} is taken, or somebody else writes to it now: {said}. Try again, or choose another."
    return f"The Hub answered {status}: {said}. {again}"
