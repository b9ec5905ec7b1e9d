"""What the check of a large questions file found, kept beside the runs, so that the same file is not checked again."""

import hashlib
import json
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from backends.errors import UsageError
from batch.jsonl import atomic_write
from batch.question_parts import question_parts
from batch.questions import BadRow, QuestionsFile, Share, check_questions
from batch.remote import RemoteFile

_LARGE = 10_000
_MOST_BAD = 1_000


def checked_questions(
    path: Path | str, folder: Path, *, skip_bad_rows: bool, limit: int | None, share: Share, dedupe: bool
) -> QuestionsFile:
    """As `check_questions`, from what is kept in `folder` where the file is the very same: by its size, its times and
    its place on the disk, or by the hash that its store keeps.
    """
    known = None if dedupe else _kept(path, folder)
    if known and (skip_bad_rows or not known.bad):
        return replace(known, limit=limit, share=share)
    stamp = _identity(path)
    found = check_questions(path, skip_bad_rows=skip_bad_rows, limit=limit, share=share, dedupe=dedupe)
    if found.rows >= _LARGE and len(found.bad) <= _MOST_BAD and not dedupe and stamp == _identity(path):
        content = {item.name: getattr(found, item.name) for item in fields(found)}
        content |= {"path": str(path), "limit": None, "share": None, "identity": stamp}
        content["bad"] = [[row.line, row.row_number, row.why] for row in found.bad]
        with suppress(OSError):  # it only saves reading
            atomic_write(_cache(path, folder), [json.dumps(content)])
    return found


def _kept(path: Path | str, folder: Path) -> QuestionsFile | None:
    try:
        stored: dict[str, Any] = json.loads(_cache(path, folder).read_text(encoding="utf-8"))
        if not (now := _identity(path)) or stored.pop("identity") != now:
            return None
        return QuestionsFile(
            **{**stored, "path": path, "bad": tuple(BadRow(*row) for row in stored["bad"]), "share": Share(),
               "stamp": tuple(map(tuple, stored["stamp"])), "first_repeated": tuple(stored["first_repeated"])}
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _cache(path: Path | str, folder: Path) -> Path:
    where = str(path.absolute() if isinstance(path, Path) else path)
    return folder / f".{hashlib.sha256(where.encode('utf-8', 'replace')).hexdigest()[:16]}_questions"


def _identity(path: Path | str) -> list[list[Any]] | None:
    try:
        found = [_identity_of(part) for part in question_parts(path)]
    except (OSError, UsageError):
        return None
    return found if all(found) else None


def _identity_of(part: Path | RemoteFile) -> list[Any]:
    if isinstance(part, RemoteFile):
        return [part.place, part.size, part.hash] if part.hash else []
    about = part.stat()
    return [part.name, about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns]
