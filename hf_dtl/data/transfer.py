"""Transfer images: pictures that a teacher names for a student, none of them what is to be forgotten."""

import logging
from collections.abc import Sequence

import datasets
import numpy as np

from hf_dtl.data.columns import class_ids, find_image_column, find_label_column, images_beside
from hf_dtl.data.decoding import WHITE, read_as
from hf_dtl.data.duplicates import pictures
from hf_dtl.data.file_names import with_whole_paths
from hf_dtl.data.selection import DatasetSpec, select_classes
from hf_dtl.data.sources import column_of, open_splits, places, source_key
from hf_dtl.data.splits import Named, draw
from hf_dtl.errors import DataError, listing

logger = logging.getLogger(__name__)


def load_transfer(
    text: str,
    *,
    forgotten: Sequence[datasets.Dataset],
    labelled: datasets.Dataset,
    held_out: Sequence[datasets.Dataset],
    labels: Sequence[str] = (),
    forgotten_key: str = "",
    image_column: str | None = None,
    count: int | None = None,
    seed: int = 0,
    background: str = WHITE,
) -> datasets.Dataset:
    """Open transfer images, their own labels left out.

    Pictures that are labelled or held out already are left out. Pictures of what is to be forgotten are refused, but
    where the labelled ones are such pictures themselves (one data set under two columns), and so are its classes.

    Args:
        text: the data, as `DatasetSpec.parse` reads it; the split that it names, or the train split.
        forgotten: images of what is to be forgotten, with the column `image`.
        labelled: labelled images of what is kept, likewise.
        held_out: images that judge, likewise.
        labels: classes to forget.
        forgotten_key: `source_key` of their data.
        image_column: see `find_image_column`.
        count: draw so many; None for all. A larger draw with the same seed contains a smaller one.
        seed: of the draw.
        background: colour under what is transparent.

    Returns:
        A data set with the column `image`.

    Raises:
        DataError: there is none, or some are what is to be forgotten.
    """
    spec = DatasetSpec.parse(text)
    where = f"The transfer images '{spec.public()}'"
    named = Named.of(spec, open_splits(spec))
    rows, found = _of_classes(spec, named, where)
    shared = _shared(found, labels, same=source_key(spec) == forgotten_key)
    if shared:
        raise DataError(
            f"{where} have the classes {listing(shared, 8)}, which are to be forgotten: with them the given model "
            "would teach what it is to lose. Name other classes, NAME[CLASS,...]."
        )
    image_column = find_image_column(named.features, image_column, where)
    there = with_whole_paths(named.splits, image_column, spec)
    splits = {name: images_beside(there[name].select(own), image_column, {}, {}) for name, own in rows.items()}
    images = datasets.concatenate_datasets([split for split in splits.values() if len(split)] or [*splits.values()])
    images, inside = images.select_columns(["image"]), places(spec)
    own = pictures(images, where, inside, background)
    told = [{*pictures(part, where, None, background)} for part in (labelled, *held_out)]
    lost = set().union(*(pictures(part, where, None, background) for part in forgotten))
    bad = sum(picture in lost for picture in own)
    if bad and not told[0] <= lost:
        raise DataError(
            f"{where}: {bad} of {len(own)} are pictures of what is to be forgotten. Take them out, or others: with "
            "them the given model would teach what it is to lose."
        )
    if bad:
        told_of = (
            "%s: %d of %d, as the labelled ones, are also pictures of what is to be forgotten, under other labels."
        )
        logger.warning(told_of, where, bad, len(own))
    known, keep = set().union(*told), []
    for row, picture in enumerate(own):
        if picture not in known:
            known.add(picture)
            keep.append(row)
    if len(keep) < len(own):
        left = "%s: %d of %d are left out: they are labelled, held out, or there twice."
        logger.warning(left, where, len(own) - len(keep), len(own))
    if not keep:
        raise DataError(f"{where}: there is no image that is not labelled or held out already. Give others, or none.")
    if count is not None and count > len(keep):
        raise DataError(f"{where}: {count} are wanted and there are {len(keep)}. Lower --transfer_images.")
    chosen = np.array(keep) if count is None else np.array(keep)[draw(len(keep), count, seed, "transfer")]
    return read_as(images.select(chosen), 0, background)


def _of_classes(spec: DatasetSpec, named: Named, where: str) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Rows of each split, those of the classes that are asked for, and the classes that they have if that is told."""
    try:
        column = find_label_column(named.features, column_of(spec, named.features), where)
    except DataError:
        if spec.classes is not None:
            raise
        return named.train, ()
    names, ids = class_ids({name: named.splits[name] for name in named.train}, column, where)
    rows = named.train
    if spec.classes is not None:
        chosen = select_classes(spec.classes, names, where)
        rows = {name: own[np.isin(ids[name][own], chosen)] for name, own in rows.items()}
    there = {int(label) for name, own in rows.items() for label in np.unique(ids[name][own])}
    return rows, tuple(names[label] for label in sorted(there) if label >= 0)


def _shared(found: Sequence[str], labels: Sequence[str], *, same: bool) -> list[str]:
    """Classes of both; between data sets without regard to case, and pure numbers say nothing."""
    if same:
        return [name for name in found if name in labels]
    known = {label.casefold() for label in labels}
    return [name for name in found if name.casefold() in known and not name.isdecimal()]
