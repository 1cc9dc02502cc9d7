"""Names of image files in the rows of a table begin in the table's own folder, wherever the program was started."""

import os
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from hf_dtl.data.columns import Splits, kind_of
from hf_dtl.data.selection import DatasetSpec
from hf_dtl.data.sources import EMBEDDED_NAMES


def with_whole_paths(splits: Splits, column: str, spec: DatasetSpec) -> Splits:
    """The same splits; a column of images has whole paths where it has names of files.

    Args:
        splits: split name → data set.
        column: of images; rows that hold an image's bytes stay as they are.
        spec: where the splits come from; those of no local data stay as they are.
    """
    path = Path(spec.name).expanduser()
    if spec.name in EMBEDDED_NAMES or not path.exists():
        return splits
    return {name: _whole(split, column, path) for name, split in splits.items()}


def _whole(split: datasets.Dataset, column: str, path: Path) -> datasets.Dataset:
    table = split.data.table
    at, chunks = table.schema.get_field_index(column), table.column(column).chunks
    struct = kind_of(split.features[column]) != "string"
    if struct and not all(isinstance(c, pa.StructArray) and c.type.get_field_index("path") >= 0 for c in chunks):
        return split
    bare = [pc.and_(c.is_valid(), c.field("bytes").is_null()) if struct else c.is_valid() for c in chunks]
    if not any(rows.true_count for rows in bare):
        return split
    folder, new = (path.parent if path.is_file() else path).absolute(), list[pa.Array]()
    for chunk, rows in zip(chunks, bare, strict=True):
        names = chunk.field("path") if struct else chunk
        pairs = zip(names.to_pylist(), rows.to_pylist(), strict=True)
        paths = pa.array([os.path.join(folder, name) if name and one else name for name, one in pairs], names.type)
        if struct:
            parts = [paths if field.name == "path" else chunk.field(field.name) for field in chunk.type]
            paths = pa.StructArray.from_arrays(parts, fields=list(chunk.type), mask=chunk.is_null())
        new.append(paths)
    table = table.set_column(at, table.schema.field(at), pa.chunked_array(new))
    return datasets.Dataset(table, info=split.info, split=split.split, indices_table=split._indices)
