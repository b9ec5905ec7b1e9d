"""The card of an exported data set: what is in it, how it was made, what was left out."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from training.export import ExportResult
from training.features import features
from training.recipes import kept_at, recipes

_MEANINGS = {
    "messages": "the conversation: `role`, `content`, and `tool_call_id` of what a tool gave",
    "conversations": "the conversation, under the names of its format",
    "system": "the system prompt", "system_prompt": "what the model was told first",
    "tools": "empty: the system prompt describes them",
    "prompt": "what both trajectories begin with: prompt, question, turns and results",
    "chosen": "the next reply in the one that passes the hard gates",
    "rejected": "the next reply in the one that does not", "rejected_id": "the trajectory that does not",
    "question": "the question",
    "text": "the interleaved text: thoughts, calls, results, answer",
    "train_spans": "what the model wrote: `[start, end]` in the text, or `[message, start, end]`",
    "sample_id": "the trajectory", "topic": "of the question", "question_type": "of the question",
    "schema_version": "of ATIF, the Agent Trajectory Interchange Format", "session_id": "the run",
    "trajectory_id": "the trajectory", "agent": "what made it",
    "steps": "prompt, question, replies with what tools gave",
    "interleaved_text": "thoughts, calls, results, answer", "final_answer": "the answer",
    "tool_calls": "each call with its result; `parameters` and `result` are JSON in a text",
    "pmids_cited": "the papers that the answer cites", "model": "its name at the server",
    "stop_reason": "why it ended", "gates": "those that it fails", "reject_reasons": "the hard ones among them",
    "metadata": "JSON in a text: how it was made, with replies that were asked again",
    "final_metrics": "tokens in all", "extra": "what ATIF has no place for",
    "tokens": "of the whole conversation",
}  # fmt: skip
_LONGEST, _TOOLS = 400, 20
_PUBMED = (
    "titles and abstracts are PubMed's (National Library of Medicine; abstracts may be under copyright of their\n"
    "publishers), "
)
_NO_LENGTHS = (
    "Exported with the model's folder as `--tokenizer`, this card says at which length a trainer cuts no row, and has\n"
    "the lines to paste."
)


def card(
    done: ExportResult,
    runs: Sequence[Mapping[str, Any]],
    funnel: Mapping[str, Any],
    format_name: str,
    token_limit: int,
    how_counted: str,
    *,
    is_of_rows: bool,
) -> str:
    """The text of `README.md`. A length is advised where tokens are counted of whole rows, as they are trained on."""
    configs = "\n".join(f"  - split: {name}\n    path: {path.name}" for name, path in done.files.items())
    names = dict.fromkeys(name for run in runs for name in run)
    settings = _table({name: _together([run.get(name) for run in runs]) for name in names})
    counts = _table({**funnel, **{f"of these, fail {name}": count for name, count in done.gates.items()}})
    tools = _table(dict(done.tools.most_common(_TOOLS)))
    of_pubmed = "pubmed_search" in done.tools
    nudged = f"\n\n{done.nudges_said()}." if done.nudged else ""
    columns = _table({f"`{name}`": _meaning(name) for name in done.sample})
    sizes = Counter(min(tokens // 2048, 15) for tokens in done.tokens)
    histogram = "\n".join(
        f"| {at * 2048:,}{'+' if at == 15 else f' to {(at + 1) * 2048:,}'} | {sizes[at]} |" for at in sorted(sizes)
    )
    lengths = _lengths(done, format_name) if is_of_rows else _NO_LENGTHS
    rows = sum(done.rows[name] for name in ("train", "test"))
    kind = "pairs of replies" if format_name == "dpo" else "trajectories"
    fit = sum(tokens <= token_limit for tokens in done.tokens)
    sample = json.dumps(_shortened(done.sample), ensure_ascii=False, indent=1)
    return f"""---
language: en
license: other
task_categories: [question-answering, text-generation]
tags: [deep-research, tool-use, {"biomedical, " if of_pubmed else ""}trajectories]
size_categories: [{_size(rows)}]
{features(done.sample)}configs:
- config_name: default
  data_files:
{configs}
---
# Deep-research trajectories

{rows:,} {kind} in the format `{format_name}`: a model thinks, calls tools, reads what comes back, and answers
with citations. {fit:,} of them fit into {token_limit:,} tokens. Tool outputs are not to be trained on.{nudged}

| column | |
| --- | --- |
{columns}

| generated with | |
| --- | --- |
{settings}

| from questions to rows | |
| --- | --- |
{counts}

| tool | calls |
| --- | --- |
{tools}

Tokens are {how_counted}.

| tokens | rows |
| --- | --- |
{histogram}

{lengths}

Sources: {_PUBMED if of_pubmed else ""}pages and search results are their owners'. Check their terms
before you pass this on.

One row, its texts shortened:

```json
{sample}
```
"""


def _lengths(done: ExportResult, format_name: str) -> str:
    """How many rows keep their end at which length, and what to paste so that all do."""
    kept_by = kept_at(format_name, done.tokens).items()
    kept = _table({name: f"{count:,} of {len(done.tokens):,}" for name, count in kept_by})
    lines = recipes(format_name, done.tokens, next(iter(done.files.values())).name)
    to_paste = f"\n\nTo train on it, no row cut:\n\n{lines}" if lines else ""
    return f"| cut at | rows that keep their end |\n| --- | --- |\n{kept}{to_paste}"


def _meaning(column: str) -> str:
    return "whether they fit" if column.startswith("fits_") else _MEANINGS[column]


def _table(values: Mapping[str, Any]) -> str:
    return "\n".join(f"| {name} | {_cell(value)} |" for name, value in values.items())


def _together(values: Sequence[Any]) -> Any:
    """What is the same in all runs, once; else each of them."""
    each = list(dict.fromkeys(map(_said, values)))
    return each[0] if len(each) == 1 else ", ".join(each)


def _said(value: Any) -> str:
    """A setting, as one reads it."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {one}" for name, one in value.items()) or "none"
    return "not set" if value is None else str(value)


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…"
    if isinstance(value, dict):
        return {name: _shortened(item) for name, item in value.items()}
    return [_shortened(item) for item in value] if isinstance(value, list) else value


def _cell(value: Any) -> str:
    return _said(value).replace("|", "\\|").replace("\n", " ")


def _size(rows: int) -> str:
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if rows < limit:
            return name
    return "n>1M"
