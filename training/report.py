"""A report: one page that holds everything and asks no network. Whatever a trajectory says is text in it."""

import base64
import gzip
import hashlib
import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from serializers.citations import Citation
from serializers.gates import GATES, Thresholds, estimated_tokens, violated
from serializers.segments import Segment, cites, snippets
from training.rows import Row

_PAGE = Path(__file__).with_name("report.html")
_SCRIPT = re.compile(r"<script>\n(.*)</script>", re.DOTALL)
_TOOL = re.compile(r"""name\s{0,4}=\s{0,4}["']?([\w-]{1,60})""")
_CHUNK = 40
"""Trajectories that are packed together: unpacked when the first of them is opened."""
_TITLES = {
    "think": "thought",
    "call_tool": "call",
    "tool_output": "result",
    "answer": "answer",
    "text": "beside the protocol",
}


def write_report(
    target: IO[str], runs: Sequence[tuple[str, Sequence[Path], Iterable[Row]]], thresholds: Thresholds
) -> int:
    """Write the page for runs (name, files, rows); returns how many trajectories are in it."""
    files = [path for _, paths, _ in runs for path in paths]
    index: dict[str, Any] = {"runs": [], "rows": [], "gates": list(GATES), "files": [path.name for path in files]}
    blocks: list[str] = []
    packed: list[Any] = []

    def pack() -> None:
        if packed:
            content = gzip.compress(json.dumps(packed, ensure_ascii=False).encode("utf-8", "replace"), 6, mtime=0)
            blocks.append(_block(f"chunk-{len(blocks)}", base64.b64encode(content).decode()))
            packed.clear()

    for name, _, rows in runs:
        numbers = _Numbers()
        for row in rows:
            failed = violated(row.apart, thresholds) if row.record else []
            numbers.add(row, failed)
            index["rows"].append(
                {"i": row.sample_id, "q": row.question, "f": files.index(row.path), "g": failed,
                 "c": [len(blocks), len(packed)]}
            )  # fmt: skip
            packed.append({"facts": _facts(row), "pieces": list(_pieces(row))})
            if len(packed) == _CHUNK:
                pack()
        pack()
        index["runs"].append({"name": name, "charts": numbers.charts()})
    index["about"] = f"{len(index['rows']):,} trajectories"
    page = _PAGE.read_text(encoding="utf-8")
    script = _SCRIPT.search(page)
    assert script
    digest = base64.b64encode(hashlib.sha256(f"\n{script[1]}".encode()).digest()).decode()
    title = html.escape(" and ".join(name for name, _, _ in runs))
    data = _block("index", json.dumps(index, ensure_ascii=False).replace("<", "\\u003c"))
    before, after = page.replace("@HASH@", digest).replace("@TITLE@", title).split("@DATA@")
    target.write(before + data)
    target.writelines(blocks)
    target.write(after)
    return len(index["rows"])


