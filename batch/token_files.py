"""`--keep-token-ids`: the tokens of each reply, as Parquet beside the records.

A sample's are appended to `…_tokens.jsonl` before its record is written; so many samples become
`…_tokens_part00001.parquet`, the rest when the command ends. Where a process was killed between the two, the sample is
written anew with its record: the rows of a record are those with its `generation_time`.
"""

import fcntl
import glob
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from langchain_core.messages import AIMessage, AnyMessage

from backends.errors import UsageError, extra_missing
from backends.json_codec import load_json
from batch.append import Appender
from batch.jsonl import replaced
from batch.parts import sync_folder
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
    return bool(_plain_parts(path)) or (path.exists() and path.stat().st_size > 0)


def _plain_parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{glob.escape(path.stem)}_part*.jsonl"))


def finish_tokens(path: Path) -> None:
    """All that was appended becomes Parquet. Done again, it changes nothing. Raises UsageError for what cannot."""
    if path.exists():
        Appender(path).seal()
    failed = []
    for part in _plain_parts(path):
        try:
            to_parquet(part)
        except UsageError as error:
            failed.append(str(error))
    if failed:
        raise UsageError("; ".join(failed))


def to_parquet(plain: Path) -> None:
    """Turn a sealed part into Parquet: a row for each reply. Raises UsageError for damage, and without pyarrow."""
    made = plain.with_suffix(".parquet")
    with suppress(FileNotFoundError), plain.open("r+b") as source:
        fcntl.flock(source, fcntl.LOCK_EX)  # perhaps another thread or process of the run is at it
        if plain.exists() and not made.exists():
            _write_table(plain, source, made)
            sync_folder(plain.parent)
        plain.unlink(missing_ok=True)


def _write_table(plain: Path, source: BinaryIO, made: Path) -> None:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise extra_missing(f"{plain}: Parquet", "training") from error
    with (
        replaced(made, binary=True) as target,
        pyarrow.parquet.ParquetWriter(target, _schema(), compression="zstd") as writer,
    ):
        samples = _samples(plain, source)
        while group := [*islice(samples, _GROUP)]:
            writer.write_table(_table([*chain.from_iterable(group)]))


def _samples(plain: Path, source: BinaryIO) -> Iterator[list[dict[str, Any]]]:
    """The rows of each sample, their numbers as bytes. Raises UsageError for damage."""
    for number, line in enumerate(source, start=1):
        try:
            sample = load_json(line)
            key = {"sample_id": str(sample["sample_id"]), "generation_time": str(sample["generation_time"])}
            yield [{**key, **_row(reply)} for reply in sample["replies"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(
                f"{plain}, line {number}: damaged ({type(error).__name__}); take the line out, its tokens are lost"
            ) from error


def _row(reply: Mapping[str, Any]) -> dict[str, Any]:
    packed = {name: b64decode(reply[name], validate=True) for name in _PACKED if reply.get(name) is not None}
    if any(len(numbers) % 4 for numbers in packed.values()):
        raise ValueError("half a number")
    repairs, why = [str(one) for one in reply.get("repairs") or ()], reply.get("left_out")
    return {"turn": int(reply["turn"]), "repairs": repairs, "left_out": None if why is None else str(why), **packed}


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


def _unpacked(pieces: Sequence[bytes | None], kind: Any) -> Any:
    """A column of lists from their bytes; NaN is null."""
    import pyarrow as arrow
    import pyarrow.compute

    ends = [0, *accumulate(len(piece or b"") // 4 for piece in pieces)]
    values = arrow.Array.from_buffers(kind, ends[-1], [None, arrow.py_buffer(b"".join(one or b"" for one in pieces))])
    if arrow.types.is_floating(kind):
        values = arrow.compute.if_else(arrow.compute.is_nan(values), arrow.scalar(None, kind), values)
    absent = arrow.array([piece is None for piece in pieces])
    return arrow.ListArray.from_arrays(arrow.array(ends, arrow.int32()), values, mask=absent)


def _schema() -> Any:
    import pyarrow as arrow

    text, number = arrow.string(), arrow.int32()
    return arrow.schema({
        "sample_id": text, "generation_time": text, "turn": number, "prompt_ids": arrow.list_(number),
        "ids": arrow.list_(number), "logprobs": arrow.list_(arrow.float32()), "repairs": arrow.list_(text),
        "left_out": text,
    })  # fmt: skip
