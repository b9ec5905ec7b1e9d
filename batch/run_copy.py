"""`--upload-to`: a run's files, copied to a store part by part, so that another machine can go on with it.

In the store there are only whole files: sealed parts with their counts, and at last what says how far the run is.
Nothing is appended to there, and no part that another machine has put there is replaced. The output folder is where the
run works; an empty one is filled from the store first.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from backends.errors import UsageError
from batch.append import Appender
from batch.config import RunConfig
from batch.find_run import is_same_run
from batch.index import RunIndex
from batch.jsonl import atomic_write
from batch.logs import log
from batch.packed import lines_in
from batch.part_counts import beside, counts_of, finish_parts, read_checked
from batch.parts import number_in, parts_of
from batch.remote import RemoteFile, check_writable_store, content_of, get, listed, put, remove
from batch.run_files import KINDS, RunFiles
from batch.token_files import finish_tokens

_RUN = "_run.json"
_OTHERS = r"run\.json|index|run\.log|failed\.jsonl|superseded\.jsonl"
_PARTS = r"(?:incremental|rejected)_part\d{5,}(?:_counts\.json|\.jsonl(?:\.zst)?)|tokens_part\d{5,}\.parquet"


class RunCopy:
    """The copy of one run. What was copied as it is now is kept beside the run, and not copied again: by name, the size
    and time of the file here, and the size and hash of the one in the store.
    """

    def __init__(self, files: RunFiles, config: RunConfig) -> None:
        self._files, self._pack = files, config.zstd
        self._address = _address_of(config)
        self._list = files.folder / f".{files.stem}_uploaded.json"
        self._all: dict[str, dict[str, Any]] = {}
        with suppress(OSError, ValueError, TypeError):
            self._all = dict(json.loads(self._list.read_text(encoding="utf-8")))
        self._done = self._all.setdefault(self._address, {})

    def seal_all(self) -> None:
        """At the end of a command: what is appended to becomes a part, however few there are in it."""
        for kind in KINDS:
            path = self._files.outputs[kind]
            if path.exists():
                Appender(path).seal()
            finish_parts(path, kind, pack=self._pack)

    def complete(self) -> None:
        """Copy all of a run that is complete. Raises UsageError where another process is at work on it."""
        with self._files.locked():
            self.seal_all()
            RunIndex.read(self._files).save(all_cleaned=True)
            self.update(at_end=True)

    def update(self, *, at_end: bool = False) -> None:
        """Copy what is new: the parts and their counts first, what tells of them last; the log at the end. Raises
        UsageError.
        """
        files = self._files
        self._put(files.superseded)  # before the parts that it was taken from
        sealed = [part for kind in KINDS for part in parts_of(files.outputs[kind]).values()]
        self._put_tokens(finish=at_end or not all(map(self._is_there, sealed)))
        for part in sealed:
            if not (self._is_there(part) and self._is_there(beside(part))):
                if not counts_of(part):  # just being sealed
                    continue
                self._put(part)
                self._put(beside(part))
            if part.suffix == ".zst" and part.stem in self._done:  # it was copied before it was packed
                remove(f"{self._address}/{part.stem}")
                del self._done[part.stem]
                self._save()
        for path in (*((files.log, files.failed) if at_end else ()), files.run, files.stats, files.index):
            self._put(path)
        if not files.failed.exists() and self._done.pop(files.failed.name, None):
            remove(f"{self._address}/{files.failed.name}")
            self._save()

    def _put_tokens(self, *, finish: bool) -> None:
        """Those of all records that are sealed by now: they were appended before."""
        if finish:
            with suppress(UsageError):  # said at the end of the run
                finish_tokens(self._files.tokens)
        for part in parts_of(self._files.tokens).values():
            if part.suffix == ".parquet":
                self._put(part)

    def _put(self, path: Path) -> None:
        if path.exists() and not self._is_there(path):
            stamp = _stamp(path)
            self._note(path, stamp, put(path, f"{self._address}/{path.name}"))
            self._save()

    def _is_there(self, path: Path) -> bool:
        """Whether a file was copied as it is now."""
        known = self._done.get(path.name)
        return known is not None and path.exists() and known["here"] == _stamp(path)

    def _note(self, path: Path, stamp: list[int], there: RemoteFile) -> None:
        self._done[path.name] = {"here": stamp, "there": [there.size, there.hash]}

    def _save(self) -> None:
        atomic_write(self._list, [json.dumps(self._all)])

    def fetch(self, there: Mapping[str, RemoteFile]) -> None:
        """Bring all of it here; the run's own file last: with it, the run is there."""
        for name in sorted(there, key=lambda name: name.endswith(_RUN)):
            get(there[name].place, self._files.folder / name)
        self._keep_times()
        for name, file in there.items():
            path = self._files.folder / name
            self._note(path, _stamp(path), file)
        self._save()

    def _keep_times(self) -> None:
        """Parts are known by their times, too: give them back those under which they were counted."""
        for part in (part for kind in KINDS for part in parts_of(self._files.outputs[kind]).values()):
            with suppress(OSError, ValueError, KeyError):
                _, size, changed = read_checked(beside(part))["part"]
                if part.stat().st_size != size:
                    raise UsageError(f"{self._address}/{part.name} is damaged: it is not of the size that was counted")
                os.utime(part, ns=(changed, changed))

    def compare(self, there: Mapping[str, RemoteFile]) -> None:
        """Before the run goes on: what is in the store must be what was copied from here, or came from there. Raises
        UsageError where it is not.
        """
        before = dict(self._done)
        for name in before.keys() - there.keys():
            del self._done[name]
        for name, file in there.items():
            if not any(number_in(self._files.outputs[kind], name) for kind in KINDS):
                continue
            here, known = self._files.folder / name, self._done.get(name)
            packed = here.with_name(f"{name}.zst")
            if known and known["there"] == [file.size, file.hash]:
                if here.exists() or packed.exists():
                    continue
                raise UsageError(
                    f"--upload-to {self._address}: it holds {name}, which is gone from {here.parent}. Put it back; to "
                    "have its questions asked again, remove it and its counts there, too"
                )
            if not known:
                content = content_of(file)
                if here.exists() and here.read_bytes() == content:
                    self._note(here, _stamp(here), file)
                    continue
                if _holds_packed(packed, content):
                    self._note(here, [], file)
                    continue
            raise UsageError(
                f"--upload-to {self._address}: it holds another {name} than {here.parent}: another machine has gone on "
                "with this run. Give an empty --output to go on from there"
            )
        if self._done != before:
            self._save()


