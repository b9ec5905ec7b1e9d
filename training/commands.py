"""The commands from a run to a training set: audit, export, report, show."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from backends.command_app import CommandApp
from backends.errors import UsageError
from backends.printable import printable
from backends.setting import option
from batch.flags import listed_names

if TYPE_CHECKING:
    from training.export import ExportResult
    from training.rows import Row
    from training.sources import Source
    from training.tokens import Tokenizer

app = CommandApp()


class TrainerName(StrEnum):
    """Trainers of which it is known what they train on."""

    trl = "trl"
    llamafactory = "llamafactory"
    drtulu = "drtulu"
    open_instruct = "open-instruct"


class Format(StrEnum):
    """What `export` writes."""

    messages = "messages"
    sharegpt = "sharegpt"
    drtulu = "drtulu"
    parquet = "parquet"
    text = "text"
    dpo = "dpo"
    atif = "atif"
    records = "records"


class PackedAs(StrEnum):
    """How an export is packed."""

    gzip = "gzip"
    zstd = "zstd"


Runs = Annotated[list[Path], typer.Argument(help="Folders (all their runs), …_run.json, files of trajectories.")]
Hard = Annotated[str | None, option("Gates that reject a row; else those of README.", "Gates")]
TokenLimit = Annotated[int, option("Tokens that a training run takes in.", "Gates", low=1)]
ErrorShare = Annotated[float, option("Share of tool outputs that may be errors.", "Gates", low=0, high=1)]
TokenizerPath = Annotated[Path | None, option("A model's folder, or a tokenizer.json: to count tokens with.", "Tokens")]
TokenizeUrl = Annotated[str | None, option("A server's /tokenize to count tokens with.", "Tokens")]
MaxCalls = Annotated[int, option("Calls that are allowed, where a row does not say.", "Gates", low=0)]


@app.command()
def audit(
    files: Runs,
    as_json: Annotated[bool, option("Print JSON.", None, "--json")] = False,
    write_clean: Annotated[Path | None, option("Write the rows that fail no hard gate here.")] = None,
    explain: Annotated[str | None, option("Say of one sample what is wrong with it.", metavar="SAMPLE_ID")] = None,
    hard_gates: Hard = None,
    max_tool_calls: MaxCalls = 5,
    tool_error_share: ErrorShare = 0.5,
    token_limit: TokenLimit = 16_384,
    tokenizer: TokenizerPath = None,
    tokenize_url: TokenizeUrl = None,
) -> None:
    """Count what is wrong with trajectories, gate by gate. Exit code 1: a row fails a hard gate, or cannot be read."""
    from batch.jsonl import encoded
    from batch.packed import PACKED, TABLE
    from batch.parts import parts_of
    from quality.gates import Thresholds
    from training.audit import audit as counted
    from training.audit import explained, table
    from training.sources import sources
    from training.tokens import Tokenizer

    thresholds, hard = Thresholds(max_tool_calls, tool_error_share, token_limit), _hard(hard_gates)
    count = _counter(Tokenizer(tokenizer) if tokenizer else None, tokenize_url)
    if explain:
        row = _sample(explain, sources(files, rejected=True), count)
        typer.echo(printable(explained(row, thresholds)))
        return
    given = sources(files, together=write_clean is not None)
    if write_clean and parts_of(write_clean):
        raise UsageError(f"--write-clean {write_clean}: it is a run's, in parts: give another file")
    if write_clean and write_clean.name.endswith((*PACKED, TABLE)):
        raise UsageError(f"--write-clean {write_clean}: it is written as JSONL: give a .jsonl")
    if write_clean:
        with _written("--write-clean", write_clean) as clean:  # it may be the file that is read
            by_file, total = counted(
                given, thresholds, hard, lambda row: clean.write(encoded(row.record).decode() + "\n"), count
            )
    else:
        by_file, total = counted(given, thresholds, hard, count=count)
    audits = [*by_file, *([total] if len(by_file) > 1 else [])]
    typer.echo(json.dumps([one.content() for one in audits], indent=1) if as_json else table(audits, hard))
    raise typer.Exit(1 if total.unfit else 0)


@app.command()
def export(
    runs: Runs,
    format_name: Annotated[Format, option("For TRL, LLaMA-Factory, span masking, datasets, …", None, "--format")],
    output: Annotated[Path, option("Folder for the files and their card.")] = Path("dataset"),
    where: Annotated[list[str] | None, option("FIELD=VALUE (!=, >, <, >=, <=); all must hold.")] = None,
    best: Annotated[int | None, option("Only so many of each question: fewest faults, then shortest.", low=1)] = None,
    without: Annotated[str | None, option("Leave out what asks a question of this file.", metavar="PATH")] = None,
    system_prompt_file: Annotated[Path | None, option("The prompt of rows without their run beside them.")] = None,
    test_share: Annotated[float, option("Share of questions kept for testing.", low=0, high=0.999)] = 0.0,
    token_limit: TokenLimit = 16_384,
    tokenizer: TokenizerPath = None,
    tokenize_url: TokenizeUrl = None,
    compress: Annotated[PackedAs | None, option("Pack the JSONL.")] = None,
    push_to_hub: Annotated[str | None, option("Put it on the Hub, too, as this dataset.", metavar="OWNER/NAME")] = None,
    max_length: Annotated[int | None, option("Leave out rows of more tokens than a trainer takes.", low=1)] = None,
    verify: Annotated[TrainerName | None, option("Check that this trainer trains on what the model wrote.")] = None,
    verify_template: Annotated[Path | None, option("A Jinja chat template to check every row against.")] = None,
    hard_gates: Hard = None,
    max_tool_calls: MaxCalls = 5,
) -> None:
    """Write a training set, split by question, with what the model wrote marked in each row, and a dataset card."""
    from batch.config import read_prompt
    from batch.questions import check_questions
    from batch.remote import place
    from batch.shown import shown
    from quality.gates import Thresholds
    from training.card import card
    from training.chat_template import ChatTemplate
    from training.choose import LEFT_OUT, UNTOLD, Choice
    from training.export import exported
    from training.export_spec import ExportSpec
    from training.folder import CARD, check_folder, rows_in
    from training.hub import push
    from training.questions import KnownQuestions
    from training.recipes import dataset_info
    from training.sources import prompts_of, sources
    from training.tokens import Tokenizer, Tokens
    from training.verify import Verifier, reader_of
    from training.where import conditions

    check_folder(output)
    loaded = Tokenizer(tokenizer) if tokenizer else None
    template = ChatTemplate.read(verify_template) if verify_template else None
    rendered_by = template or (loaded.template if loaded else None)
    thresholds, count = Thresholds(max_tool_calls, token_limit=token_limit), _counter(loaded, tokenize_url)
    if verify and not loaded:
        raise UsageError(f"--verify {verify.value}: give the folder of the model that is trained as --tokenizer")
    verifier = Verifier(verify.value, loaded, rendered_by) if verify and loaded else None
    if verifier and verifier.trainer.format_name != format_name.value:
        raise UsageError(f"--verify {verifier.name} checks --format {verifier.trainer.format_name}")
    if format_name is Format.parquet and compress:
        raise UsageError(f"--compress {compress.value}: --format parquet is packed as it is: leave it out")
    is_pairs = format_name is Format.dpo
    (given,) = sources(runs, rejected=is_pairs, together=True)
    if {path.resolve() for path in given.files} & {path.resolve() for path in rows_in(output)}:
        raise UsageError(f"--output {output}: that is the export that is read: give another folder")
    told = read_prompt(system_prompt_file) if system_prompt_file else None
    prompts, hard = prompts_of([given], told), _hard(hard_gates)
    tokens = Tokens(count, rendered_by) if count else Tokens()
    counted_as = verifier or (reader_of(format_name.value, loaded, rendered_by) if loaded else None)
    spec = ExportSpec(
        format_name.value, prompts, thresholds, hard, test_share, tokens, best, max_length, verifier, counted_as
    )
    keep = conditions(where or [], thresholds, spec.tokens_of)
    test_questions = check_questions(place(without), flag="--without").stream() if without else ()
    known = KnownQuestions(row["question"] for _, row in test_questions)
    choice = Choice(keep, thresholds, () if is_pairs else hard, prompts, known, None if is_pairs else best)
    by = tokenizer.resolve().name if tokenizer else "a server"  # no address: this is published
    said = counted_as.how() if counted_as else spec.tokens.said
    how_counted = f"counted by {by}, {said}" if count else "estimated from the letters"
    is_of_rows = bool(counted_as or (count and rendered_by))
    if max_length and not is_of_rows:
        raise UsageError(f"--max-length: tokens are {how_counted}: give the model's folder as --tokenizer")
    seen = choice.seen

    def described(done: "ExportResult") -> dict[str, str]:
        why = {f"for: {reason}": count for reason, count in choice.unknown.counts().items()}
        funnel = {**given.funnel, **seen, **why, **done.left_out, **done.rows}
        text = card(done, given.settings, funnel, format_name.value, token_limit, how_counted, is_of_rows=is_of_rows)
        return {CARD: text, **dataset_info(format_name.value, done.files)}

    try:
        rows = shown(choice.rows(given, count))
        done = exported(rows, output, spec, template, compress.value if compress else None, described=described)
    except UsageError as error:
        raise UsageError(f"{error}{choice.said()}") from error
    for reason, number in [*((name, seen[name]) for name in LEFT_OUT), *done.left_out.items()]:
        if number:
            typer.echo(f"left out: {number:,} row{'s' * (number != 1)} {reason}")
    for line in choice.unknown.lines():
        typer.echo(f"  {line}")
    for line in done.said(split=bool(test_share)):
        typer.echo(line)
    for name in UNTOLD:
        if seen[name]:
            typer.echo(f"{seen[name]:,} row{'s' * (seen[name] != 1)} {name}")
    for name, path in done.files.items():
        typer.echo(f"{path}: {done.rows[name]:,} row{'s' * (done.rows[name] != 1)}")
    if verifier:
        typer.echo(verifier.said())
    elif verify_template:
        typer.echo(f"every row round-trips through {verify_template}")
    typer.echo(f"{output / CARD}: the dataset card")
    if push_to_hub:
        files = [*done.files.values(), output / CARD, output / "dataset_info.json"]
        typer.echo(f"{push(output, [path for path in files if path.exists()], push_to_hub)}: pushed")


@app.command()
def report(runs: Runs, output: Annotated[Path, option("The page.")] = Path("report.html")) -> None:
    """Write one page to look at: a list to search, each trajectory as a timeline; two arguments stand side by side."""
    from quality.gates import Thresholds
    from training.report import write_report
    from training.sources import sources

    given = sources(runs, rejected=True)
    with _written("--output", output) as page:
        count = write_report(page, given, Thresholds())
    typer.echo(f"{output}: {count:,} trajectories")


@app.command()
def show(
    sample_id: Annotated[str, typer.Argument(help="Which one.")],
    runs: Annotated[list[Path] | None, typer.Argument(help="As for report; else pubmed_training_data.")] = None,
    whole: Annotated[bool, option("Tool outputs in full.", None, "--whole")] = False,
) -> None:
    """Print one trajectory as a timeline, with what is wrong with it."""
    from quality.gates import Thresholds
    from training.audit import explained
    from training.sources import sources
    from training.timeline import timeline

    row = _sample(sample_id, sources(runs or [Path("pubmed_training_data")], rejected=True))
    typer.echo(printable(f"{timeline(row, whole=whole)}\n\n{explained(row, Thresholds())}"))


@contextmanager
def _written(flag: str, path: Path) -> Iterator[IO[str]]:
    """A file to write, put in its place at the end. Raises UsageError when it cannot be."""
    from batch.jsonl import replaced

    if path.is_dir() or not path.name:
        raise UsageError(f"{flag} {path}: it is a folder, give a file")
    try:
        with replaced(path) as target:
            yield target
    except OSError as error:
        raise UsageError(f"{flag} {path}: cannot be written ({error.strerror or error})") from error


def _sample(sample_id: str, given: "Sequence[Source]", count: Callable[[str], int] | None = None) -> "Row":
    """The one row with this id. Raises UsageError where there is none, or more than one."""
    from training.rows import read_rows

    paths = [path for source in given for path in source.files]
    found = [row for row in chain.from_iterable(read_rows(path, count) for path in paths) if sample_id in row.names]
    if len(found) > 1:
        places = "; ".join(f"{row.path}, line {row.line}" for row in found)
        raise UsageError(f"{sample_id} stands more than once: {places}. Give the one that you mean")
    if not found:
        raise UsageError(f"{sample_id}: no such sample in {', '.join(map(str, paths))}")
    return found[0]


def _hard(listed: str | None) -> tuple[str, ...]:
    from quality.gates import DEFAULT_HARD_GATES, check_names

    names = DEFAULT_HARD_GATES if listed is None else listed_names(listed)
    check_names(names)
    return names


def _counter(tokenizer: "Tokenizer | None", url: str | None) -> Callable[[str], int] | None:
    if tokenizer:
        return tokenizer.count
    if url:
        from training.tokens import count_at

        return count_at(url)
    return None