class _Numbers:
    """A run at a glance."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("funnel", "stop reasons", "gates failed", "tool errors", "citations")
        }
        self._sizes: dict[str, Counter[int]] = {name: Counter() for name in ("calls", "thousand tokens", "seconds")}

    def add(self, row: Row, failed: Sequence[str]) -> None:
        funnel, metadata = self._counts["funnel"], row.metadata
        funnel["trajectories"] += 1
        funnel["whole answer"] += any(piece.closed for piece in row.apart.of("answer"))
        funnel["accepted"] += not metadata.get("reject_reasons", failed)
        funnel["every gate"] += not failed
        self._counts["stop reasons"][str(metadata.get("stop_reason", "not said"))] += 1
        self._counts["gates failed"].update(failed)
        names = {piece.call: _TOOL.search(piece.attributes) for piece in row.apart.of("call_tool")}
        for piece in row.apart.of("tool_output"):
            if piece.body.lstrip().startswith("Error:"):
                name = names.get(piece.call)
                self._counts["tool errors"][name[1] if name else "unnamed"] += 1
        self._counts["citations"].update(citation.verdict for citation in row.apart.cited)
        self._sizes["calls"][len(row.apart.of("call_tool"))] += 1
        self._sizes["thousand tokens"][estimated_tokens(row.text) // 1000] += 1
        seconds = metadata.get("model_seconds")
        if isinstance(seconds, int | float):
            self._sizes["seconds"][int(seconds) // 10 * 10] += 1

    def charts(self) -> list[list[Any]]:
        """`[title, [[label, value]…]]`."""
        counted = [
            [title, [list(pair) for pair in (counts.items() if title == "funnel" else counts.most_common(10))]]
            for title, counts in self._counts.items() if counts
        ]  # fmt: skip
        sized = [
            [title, [[str(size), counts[size]] for size in sorted(counts)[:14]]]
            for title, counts in self._sizes.items() if counts
        ]  # fmt: skip
        return counted + sized


def _facts(row: Row) -> str:
    metadata: Mapping[str, Any] = row.metadata
    facts = [f"{len(row.apart.of('call_tool'))} calls", f"about {estimated_tokens(row.text):,} tokens"]
    facts += [f"ended by {metadata['stop_reason']}"] if metadata.get("stop_reason") else []
    facts += [f"rejected: {', '.join(map(str, metadata['reject_reasons']))}"] if metadata.get("reject_reasons") else []
    return " · ".join(facts)


def _pieces(row: Row) -> Iterator[dict[str, Any]]:
    """The timeline: each piece with its kind, title, call number and parts (text, snippets, citations)."""
    by_start: dict[int, list[Citation]] = {}
    for citation in row.apart.cited:
        by_start.setdefault(citation.start, []).append(citation)
    for piece in row.apart.pieces:
        number = f" {piece.call}" if piece.call else ""
        title = (
            f"{_TITLES[piece.kind]}{number}{'' if piece.closed else ', left open'} {piece.attributes.strip()}".strip()
        )
        parts = _result(piece) if piece.kind == "tool_output" else _written(piece, by_start)
        yield {"k": piece.kind, "t": title, "n": piece.call, "p": parts}


def _result(piece: Segment) -> list[Any]:
    parts: list[Any] = []
    offset, at = piece.start + len("<tool_output>"), 0
    for snippet in snippets([piece]):
        start = snippet.start - offset
        parts.append(piece.body[at:start])
        parts.append({"s": snippet.place, "x": f"{snippet.identity}\n{snippet.text}"})
        end = piece.body.find("</snippet>", start)
        at = end + len("</snippet>") if end >= 0 else start + len(snippet.text)
    return [*parts, piece.body[at:]]


def _written(piece: Segment, by_start: Mapping[int, list[Citation]]) -> list[Any]:
    parts: list[Any] = []
    closing = len(f"</{piece.kind}>") if piece.closed and piece.kind != "text" else 0
    offset, at = piece.end - closing - len(piece.body), 0
    for cite in cites([piece]):
        start = cite.start - offset
        parts.append(piece.body[at:start])
        for number, citation in enumerate(by_start.get(cite.start, [])):
            where = f"call {citation.call}, place {citation.place}" if citation.place else "no snippet shows it"
            missing = f"; not in it: {', '.join(citation.numbers_missing)}" if citation.numbers_missing else ""
            parts.append(
                {"i": citation.identity, "x": cite.claim if number == 0 else "", "v": citation.verdict,
                 "h": f"{citation.verdict}: {where}{missing}", "to": f"s-{citation.call}-{citation.place}"}
            )  # fmt: skip
        end = piece.body.find("</cite>", start)
        at = end + len("</cite>") if end >= 0 else len(piece.body)
    return [*parts, piece.body[at:]]


def _block(identity: str, content: str) -> str:
    return f'<script type="application/octet-stream" id="{identity}">{content}</script>\n'
