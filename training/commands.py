"""The commands from a run to a training set: audit, export, report, show."""

import json
from collections.abc import Callable, Iterator
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from backends.errors import UsageError
from backends.printable import printable
from backends.setting import option
from batch.flags import listed_names

app = typer.Typer()


class Format(StrEnum):
    """What `export` writes."""

    messages = "messages"
    sharegpt = "sharegpt"
    drtulu = "drtulu"
    parquet = "parquet"
    text = "text"
    dpo = "dpo"


Run = Annotated[Path, typer.Argument(help="A …_run.json, its folder, or any JSONL of trajectories.")]
Hard = Annotated[str | None, option("Gates that reject a row; else those of README.", "Gates")]
TokenLimit = Annotated[int, option("Tokens that a training run takes in.", "Gates")]
ErrorShare = Annotated[float, option("Share of tool outputs that may be errors.", "Gates")]
Tokenizer = Annotated[Path | None, option("A tokenizer.json to count tokens with.", "Tokens")]
TokenizeUrl = Annotated[str | None, option("A server's /tokenize to count tokens with.", "Tokens")]
MaxCalls = Annotated[int, option("Calls that are allowed, where a row does not say.", "Gates")]


@app.command()
def audit(
    files: Annotated[list[Path], typer.Argument(help="JSONL of trajectories, ours or the earlier scripts'.")],
    as_json: Annotated[bool, option("Print JSON.", None, "--json")] = False,
    write_clean: Annotated[Path | None, option("Write the rows that fail no hard gate here.")] = None,
    explain: Annotated[str | None, option("Say of one sample what is wrong with it.", metavar="SAMPLE_ID")] = None,
    hard_gates: Hard = None,
    max_tool_calls: MaxCalls = 5,
    tool_error_share: ErrorShare = 0.5,
    token_limit: TokenLimit = 16_384,
    tokenizer: Tokenizer = None,
    tokenize_url: TokenizeUrl = None,
) -> None:
    """Count what is wrong with trajectories, gate by gate. Exit code 1 when a row fails a hard gate."""
    from batch.jsonl import encoded
    from quality.gates import Thresholds
    from training.audit import audit as counted
    from training.audit import explained, table
    from training.rows import files_of, read_rows

    if not 0 <= tool_error_share <= 1:
        raise UsageError(f"--tool-error-share {tool_error_share}: give a share between 0 and 1")
    thresholds, hard = Thresholds(max_tool_calls, tool_error_share, token_limit), _hard(hard_gates)
    paths = [path for given in files for path in files_of(given)]
    count = _counter(tokenizer, tokenize_url)
    if explain:
        rows = chain.from_iterable(read_rows(path, count) for path in paths)
        found = [explained(row, thresholds) for row in rows if row.sample_id == explain]
        if not found:
            raise UsageError(f"--explain {explain}: no such sample in {', '.join(map(str, paths))}")
        typer.echo(printable("\n\n".join(found)))
        return
    if write_clean:
        new = write_clean.with_name(f".{write_clean.name}.new")  # the clean file may be the one that is read
        with new.open("w", encoding="utf-8", errors="replace") as clean:
            by_file, total = counted(
                paths, thresholds, hard, lambda row: clean.write(encoded(row.record).decode() + "\n"), count
            )
        new.replace(write_clean)
    else:
        by_file, total = counted(paths, thresholds, hard, count=count)
    audits = [*by_file, *([total] if len(by_file) > 1 else [])]
    typer.echo(json.dumps([one.content() for one in audits], indent=1) if as_json else table(audits, hard))
    raise typer.Exit(1 if total.unfit else 0)


