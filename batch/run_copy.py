"""`--upload-to`: a run's files, copied to a store part by part, so that another machine can go on with it.

In the store there are only whole files: sealed parts with their counts, and at last what says how far the run is.
Nothing is appended to there. The output folder is where the run works; an empty one is filled from the store first.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from backends.errors import UsageError
from batch.config import RunConfig
from batch.find_run import is_same_run
from batch.index import RunIndex
from batch.jsonl import atomic_write
from batch.logs import log
from batch.part_counts import beside, counts_of, finish_parts, read_checked
from batch.parts import number_of, parts_of, seal
from batch.remote import check_writable_store, content_of, get, listed, put, remove
from batch.run_files import KINDS, RunFiles

_RUN = "_run.json"


class RunCopy:
    """The copy of one run. What was copied as it is now is kept beside the run, and not copied again."""

    def __init__(self, files: RunFiles, config: RunConfig) -> None:
        self._files, self._pack = files, config.zstd
        self._address = (config.upload_to or "").rstrip("/")
        self._list = _list_of(files)
        self._done: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            self._done = dict(json.loads(self._list.read_text(encoding="utf-8")))

    def seal_all(self) -> None:
        """At the end of a command: what is appended to becomes a part, however few there are in it."""
        for kind in KINDS:
            path = self._files.outputs[kind]
            if path.exists() and path.stat().st_size:
                seal(path)
            finish_parts(path, kind, pack=self._pack)

    def complete(self) -> None:
        """Copy all of a run that nobody works on. Raises UsageError."""
        self.seal_all()
        RunIndex.read(self._files).save(all_cleaned=True)
        self.update()

    def update(self) -> None:
        """Copy what is new: the parts and their counts first, what tells of them last. Raises UsageError."""
        parts = [part for kind in KINDS for part in parts_of(self._files.outputs[kind]).values() if counts_of(part)]
        files = self._files
        others = [files.run, files.failed, files.superseded, files.log, files.stats, files.index]
        for path in [*(one for part in parts for one in (part, beside(part))), *others]:
            self._put(path)
        for name in [name for name in self._done if not (files.folder / name).exists()]:
            remove(f"{self._address}/{name}")
            self._forget(name)

    def _put(self, path: Path) -> None:
        if path.exists() and self._done.get(path.name) != (stamp := _stamp(path)):
            put(path, f"{self._address}/{path.name}")
            self._done[path.name] = stamp
            self._save()

    def _forget(self, name: str) -> None:
        del self._done[name]
        self._save()

    def _save(self) -> None:
        atomic_write(self._list, [json.dumps(self._done)])


def fetch_missing(config: RunConfig) -> None:
    """Bring to the output folder the runs of a command that the store holds and it does not. Raises UsageError where
    the store cannot be written to, or holds more of a run than the folder: another machine has gone on with it.
    """
    address, folder = (config.upload_to or "").rstrip("/"), config.output
    check_writable_store(address)
    there = {file.name: file for file in listed(address)}
    stems = sorted((name.removesuffix(_RUN) for name in there if name.endswith(_RUN)), key=len)
    of_run = {name: next((stem for stem in reversed(stems) if name.startswith(f"{stem}_")), "") for name in there}
    for stem in stems:
        files, run = RunFiles(folder, stem, ""), there[f"{stem}{_RUN}"]
        names = [name for name in there if of_run[name] == stem and name != run.name]
        names += [files.stats.name] if files.stats.name in there else []
        if files.run.exists():
            _check(files, names, address)
        elif is_same_run(json.loads(content_of(run))["settings"], config):
            log.info("%s has %s, of %d files: it is fetched to %s", address, stem, len(names) + 1, folder)
            for name in [*names, run.name]:  # the run's own last: with it, the run is there
                get(there[name].place, folder / name)
            _keep_times(files)
            done = {name: _stamp(folder / name) for name in [*names, run.name]}
            atomic_write(_list_of(files), [json.dumps(done)])


def _keep_times(files: RunFiles) -> None:
    """Parts are known by their times, too: give them back those under which they were counted."""
    for part in (part for kind in KINDS for part in parts_of(files.outputs[kind]).values()):
        with suppress(OSError, ValueError, KeyError):
            _, size, changed = read_checked(beside(part))["part"]
            if part.stat().st_size == size:
                os.utime(part, ns=(changed, changed))


def _check(files: RunFiles, names: Sequence[str], address: str) -> None:
    for kind in KINDS:
        path = files.outputs[kind]
        known = parts_of(path)
        for name in names:
            if name.startswith(f"{path.stem}_part") and number_of(name) not in {None, *known}:
                raise UsageError(
                    f"--upload-to {address}: it holds {name}, which {files.folder} does not: another machine has gone "
                    "on with this run. Give an empty --output to go on from there"
                )


def _stamp(path: Path) -> list[int]:
    about = path.stat()
    return [about.st_size, about.st_mtime_ns]


def _list_of(files: RunFiles) -> Path:
    return files.folder / f".{files.stem}_uploaded.json"
