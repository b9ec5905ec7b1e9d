"""What two models made of the same questions: table.py BEFORE AFTER (folders of runs). Prints a table in Markdown."""

import json
import re
import sys
from pathlib import Path


def rows(folder: str) -> list[dict]:
    """The records, accepted and rejected, of a folder's newest run."""
    newest = max(Path(folder).glob("*_run.json")).name.removesuffix("_run.json")
    files = [Path(folder) / f"{newest}_{kind}.jsonl" for kind in ("incremental", "rejected")]
    return [json.loads(line) for file in files if file.exists() for line in lines(file)]


def lines(file: Path) -> list[str]:
    """Of a JSONL file."""
    return file.read_text(encoding="utf-8").splitlines()


def facts(folder: str) -> dict[str, str]:
    """What is counted of a run."""
    records = rows(folder)
    asked = len(lines(Path("held_out.jsonl")))
    accepted = [one for one in records if not one["metadata"]["reject_reasons"]]
    searched = [one for one in records if one["trajectory"]["tool_calls"]]
    cited = [one for one in records if one["trajectory"]["pmids_cited"]]
    cites = [cite for one in records for cite in cites_of(one)]
    return {
        "accepted": f"{len(accepted)} of {asked}",
        "pass every gate": f"{sum(not one['metadata']['gates'] for one in accepted)} of {asked}",
        "called a tool": f"{len(searched)} of {asked}",
        "answered with citations": f"{len(cited)} of {asked}",
        "cited sentences that stand in the cited paper": f"{sum(cites)} of {len(cites)}",
    }


def cites_of(record: dict) -> list[bool]:
    """Of each cited sentence, whether the paper that is cited says so."""
    shown = dict(
        re.findall(r'<snippet id="(\d+)">(.*?)</snippet>', record["trajectory"]["interleaved_text"], re.DOTALL)
    )
    cites = re.findall(r'<cite id="(\d+)">(.*?)</cite>', record["trajectory"]["final_answer"], re.DOTALL)
    return [bool(sentence.strip()) and sentence in shown.get(identity, "") for identity, sentence in cites]


before, after = map(facts, sys.argv[1:])
print("| | before | after |\n| --- | --- | --- |")
for name in before:
    print(f"| {name} | {before[name]} | {after[name]} |")