@app.command()
def export(
    run: Run,
    format_name: Annotated[Format, option("For TRL, LLaMA-Factory, span masking, datasets, …", None, "--format")],
    output: Annotated[Path, option("Folder for the files and their card.")] = Path("dataset"),
    where: Annotated[list[str] | None, option("FIELD=VALUE (!=, >, <, >=, <=); all must hold.")] = None,
    test_share: Annotated[float, option("Share of questions kept for testing.")] = 0.0,
    token_limit: TokenLimit = 16_384,
    tokenizer: Tokenizer = None,
    tokenize_url: TokenizeUrl = None,
    verify_template: Annotated[Path | None, option("A Jinja chat template to check every row against.")] = None,
    hard_gates: Hard = None,
) -> None:
    """Write a training set, split by question, with what the model wrote marked in each row, and a dataset card."""
    from quality.gates import Thresholds, estimated_tokens, failed_gate_names
    from training.card import card, check_folder
    from training.export import ExportSpec, exported
    from training.rows import files_of, read_rows
    from training.template import Template
    from training.where import conditions

    if not 0 <= test_share < 1:
        raise UsageError(f"--test-share {test_share}: give a share between 0 and 1")
    check_folder(output)
    thresholds, count = Thresholds(token_limit=token_limit), _counter(tokenizer, tokenize_url)
    run_info, hard, keep = _run_info(run), _hard(hard_gates), conditions(where or [], thresholds)
    paths = files_of(run, rejected=format_name is Format.dpo)
    prompts = {run_info.get("settings", {}).get("prompt_sha256"), None, *run_info.get("earlier_prompts", {})}
    left_out = ("unreadable", "left out by --where", "fail a hard gate", "made under a prompt that is not kept")
    seen = dict.fromkeys(("trajectories read", *left_out), 0)

    def chosen() -> Iterator[Any]:
        for row in chain.from_iterable(read_rows(path, count) for path in paths):
            seen["trajectories read"] += 1
            if not row.record:
                seen["unreadable"] += 1
            elif not keep(row):
                seen["left out by --where"] += 1
            elif format_name is not Format.dpo and set(failed_gate_names(row.parsed, thresholds)) & set(hard):
                seen["fail a hard gate"] += 1
            elif run_info and row.metadata.get("prompt_sha256") not in prompts:
                seen["made under a prompt that is not kept"] += 1
            else:
                yield row

    settings = run_info.get("settings", {"source": run.name})
    spec = ExportSpec(
        format_name.value,
        run_info.get("prompt"),
        run_info.get("earlier_prompts", {}),
        settings.get("tool_role", "tool"),
        thresholds,
        hard,
        test_share,
        count or estimated_tokens,
    )
    done = exported(chosen(), output, spec, Template(verify_template) if verify_template else None)
    funnel = {**run_info.get("funnel", {}), **seen, **done.left_out, **done.rows}
    for reason, number in done.left_out.items():
        typer.echo(f"left out: {number} rows {reason}")
    text = card(done, settings, funnel, format_name.value, token_limit)
    (output / "README.md").write_text(text, encoding="utf-8", errors="replace")
    for name, path in done.files.items():
        typer.echo(f"{path}: {done.rows[name]:,} rows")
    if verify_template:
        typer.echo(f"every row round-trips through {verify_template}")
    typer.echo(f"{output / 'README.md'}: the dataset card")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="A run, its folder, or a JSONL; two stand side by side.")],
    output: Annotated[Path, option("The page.")] = Path("report.html"),
) -> None:
    """Write one page to look at: the run at a glance, a list to search, each trajectory as a timeline."""
    from quality.gates import Thresholds
    from training.report import write_report
    from training.rows import files_of

    shown = []
    for run in runs:
        name = run.stem if run.is_file() else run.resolve().name
        shown.append((name, files_of(run, rejected=True), _run_info(run).get("funnel", {})))
    with output.open("w", encoding="utf-8", errors="replace") as page:
        count = write_report(page, shown, Thresholds())
    typer.echo(f"{output}: {count:,} trajectories")


@app.command()
def show(
    sample_id: Annotated[str, typer.Argument(help="Which one.")],
    run: Run = Path("pubmed_training_data"),
    whole: Annotated[bool, option("Tool outputs in full.", None, "--whole")] = False,
) -> None:
    """Print one trajectory as a timeline, with what is wrong with it."""
    from quality.gates import Thresholds
    from training.audit import explained
    from training.rows import files_of, read_rows
    from training.timeline import timeline

    for row in chain.from_iterable(map(read_rows, files_of(run, rejected=True))):
        if row.sample_id == sample_id:
            typer.echo(printable(f"{timeline(row, whole=whole)}\n\n{explained(row, Thresholds())}"))
            return
    raise UsageError(f"{sample_id}: no such sample in {run}")


def _hard(listed: str | None) -> tuple[str, ...]:
    from quality.gates import DEFAULT_HARD_GATES, check_names

    names = DEFAULT_HARD_GATES if listed is None else listed_names(listed)
    check_names(names)
    return names


def _run_info(run: Path) -> dict[str, Any]:
    """What the run says of itself: its prompt, settings and counts; nothing for a bare file."""
    from batch.run_files import read_run
    from training.rows import is_run

    if not is_run(run):
        return {}
    files, content = read_run(run)
    stats = json.loads(files.stats.read_text(encoding="utf-8")) if files.stats.exists() else {}
    names = ("questions", "accepted", "rejected", "failed", "pending")
    return {**content, "funnel": {name: stats[name] for name in names if name in stats}}


def _counter(tokenizer: Path | None, url: str | None) -> Callable[[str], int] | None:
    if tokenizer:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise UsageError("--tokenizer needs an extra: pip install -e '.[training]'") from error
        try:
            loaded = Tokenizer.from_file(str(tokenizer))
        except Exception as error:
            raise UsageError(f"--tokenizer {tokenizer}: {error}") from error
        return lambda text: len(loaded.encode(text).ids)
    if url:
        from training.tokens import count_at

        return count_at(url)
    return None
