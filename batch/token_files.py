"""`--keep-token-ids`: the tokens of each reply, as Parquet beside the records.

A sample's are appended to `…_tokens.jsonl` before its record is written; so many samples become
`…_tokens_part00001.parquet`, the rest when the command ends. Where a process was killed between the two, the sample is
written anew with its record: the rows of a record are those with its `generation_time`.
"""

import fcntl
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from langchain_core.messages import AIMessage, AnyMessage

from backends.errors import UsageError
from backends.json_codec import load_json
from batch.append import Appender
from batch.jsonl import replaced
from batch.parts import parts_of, sync_folder, whole_lines
from serializers.record import Record

MOST = 500
"""Samples in a file."""
_GROUP = 50
"""Samples of which the rows are held in memory."""
_PACKED = ("prompt_ids", "ids", "logprobs")
_EARLIER = "the reply is from before --keep-token-ids"


def token_line(record: Record, messages: Sequence[AnyMessage]) -> dict[str, Any]:
    """What is kept of a sample: for each reply of its record the tokens, or why there are none."""
    replies = [message for message in messages if isinstance(message, AIMessage)]
    rows = [
        {
            "turn": turn, "repairs": reply.additional_kwargs.get("repairs", []),
            **(reply.response_metadata.get("tokens") or {"left_out": _EARLIER}),
        }
        for turn, reply in enumerate(replies, start=1)
    ]  # fmt: skip
    about = {"sample_id": record["sample_id"], "generation_time": record["metadata"]["generation_time"]}
    return {**about, "replies": rows}


def left_out(line: Mapping[str, Any]) -> list[str]:
    """Why replies have no tokens, each reason once."""
    return list(dict.fromkeys(reply["left_out"] for reply in line["replies"] if "left_out" in reply))


def has_unfinished(path: Path) -> bool:
    """Whether there are tokens that are not Parquet yet."""
    return path.exists() or any(part.suffix != ".parquet" for part in parts_of(path).values())


def finish_tokens(path: Path) -> None:
    """All that was appended becomes Parquet. Done again, it changes nothing. Raises UsageError for what cannot."""
    if path.exists():
        Appender(path).seal()
    failed = []
    for part in parts_of(path).values():
        try:
            to_parquet(part)
        except UsageError as error:
            failed.append(str(error))
    if failed:
        raise UsageError("; ".join(failed))


def to_parquet(part: Path) -> None:
    """Turn a sealed part into Parquet: a row for each reply. Raises UsageError for damage, and without pyarrow."""
    plain, made = part.with_suffix(".jsonl"), part.with_suffix(".parquet")
    with suppress(FileNotFoundError), plain.open("rb") as source:
        fcntl.flock(source, fcntl.LOCK_EX)  # perhaps another process of the run is at it
        if plain.exists() and not made.exists():
            _write_table(plain, source, made)
            sync_folder(plain.parent)
        plain.unlink(missing_ok=True)


def _write_table(plain: Path, source: BinaryIO, made: Path) -> None:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(f"{plain}: Parquet is an extra: pip install 'trajgraph[training]'") from error
    with (
        _damage_of(plain),
        replaced(made, binary=True) as target,
        pyarrow.parquet.ParquetWriter(target, _schema(), compression="zstd") as writer,
    ):
        lines = whole_lines(plain, source)
        while group := [*islice(lines, _GROUP)]:
            writer.write_table(_table([*chain.from_iterable(map(_rows, group))]))


@contextmanager
def _damage_of(plain: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{plain}: damaged ({error}); mend it, or move it away: the tokens in it are lost") from error


def _rows(line: bytes) -> Iterator[dict[str, Any]]:
    sample = load_json(line)
    for reply in sample["replies"]:
        yield {"sample_id": sample["sample_id"], "generation_time": sample["generation_time"], **reply}


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    import pyarrow as arrow

    schema = _schema()
    columns = [
        _unpacked([row.get(field.name) for row in rows], field.type.value_type)
        if field.name in _PACKED
        else arrow.array([row.get(field.name) for row in rows], field.type)
        for field in schema
    ]
    return arrow.Table.from_arrays(columns, schema=schema)


def _unpacked(texts: Sequence[str | None], kind: Any) -> Any:
    """A column of lists from their bytes; NaN is null."""
    import pyarrow as arrow
    import pyarrow.compute

    pieces = [b64decode(text or "", validate=True) for text in texts]
    if any(len(piece) % 4 for piece in pieces):
        raise ValueError("half a number")
    ends = [0, *accumulate(len(piece) // 4 for piece in pieces)]
    values = arrow.Array.from_buffers(kind, ends[-1], [None, arrow.py_buffer(b"".join(pieces))])
    if arrow.types.is_floating(kind):
        values = arrow.compute.if_else(arrow.compute.is_nan(values), arrow.scalar(None, kind), values)
    absent = arrow.array([text is None for text in texts])
    return arrow.ListArray.from_arrays(arrow.array(ends, arrow.int32()), values, mask=absent)


def _schema() -> Any:
    import pyarrow as arrow

    text, number = arrow.string(), arrow.int32()
    return arrow.schema({
        "sample_id": text, "generation_time": text, "turn": number, "prompt_ids": arrow.list_(number),
        "ids": arrow.list_(number), "logprobs": arrow.list_(arrow.float32()), "repairs": arrow.list_(text),
        "left_out": text,
    })  # fmt: skip