def fetch_missing(config: RunConfig) -> None:
    """Bring to the output folder the runs of a command that the store holds and it does not. Raises UsageError where
    the store cannot be written to, or holds something else of a run than the folder.
    """
    address = _address_of(config)
    check_writable_store(address)
    there = {file.name: file for file in listed(address)}
    for run in sorted(config.output.glob(f"*{_RUN}")):
        if run.name not in there:  # what was copied once is no longer there
            RunCopy(RunFiles(config.output, run.name.removesuffix(_RUN), ""), config).compare({})
    for files, own in _runs_in(config.output, there):
        if not _is_wanted(own[files.run.name], config):
            continue
        if files.run.exists():
            RunCopy(files, config).compare(own)
        else:
            log.info("%s has %s, of %d files: it is fetched to %s", address, files.stem, len(own), config.output)
            config.output.mkdir(parents=True, exist_ok=True)
            RunCopy(files, config).fetch(own)


def _runs_in(folder: Path, there: Mapping[str, RemoteFile]) -> Iterator[tuple[RunFiles, dict[str, RemoteFile]]]:
    for name in sorted(name for name in there if name.endswith(_RUN)):
        files = RunFiles(folder, name.removesuffix(_RUN), "")
        own = re.compile(rf"{re.escape(files.stem)}_(?:{_OTHERS}|{_PARTS})|{re.escape(files.stats.name)}")
        yield files, {one: file for one, file in there.items() if own.fullmatch(one)}


def _is_wanted(run: RemoteFile, config: RunConfig) -> bool:
    try:
        return is_same_run(json.loads(content_of(run))["settings"], config)
    except (ValueError, KeyError, TypeError, AttributeError):
        log.warning("left out: %s is no run", run.place)
        return False


def _holds_packed(path: Path, content: bytes) -> bool:
    """Whether a packed part is this."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        return b"".join(lines_in(path.name, file)) == content


def _address_of(config: RunConfig) -> str:
    return (config.upload_to or "").rstrip("/")


def _stamp(path: Path) -> list[int]:
    about = path.stat()
    return [about.st_size, about.st_mtime_ns]
