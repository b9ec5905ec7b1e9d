"""The files of an export, written row by row: JSONL, as it is or packed, or Parquet; put in their places at the end."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from backends.errors import extra_missing
from batch.jsonl import encoded
from batch.packed import TABLE, packed_into

Packing = str
"""`gzip` or `zstd`."""
SPLITS = ("train", "test")
_ENDINGS = {None: ".jsonl", "gzip": ".jsonl.gz", "zstd": ".jsonl.zst"}
_GROUP = 500
"""Rows of a Parquet file that are held in memory."""


def written_in(folder: Path) -> list[Path]:
    """The files of rows that are in a folder, in any form."""
    named = [folder / f"{name}{ending}" for name in SPLITS for ending in (*_ENDINGS.values(), TABLE)]
    return [path for path in named if path.is_file()]


class RowFiles:
    """`train` and `test` in a folder. What is not put in place is not left behind."""

    def __init__(self, folder: Path, *, parquet: bool = False, packing: Packing | None = None) -> None:
        self._folder, self._ending = folder, TABLE if parquet else _ENDINGS[packing]
        self._stack = ExitStack()
        self._new = {name: folder / f".{name}{self._ending}.new" for name in SPLITS}
        self._parquet = {name: _ParquetRows(path) for name, path in self._new.items()} if parquet else {}
        self._packing = packing
        self._open: dict[str, Any] = {}

    def __enter__(self) -> "RowFiles":
        for path in self._new.values():
            path.unlink(missing_ok=True)  # what a crash left, or a link to elsewhere
            self._stack.callback(path.unlink, missing_ok=True)
        if not self._parquet:
            for name, path in self._new.items():
                file = self._stack.enter_context(path.open("wb"))
                self._open[name] = self._stack.enter_context(packed_into(file, self._packing))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, split: str, row: Mapping[str, Any]) -> None:
        """Add a row."""
        if self._parquet:
            self._parquet[split].write(row)
        else:
            self._open[split].write(encoded(row) + b"\n")

    def place(self, rows: Mapping[str, int]) -> dict[str, Path]:
        """Put those with rows in place of what was there in any form; returns where they are."""
        places = {}
        for rows_of_split in self._parquet.values():
            rows_of_split.close()
        for opened in self._open.values():
            opened.close()
        for name in SPLITS:
            if rows[name]:
                places[name] = self._folder / f"{name}{self._ending}"
                self._new[name].replace(places[name])
        for path in written_in(self._folder):
            if path not in places.values():
                path.unlink()
        return places


class _ParquetRows:
    """Rows of `--format parquet`, some hundreds at a time."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise extra_missing("--format parquet", "training") from error
        self._arrow, self._path = pyarrow, path
        self._writer: Any = None
        self._rows: list[Any] = []

    def write(self, row: Mapping[str, Any]) -> None:
        self._rows.append(_sound(dict(row)))
        if len(self._rows) == _GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            schema = self._schema(self._rows[0])
            self._writer = self._writer or self._arrow.parquet.ParquetWriter(self._path, schema)
            self._writer.write_table(self._arrow.Table.from_pylist(self._rows, schema))
            self._rows = []

    def _schema(self, row: Mapping[str, Any]) -> Any:
        """Of texts, whole numbers and truths by what they are in one row; of lists as they always are."""
        arrow = self._arrow
        text, number = arrow.string(), arrow.int64()
        message = arrow.struct([(name, text) for name in ("role", "tool_call_id", "content")])
        lists = {"messages": arrow.list_(message), "train_spans": arrow.list_(arrow.list_(number))}
        plain = {str: text, int: number, bool: arrow.bool_()}
        return arrow.schema([(name, lists.get(name) or plain[type(value)]) for name, value in row.items()])

    def close(self) -> None:
        self._flush()
        if self._writer:
            self._writer.close()


def _sound(value: Any) -> Any:
    """Without lone surrogates, which Parquet cannot hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_sound(name): _sound(one) for name, one in value.items()}
    return [_sound(one) for one in value] if isinstance(value, list | tuple) else value
