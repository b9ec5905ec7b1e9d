"""A report: one page that holds everything and asks no network. Whatever a trajectory says is text in it."""

import base64
import gzip
import hashlib
import html
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from batch.logs import log
from quality.citations import Citation
from quality.gates import DEFAULT_HARD_GATES, GATES, Thresholds, failed_gates, is_error
from serializers.cites import cites
from serializers.segments import Segment, body_start, snippets
from training.rows import Row, Unknown
from training.sources import Source

_PAGE = Path(__file__).with_name("report.html")
_SCRIPT = re.compile(r"<script>\n(.*)</script>", re.DOTALL)
_TOOL = re.compile(r"""name\s{0,4}=\s{0,4}["']?([\w-]{1,60})""")
_CHUNK = 40
"""Trajectories that are packed together: unpacked when the first of them is opened."""
_BINS = 14
_TITLES = {
    "think": "thought",
    "call_tool": "call",
    "tool_output": "result",
    "answer": "answer",
    "text": "beside the protocol",
}


def write_report(target: IO[str], given: Sequence[Source], thresholds: Thresholds) -> int:
    """Write the page for what the arguments name; returns how many trajectories are in it."""
    index: dict[str, Any] = {"runs": [], "rows": [], "gates": list(GATES), "files": []}
    blocks: list[str] = []
    packed: list[Any] = []
    every: list[_Numbers] = []
    unknown = Unknown()

    def pack() -> None:
        if packed:
            content = gzip.compress(json.dumps(packed, ensure_ascii=False).encode("utf-8", "replace"), 6, mtime=0)
            blocks.append(_block(f"chunk-{len(blocks)}", base64.b64encode(content).decode()))
            packed.clear()

    for source in given:
        numbers = _Numbers(source.funnel)
        for path in source.files:
            for row in source.rows(path):
                unknown.add(row)
                if row.unknown:
                    continue
                failed = failed_gates(row.parsed, thresholds) if row.record else {}
                numbers.add(row, list(failed))
                index["rows"].append(
                    {"i": row.sample_id, "q": row.question, "f": len(index["files"]), "g": list(failed),
                     "c": [len(blocks), len(packed)]}
                )  # fmt: skip
                packed.append({"facts": _facts(row), "pieces": list(_pieces(row, failed))})
                if len(packed) == _CHUNK:
                    pack()
            index["files"].append(path.name)
        pack()
        every.append(numbers)
        index["runs"].append({"name": source.name, "line": numbers.line(source)})
    for line in unknown.lines():
        log.warning("left out, a shape I do not know: %s", line)
    index["charts"] = _charts(every)
    index["about"] = f"{len(index['rows']):,} trajectories"
    page = _PAGE.read_text(encoding="utf-8")
    script = _SCRIPT.search(page)
    assert script
    digest = base64.b64encode(hashlib.sha256(f"\n{script[1]}".encode()).digest()).decode()
    title = html.escape(" and ".join(source.name for source in given))
    data = _block("index", json.dumps(index, ensure_ascii=False).replace("<", "\\u003c"))
    before, after = page.replace("@HASH@", digest).split("@DATA@")
    target.write(before.replace("@TITLE@", title) + data)
    target.writelines(blocks)
    target.write(after)
    return len(index["rows"])


