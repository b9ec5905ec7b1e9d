"""What the arguments of a command name: folders (all their runs), runs, files of trajectories; each id once."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backends.errors import UsageError
from batch.config import text_sha256
from batch.index import RunIndex
from batch.logs import log
from batch.parts import files_of, parts_of, whole
from batch.records import sample_ids
from batch.run_files import RunFiles, read_run, runs_in
from graph.limits import ToolRole
from serializers.escaping import balanced
from training.folder import rows_in
from training.rows import Row, read_rows

_NO_TRAJECTORIES = re.compile(r"_(rejected|failed|superseded)(_part\d+)?\.jsonl(\.zst)?$")
_BESIDE = re.compile(
    r"_(index|run\.log|run\.lock|failed\.jsonl|part\d+_counts\.json|checkpoints.*\.sqlite.*)$|^trajectory_stats_.*\.json$"
    r"|^pubmed_trajectory_.*_tokens(_part\d+)?\.(jsonl|parquet)$"
)
"""A run's files that hold no trajectories: a shell's `*` names them, too."""
_FUNNEL = ("questions", "accepted", "rejected", "failed", "pending")


@dataclass
class Source:
    """One argument: a set of trajectories in which each id stands once."""

    name: str
    files: list[Path] = field(default_factory=list)
    runs: list[tuple[RunFiles, dict[str, Any]]] = field(default_factory=list)
    _places: dict[str, tuple[Path, int, int]] = field(default_factory=dict)

    def rows(self, path: Path, count: Callable[[str], int] | None = None) -> Iterator[Row]:
        """The rows of one of its files; the same line of another file is the same row. Raises UsageError for an id of
        ours that has been read before; one of others is made another one.
        """
        for row in read_rows(path, count):  # its parts, too
            if row.record.get("sample_id") not in (None, ""):
                before = self._places.setdefault(row.sample_id, (row.path, row.line, row.digest))
                if before[0] != row.path and before[2] == row.digest:
                    continue
                if before[:2] != (row.path, row.line) and row.is_of_others:
                    yield replace(row, record={**row.record, "sample_id": row.apart})
                    continue
                if before[:2] != (row.path, row.line):
                    raise UsageError(
                        f"{row.sample_id} stands twice: {before[0]}, line {before[1]}, and {row.path}, line {row.line}"
                        ". "
                        "Give what is of one run each (runs with an --instance-id have ids of their own)"
                    )
            yield row

    @property
    def settings(self) -> list[dict[str, Any]]:
        """Those of its runs, earlier ones too."""
        kept = [one for _, content in self.runs for one in (*content.get("earlier_settings", ()), content["settings"])]
        return kept or [{"source": self.name}]

    @property
    def funnel(self) -> dict[str, int]:
        """What its runs have done so far, added up."""
        found: dict[str, int] = {}
        for files, _ in self.runs:
            with suppress(OSError, ValueError, KeyError):
                stats = json.loads(files.stats.read_text(encoding="utf-8"))
                now = {**stats, **RunIndex.read(files).stats.counts, "failed": len(list(sample_ids(files.failed)))}
                now["pending"] = stats["samples"] - sum(now[name] for name in ("accepted", "rejected", "failed"))
                found |= {name: found.get(name, 0) + now[name] for name in _FUNNEL}
        return found


@dataclass
class Prompts:
    """The system prompts and tool roles under which trajectories were made, as the runs beside them keep them."""

    texts: dict[str, str] = field(default_factory=dict)
    """By their hash."""
    of_file: dict[Path, Mapping[str, Any]] = field(default_factory=dict)
    """The runs of files that are a run's own."""
    given: str | None = None
    """The one of `--system-prompt-file`: of rows that name it, or none at all."""

    def add(self, content: Mapping[str, Any]) -> None:
        """What a run keeps."""
        kept = {content["settings"].get("prompt_sha256"): content.get("prompt"), **content.get("earlier_prompts", {})}
        self.texts |= {
            sha: text for sha, text in kept.items() if isinstance(text, str) and text_sha256(text) == sha
        }  # fmt: skip

    def is_lost(self, row: Row) -> bool:
        """Whether a row names a prompt that no run keeps."""
        sha = row.metadata.get("prompt_sha256")
        return sha is not None and sha not in self.texts and row.own_prompt is None

    def system(self, row: Row) -> str | None:
        """The system prompt that a row was made under: the one that it names, else its run's; None where none is."""
        return self.given if self.is_given(row) else self._known(row)

    def is_given(self, row: Row) -> bool:
        """Whether a row's prompt is that of `--system-prompt-file`, though it names none; not that of a conversation of
        others, which shows that there was none.
        """
        names_none = row.metadata.get("prompt_sha256") is None and not row.is_of_others
        return self.given is not None and names_none and self._known(row) is None

    def _known(self, row: Row) -> str | None:
        if row.own_prompt is not None:
            return row.own_prompt
        sha = row.metadata.get("prompt_sha256")
        if sha is not None:
            return self.texts.get(sha)
        found = self.of_file.get(whole(row.path), {}).get("prompt")
        return found if isinstance(found, str) else None

    def tool_role(self, row: Row) -> ToolRole:
        """The role of tool outputs in the prompt that the model saw."""
        said = row.metadata.get("tool_role") or self.of_file.get(whole(row.path), {}).get("settings", {}).get(
            "tool_role"
        )
        return "user" if said == "user" else "tool"


