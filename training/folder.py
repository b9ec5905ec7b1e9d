"""The folder of an export: its files of rows and its card, put in place together, and over nothing of anyone else's."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from backends.errors import UsageError
from batch.packed import TABLE

CARD = "README.md"
SPLITS = ("train", "test")
ENDINGS = {None: ".jsonl", "gzip": ".jsonl.gz", "zstd": ".jsonl.zst"}
"""Of files of rows, by how they are packed; a table has its own."""
_MARK = b"\n<!-- written by trajgraph export: "
"""At a card's end: what it and the files beside it held when they were written."""
_DIGEST = re.compile(rb"(\S+) ([0-9a-f]{16}) ")
_AS_SIGNED = re.compile(rb"(?:" + _DIGEST.pattern + rb")+-->\n")


def rows_in(folder: Path) -> list[Path]:
    """What stands in a folder where an export has its rows, in any form."""
    named = [folder / f"{name}{ending}" for name in SPLITS for ending in (*ENDINGS.values(), TABLE)]
    return [path for path in named if os.path.lexists(path)]


def check_folder(folder: Path) -> None:
    """Raises UsageError when something stands in the folder that an export would write over, and that none wrote, or
    that was changed since.
    """
    card = folder / CARD
    text, _, mark = card.read_bytes().rpartition(_MARK) if card.is_file() else (b"", b"", b"")
    known = {name.decode(): digest for name, digest in _DIGEST.findall(mark)} if _AS_SIGNED.fullmatch(mark) else {}
    for path in (card, folder / "dataset_info.json", *rows_in(folder)):
        if os.path.lexists(path) and not (
            path.is_file() and known.get(path.name) == (_digest(text) if path == card else _digest_of(path))
        ):
            raise UsageError(
                f"{path} is not an export's, or it or its README.md was changed: give --output a folder of its own"
            )


def placed(new: Mapping[str, Path], texts: Mapping[str, str], folder: Path) -> None:
    """Put files of rows, by the names that they are to have, and texts beside them into a folder, the card last, signed
    so that an export knows them again; what an earlier one left there besides is taken away. Raises UsageError as
    `check_folder` does.
    """
    waiting = next(iter(new.values())).parent
    for name, text in texts.items():
        (waiting / name).write_bytes(text.encode("utf-8", "replace"))
    all_new = {**new, **{name: waiting / name for name in texts}}
    card = all_new.pop(CARD)
    digests = {CARD: _digest(card.read_bytes()), **{name: _digest_of(path) for name, path in all_new.items()}}
    words = " ".join(f"{name} {digest.decode()}" for name, digest in digests.items())
    card.write_bytes(card.read_bytes() + _MARK + f"{words} -->\n".encode())
    check_folder(folder)
    for name, path in all_new.items():
        path.replace(folder / name)
    for path in _others(folder, all_new):
        path.unlink()
    card.replace(folder / CARD)


def _others(folder: Path, names: Iterable[str]) -> list[Path]:
    about = folder / "dataset_info.json"
    return [path for path in (*rows_in(folder), *([about] if about.exists() else [])) if path.name not in names]


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest()[:16].encode()


def _digest_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16].encode()