class _Numbers:
    """A run at a glance."""

    def __init__(self, asked: Mapping[str, int]) -> None:
        self.counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("funnel", "stop reasons", "gates failed", "tool errors", "citations")
        }
        self.counts["funnel"].update(
            {name: asked[name] for name in ("questions", "pending", "failed") if name in asked}
        )
        self.sizes: dict[str, Counter[int]] = {name: Counter() for name in ("calls", "thousand tokens", "seconds")}
        self.models: dict[str, None] = {}
        self.tokens = 0
        self.first, self.last = "", ""
        """When the first and the last of them were made."""

    def add(self, row: Row, failed: Sequence[str]) -> None:
        funnel, metadata = self.counts["funnel"], row.metadata
        self.tokens += row.tokens
        if isinstance(model := metadata.get("model"), str):
            self.models[model] = None
        if isinstance(made := metadata.get("generation_time"), str) and made:
            self.first, self.last = min(self.first or made, made), max(self.last, made)
        funnel["trajectories"] += 1
        funnel["whole answer"] += any(piece.closed for piece in row.parsed.of("answer"))
        funnel["accepted"] += not (
            set(failed) & set(DEFAULT_HARD_GATES) if row.reject_reasons is None else row.reject_reasons
        )
        funnel["every gate"] += not failed
        self.counts["stop reasons"][str(metadata.get("stop_reason", "not said"))] += 1
        self.counts["gates failed"].update(failed)
        names = {piece.call: _TOOL.search(piece.attributes) for piece in row.parsed.of("call_tool")}
        for piece in row.parsed.of("tool_output"):
            if is_error(piece):
                name = names.get(piece.call)
                self.counts["tool errors"][name[1] if name else "unnamed"] += 1
        self.counts["citations"].update(citation.verdict for citation in row.parsed.cited)
        missing = sum(bool(citation.numbers_missing) for citation in row.parsed.cited)
        self.counts["citations"].update({"numbers missing": missing} if missing else {})
        self.sizes["calls"][len(row.parsed.of("call_tool"))] += 1
        self.sizes["thousand tokens"][row.tokens // 1000] += 1
        if row.seconds is not None:
            self.sizes["seconds"][int(row.seconds)] += 1

    def line(self, source: Source) -> str:
        """The run in a line: acceptance, model, temperature, date, tokens."""
        funnel = self.counts["funnel"]
        share = f"{100 * funnel['accepted'] / funnel['trajectories']:.0f}%" if funnel["trajectories"] else "none"
        settings = [content["settings"] for _, content in source.runs]
        temperatures = sorted({f"{one['temperature']:g}" for one in settings if "temperature" in one})
        dates = sorted({self.first[:10], self.last[:10]} - {""})
        parts = [
            f"{share} accepted ({funnel['accepted']:,} of {funnel['trajectories']:,})", ", ".join(self.models),
            f"temperature {', '.join(temperatures)}" if temperatures else "", " to ".join(dates),
            f"{self.tokens:,} tokens",
        ]  # fmt: skip
        return " · ".join(filter(None, parts))


def _charts(runs: Sequence[_Numbers]) -> list[list[Any]]:
    """`[title, [[label, value of each run]…]]`: the same labels and steps for all runs, in the order of the first."""
    charts = []
    for title in runs[0].counts:
        every = Counter[str]()
        for run in runs:
            every.update(run.counts[title])
        labels = list(dict.fromkeys(name for run in runs for name in run.counts[title]))
        if title != "funnel":
            labels.sort(key=lambda label: -every[label])
        if labels:
            charts.append([title, [[label, [run.counts[title][label] for run in runs]] for label in labels]])
    for title in runs[0].sizes:
        if any(run.sizes[title] for run in runs):
            charts.append([title, _bins([run.sizes[title] for run in runs])])
    return charts


def _bins(runs: Sequence[Counter[int]]) -> list[list[Any]]:
    """`[label, values]` from the least to the most, without a gap, in so few steps that they can be seen; what is zero
    has a step to itself.
    """
    zeros = [counts[0] for counts in runs]
    sizes = [size for counts in runs for size in counts if size]
    found: list[list[Any]] = [["0", zeros]] if any(zeros) else []
    if not sizes:
        return found
    least, most = min(sizes), max(sizes)
    width = (most - least) // _BINS + 1
    for start in range(least, most + 1, width):
        step = range(start, start + width)
        values = [sum(count for size, count in counts.items() if size in step and size) for counts in runs]
        found.append([f"{start}" if width == 1 else f"{start} to {start + width - 1}", values])
    return found


def _facts(row: Row) -> str:
    metadata: Mapping[str, Any] = row.metadata
    facts = [f"{len(row.parsed.of('call_tool'))} calls", f"about {row.tokens:,} tokens"]
    facts += [f"ended by {metadata['stop_reason']}"] if metadata.get("stop_reason") else []
    facts += [f"rejected: {', '.join(row.reject_reasons)}"] if row.reject_reasons else []
    return " · ".join(facts)


def _pieces(row: Row, failed: Mapping[str, Sequence[Segment]]) -> Iterator[dict[str, Any]]:
    """The timeline: each piece with its kind, title, call number, parts (text, snippets, citations), and the gates that
    it fails.
    """
    by_start: dict[int, list[Citation]] = {}
    for citation in row.parsed.cited:
        by_start.setdefault(citation.start, []).append(citation)
    for piece in row.parsed.segments:
        number = f" {piece.call}" if piece.call else ""
        title = (
            f"{_TITLES[piece.kind]}{number}{'' if piece.closed else ', left open'} {piece.attributes.strip()}".strip()
        )
        parts = _result(piece) if piece.kind == "tool_output" else _written(piece, by_start)
        wrong = [name for name, segments in failed.items() if any(one is piece for one in segments)]
        yield {"k": piece.kind, "t": title, "n": piece.call, "p": parts, **({"g": wrong} if wrong else {}),
               **({"e": 1} if piece.kind == "tool_output" and is_error(piece) else {})}  # fmt: skip


def _result(piece: Segment) -> list[Any]:
    parts: list[Any] = []
    offset, at = piece.start + len("<tool_output>"), 0
    for snippet in snippets([piece]):
        start = snippet.start - offset
        parts.append(piece.body[at:start])
        parts.append({"s": snippet.place, "x": f"{snippet.paper_id}\n{snippet.text}"})
        end = piece.body.find("</snippet>", start)
        at = end + len("</snippet>") if end >= 0 else start + len(snippet.text)
    return [*parts, piece.body[at:]]


def _written(piece: Segment, by_start: Mapping[int, list[Citation]]) -> list[Any]:
    parts: list[Any] = []
    offset, at = body_start(piece), 0
    for cite in cites([piece]):
        parts.append(piece.body[at : cite.start - offset])
        at = cite.end - offset
        for number, citation in enumerate(by_start.get(cite.start, [])):
            where = f"call {citation.call}, place {citation.place}" if citation.place else "no snippet shows it"
            missing = f"; not in it: {', '.join(citation.numbers_missing)}" if citation.numbers_missing else ""
            parts.append(
                {"i": citation.paper_id or "no id", "x": cite.claim if number == 0 else "", "v": citation.verdict,
                 "h": f"{citation.verdict}: {where}{missing}", "to": f"s-{citation.call}-{citation.place}"}
            )  # fmt: skip
    return [*parts, piece.body[at:]]


def _block(paper_id: str, content: str) -> str:
    return f'<script type="application/octet-stream" id="{paper_id}">{content}</script>\n'