def is_run(path: Path) -> bool:
    """Whether a path stands for a run's `…_run.json`, not for a file of trajectories."""
    return path.name.endswith("_run.json")


def sources(given: Sequence[Path], *, rejected: bool = False, together: bool = False) -> list[Source]:
    """What each argument names, or all of them together, with the rejected where they are wanted; says which runs are
    read. Raises UsageError for what is not there, or holds no trajectory.
    """
    named = [(path, *_named(path, rejected=rejected)) for path in given if not _BESIDE.search(path.name)]
    if not named:
        raise UsageError(f"{', '.join(map(str, given))}: none of these holds trajectories")
    wholes = {one.resolve() for _, files, _ in named for one in files if whole(one) == one}
    found, seen = list[Source](), set[Path]()
    for path, files, runs in named:
        apart = [one for one in files if whole(one) == one or whole(one).resolve() not in wholes]
        new = [one for one in apart if not together or one.resolve() not in seen]
        seen |= {one.resolve() for one in new}
        if found and together:
            found[0].files += new
            own = {files.run.resolve() for files, _ in found[0].runs}
            found[0].runs += [run for run in runs if run[0].run.resolve() not in own]
            found[0].name += f" and {path.name}"
        elif new:
            found.append(Source(path.stem if path.is_file() else path.resolve().name, new, runs))
    for source in found:
        if len(source.runs) > 1:
            log.info("%d runs are read: %s", len(source.runs), ", ".join(files.stem for files, _ in source.runs))
    return found


def _named(path: Path, *, rejected: bool) -> tuple[list[Path], list[tuple[RunFiles, dict[str, Any]]]]:
    if not path.exists() and not parts_of(path):
        raise UsageError(f"{path}: No such file or directory")
    if not path.is_dir() and not is_run(path):
        return [path], []
    runs = runs_in(path) if path.is_dir() else [read_run(path)]
    written = {each for files, _ in runs for each in (*files.outputs.values(), files.superseded)}
    own = {each for one in written for each in (one, *files_of(one))}
    loose = [
        each
        for each in (sorted(path.glob("pubmed_trajectory_*.jsonl*")) if path.is_dir() else ())
        if each.suffix in (".jsonl", ".zst") and each not in own and not _BESIDE.search(each.name)
        if rejected or not _NO_TRAJECTORIES.search(each.name)
    ]
    wanted = [(files.trajectories, *((files.rejected,) if rejected else ())) for files, _ in runs]
    found = [*(kind for kinds in wanted for kind in kinds if files_of(kind)), *loose]
    if not found and not runs:
        found = rows_in(path)
    if not found and (only := [files.rejected for files, _ in runs if files_of(files.rejected)]):
        where = ", ".join(map(str, only))
        raise UsageError(f"{path}: no trajectory was accepted; the rejected are in {where}")
    if not found:
        raise UsageError(f"{path}: {'this run has written' if runs else 'no run or export is here, and'} no trajectory")
    return found, runs


def prompts_of(given: Sequence[Source], told: str | None = None) -> Prompts:
    """The prompts that the runs of these arguments keep, and the runs in the folders of their files; and one that the
    user gives.
    """
    own = balanced(told)[0] if told else None  # as a run takes it from its file
    kept = Prompts({text_sha256(own): own} if own else {}, given=own)
    for folder in dict.fromkeys(path.parent for source in given for path in source.files):
        for files, content in runs_in(folder):
            kept.add(content)
            kept.of_file |= dict.fromkeys([files.trajectories, files.rejected], content)
    for source in given:
        for _, content in source.runs:
            kept.add(content)
    return kept
