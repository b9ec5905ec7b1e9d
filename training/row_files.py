"""The files of an export, written row by row: JSONL, as it is or packed, or Parquet; put in their places at the end."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backends.errors import extra_missing
from batch.jsonl import encoded
from batch.packed import TABLE, packed_into
from training.folder import ENDINGS, SPLITS, placed

Packing = str
"""`gzip` or `zstd`."""
_GROUP = 500
"""Rows of a Parquet file that are held in memory."""


class RowFiles:
    """`train` and `test` in a folder. What is not put in place is not left behind."""

    def __init__(self, folder: Path, *, parquet: bool = False, packing: Packing | None = None) -> None:
        self._folder, self._ending = folder, TABLE if parquet else ENDINGS[packing]
        self._stack, self._written = ExitStack(), ExitStack()
        self._is_parquet, self._packing = parquet, packing
        self._new: dict[str, Path] = {}
        self._parquet: dict[str, _ParquetRows] = {}
        self._open: dict[str, Any] = {}

    def __enter__(self) -> "RowFiles":
        waiting = Path(self._stack.enter_context(TemporaryDirectory(prefix=".export-", dir=self._folder)))
        self._new = {name: waiting / f"{name}{self._ending}" for name in SPLITS}
        for name, path in self._new.items():
            if self._is_parquet:
                self._parquet[name] = _ParquetRows(path)
            else:
                file = self._written.enter_context(path.open("wb"))
                self._open[name] = self._written.enter_context(packed_into(file, self._packing))
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            self._written.close()

    def write(self, split: str, row: Mapping[str, Any]) -> None:
        """Add a row."""
        if self._parquet:
            self._parquet[split].write(row)
        else:
            self._open[split].write(encoded(row) + b"\n")

    def named(self, rows: Mapping[str, int]) -> dict[str, str]:
        """What the files of the splits that have rows are called."""
        return {split: f"{split}{self._ending}" for split in SPLITS if rows[split]}

    def place(self, rows: Mapping[str, int], texts: Mapping[str, str]) -> None:
        """Put those with rows, and texts by their names, in place of what an export left there. Raises UsageError where
        something else stands there.
        """
        self._written.close()
        for table in self._parquet.values():
            table.close()
        placed({name: self._new[split] for split, name in self.named(rows).items()}, texts, self._folder)


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
