"""What a trainer does with a row is known before anybody trains: its tokens, its mask, where it cuts."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.exports import export
from tests.support.runs import read_jsonl, trajgraph
from tests.support.tokenizers import byte_tokenizer
from tests.support.trajectories import call, output, record, sound, think
from tests.training.test_template import HEADED, MARKED, template
from training.messages import from_sharegpt
from training.tokens import Tokenizer
from training.trainers import TRAINERS, Trained
from training.verify import Verifier

MARKED_TO_THE_END = MARKED.replace("{% endgeneration %}", "<|im_end|>\n{% endgeneration %}").replace(
    "{{ m.content }}{% endif %}<|im_end|>\n", "{{ m.content }}<|im_end|>\n{% endif %}"
)
ASKING = template() + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
FORMATS = [("trl", MARKED_TO_THE_END), ("open-instruct", ASKING), ("llamafactory", None), ("drtulu", None)]


def written(folder: Path, *records: dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def verified(rows: Path, trainer: str, source: str | None, *more: str) -> Any:
    model = byte_tokenizer(rows.with_name("model"), source)
    kind = TRAINERS[trainer].format_name
    return trajgraph("export", rows, "--format", kind, "--output", rows.with_name("set"), "--tokenizer", model,
                     "--verify", trainer, *more)  # fmt: skip


@pytest.mark.parametrize(("trainer", "source"), FORMATS)
def test_rows_that_a_trainer_trains_on_as_the_model_wrote_them_are_told_with_their_tokens(
    tmp_path: Path, trainer: str, source: str | None
) -> None:
    rows = written(tmp_path, *(record(n, sound(n)) for n in range(3)))
    done = verified(rows, trainer, source)
    assert f"{trainer} trains on what the model wrote, and on nothing else, in all 3 rows" in done.stdout, done
    made = read_jsonl(tmp_path / "set" / "train.jsonl")
    assert f"of {sum(row['tokens'] for row in made):,} tokens)" in done.stdout
    if trainer == "trl":
        rendered = [
            "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in row["messages"]) for row in made
        ]
        tokenizer = Tokenizer(tmp_path / "model")
        assert [row["tokens"] for row in made] == [tokenizer.count(text) for text in rendered]


@pytest.mark.parametrize(("trainer", "source"), FORMATS)
@pytest.mark.parametrize("token", ["<|im_end|>", "</tool_response>"])
def test_a_control_token_in_what_a_tool_gave_is_told(
    tmp_path: Path, trainer: str, source: str | None, token: str
) -> None:
    hostile = [*sound(1)[:2], f"<tool_output>\nFound 0 results.{token}\n</tool_output>", *sound(1)[3:]]
    done = verified(written(tmp_path, record(1, hostile), record(2, sound(2))), trainer, source, "--hard-gates", "")
    assert "; in 1 the model was given one of its control tokens as text" in done.stdout, done
    alone = verified(written(tmp_path, record(2, sound(2))), trainer, source)
    assert "control token" not in alone.stdout


THOUGHTLESS = [*sound(1)[:6], sound(1)[7]]
SECOND_THOUGHT = [think("A."), think("B."), *sound(1)[1:]]
FAULTS = [
    ("trl", template(), THOUGHTLESS, "does not say what the model writes"),
    ("trl", MARKED.replace("{% generation %}", "{% generation %}<think></think>"), sound(1), "'</think><think>'"),
    ("trl", MARKED.replace("m.content }}{% end", "m.content.split('</think>')[-1] }}{% end", 1), sound(1),
     "does not train on what the model wrote: '<think>Ilookfortrial1.</think>"),
    ("trl", MARKED.replace("{% else %}", "{% elif m.role == 'tool' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}"),
     sound(1), "trains on what the model did not write: '<tool_output>"),
    ("trl", MARKED.replace("{% else %}", "{% elif m.role == 'tool' %}gone{% else %}"), sound(1),
     "leaves out of what the model saw: '<tool_output>"),
    ("trl", "{{ 1 / 0 }}{% generation %}{% endgeneration %}", sound(1), "ZeroDivisionError"),
    ("trl", MARKED, sound(1), "does not train on the end of a reply"),
    ("trl", MARKED_TO_THE_END.replace("{% generation %}", "{% generation %}<|im_start|>"), sound(1),
     "trains on tokens beside the replies: <|im_start|>"),
    ("trl", "{% macro said(m) %}{% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}{{ said(messages[0]) }}",
     sound(1), "within a macro"),
    ("trl", MARKED_TO_THE_END.replace("{% generation %}{{ m.content }}", "{% generation %}{{ m.content.replace('look for', 'lookfor') }}"),
     sound(1), "other white space between words"),
    ("trl", "{{ raise_exception('no') }}{% generation %}{% endgeneration %}", sound(1), "refuses the messages: no"),
    ("llamafactory", None, THOUGHTLESS, "'<think></think>' (1 of 1 rows). Fix: leave replies without a thought out with"),
    ("drtulu", None, sound(1)[1:2] + sound(1)[2:3] + sound(1)[7:], "'<think></think>'"),
    ("open-instruct", template(), sound(1), "trains on what the model did not write: 'assistant"),
    ("open-instruct", ASKING.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] if not loop.last else m.content }}"),
     sound(1), "does not train on what the model wrote"),
]  # fmt: skip


@pytest.mark.parametrize(("trainer", "source", "pieces", "said"), FAULTS)
def test_each_way_of_training_on_something_else_is_named_and_nothing_is_exported(
    tmp_path: Path, trainer: str, source: str | None, pieces: list[str], said: str
) -> None:
    done = verified(written(tmp_path, record(1, pieces)), trainer, source)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert not (tmp_path / "set" / "train.jsonl").exists()


def test_a_trainer_is_verified_for_the_format_that_it_reads_and_with_a_tokenizer(tmp_path: Path) -> None:
    rows = written(tmp_path, record(1, sound(1)))
    model = byte_tokenizer(tmp_path / "model")
    command = ["export", rows, "--format", "messages", "--output", tmp_path / "set"]
    cases: list[tuple[list[Any], str]] = [
        (["--verify", "trl"], "--verify trl: give the folder of the model that is trained as --tokenizer"),
        (["--verify", "trl", "--tokenizer", model], "--verify trl: give the model's folder as --tokenizer, or"),
        (["--verify", "llamafactory", "--tokenizer", model], "--verify llamafactory checks --format sharegpt"),
        (["--tokenizer", tmp_path], "--tokenizer"),
    ]
    for more, said in cases:
        done = trajgraph(*command, *more)
        assert done.returncode == 2 and said in done.stderr, done.stderr


@given(st.lists(st.tuples(st.booleans(), st.text("aé😀<\n .", max_size=8)), min_size=1, max_size=6), st.data())
def test_a_token_counts_when_a_letter_of_it_is_to_be_trained_on(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[bool, str]], data: Any
) -> None:
    folder = tmp_path_factory.getbasetemp() / "bytes"
    tokenizer = Tokenizer(folder if folder.exists() else byte_tokenizer(folder))
    text = "".join(piece for _, piece in pieces)
    places = tokenizer.places(text)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(places)))))
    counts = [any(a <= at < b for a, b in zip(cuts[::2], cuts[1::2], strict=False)) for at in range(len(places))]
    letters = {at for (start, end), counted in zip(places, counts, strict=True) if counted for at in range(start, end)}
    parts = list(Trained(text, places, counts).parts(tokenizer.special))
    assert "".join(parts) == "".join(text[at] for at in sorted(letters))


def test_lengths_are_those_of_the_rendered_row_and_longer_rows_are_left_out_where_wanted(tmp_path: Path) -> None:
    long = sound(2)
    long[2] = output(*range(5000, 5030))
    rows = written(tmp_path, record(1, sound(1)), record(2, long))
    model = byte_tokenizer(tmp_path / "model", MARKED_TO_THE_END)
    flags = ("--tokenizer", str(model), "--token-limit", "2000")
    short, longer = sorted(export(rows, tmp_path / "all", "messages", *flags), key=lambda row: row["tokens"])
    assert short["fits_2000"] and not longer["fits_2000"]
    card = (tmp_path / "all" / "README.md").read_text()
    advised = re.search(r"\| ([\d,]+) \(advised\) \| 2 of 2 \|", card)
    assert advised
    length = int(advised[1].replace(",", ""))
    assert longer["tokens"] <= length < longer["tokens"] + 256
    assert f"max_length={length}" in card and "| 1,024 (TRL's default) | 1 of 2 |" in card
    assert "Tokens are counted by" in card and "as trl takes a row" in card
    for limit in (["--max-length", "2000"], ["--where", "tokens<=2000"]):
        left = export(rows, tmp_path / "some", "messages", *flags, *limit)
        assert [row["sample_id"] for row in left] == [short["sample_id"]]
    done = trajgraph("export", rows, "--format", "messages", "--output", tmp_path / "x", *flags, "--max-length", "2000")
    assert "left out: 1 row longer than 2,000 tokens" in done.stdout
    export(rows, tmp_path / "y", "messages")
    assert "estimated from the letters" in (tmp_path / "y" / "README.md").read_text()


@pytest.mark.parametrize("kind", ["sharegpt", "drtulu"])
def test_what_llamafactory_reads_names_its_columns_beside_it(tmp_path: Path, kind: str) -> None:
    model = str(byte_tokenizer(tmp_path / "model"))
    (row,) = export(written(tmp_path, record(1, sound(1))), tmp_path / "set", kind, "--tokenizer", model)
    entry = json.loads((tmp_path / "set" / "dataset_info.json").read_text())["trajectories"]
    assert (tmp_path / "set" / entry["file_name"]).exists() and entry["formatting"] == "sharegpt"
    assert all(column in row for column in entry["columns"].values())
    tags = entry.get("tags", {"role_tag": "from", "content_tag": "value"})
    assert all(tags["role_tag"] in said and tags["content_tag"] in said for said in row[entry["columns"]["messages"]])
    assert "cutoff_len: " in (tmp_path / "set" / "README.md").read_text()


def test_a_pair_of_trainers_takes_the_same_conversation(tmp_path: Path) -> None:
    (row,) = export(written(tmp_path, record(1, sound(1))), tmp_path / "set", "sharegpt")
    tokenizer = Tokenizer(byte_tokenizer(tmp_path / "model", HEADED))
    trained = Verifier("llamafactory", tokenizer, None).trained(from_sharegpt(row))
    assert len(trained.places) == len(trained.counts) and trained.text.count("<|im_start|>assistant") == 3
    assert call("heart failure 1") in "".join(trained.parts(tokenizer.special))


def test_letters_with_marks_of_their_own_and_json_as_trainers_write_it_are_trained_on(tmp_path: Path) -> None:
    pieces = [think("cafe\u0301 \u1112\u1161\u11ab"), *sound(1)[1:]]
    source = MARKED_TO_THE_END.replace(
        "{% else %}{{ m.content }}", "{% else %}{{ m.content | tojson(ensure_ascii=False) }}"
    )
    rows = written(tmp_path, record(1, pieces))
    for kind, used in (("trl", MARKED_TO_THE_END), ("llamafactory", None)):
        done = verified(rows, kind, used)
        assert f"{kind} trains on what the model wrote" in done.stdout, done
    model = byte_tokenizer(tmp_path / "model", source)
    (row,) = export(rows, tmp_path / "json", "messages", "--tokenizer", str(model))
    assert row["tokens"] < 1200, "no letter is escaped for HTML"


def test_a_reply_that_was_asked_again_is_named_for_what_it_is(tmp_path: Path) -> None:
    row = {**record(1, sound(1)), "metadata": {"nudges": [{"at": len(sound(1)[0]), "text": "Call."}]}}
    done = verified(written(tmp_path, row), "trl", MARKED_TO_THE_END)
    assert done.returncode == 2 and "--where nudges=0" in done.stderr


def test_a_rows_tokens_are_those_of_the_trainer_that_reads_its_format(tmp_path: Path) -> None:
    last_only = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}"
    rows = written(tmp_path, record(1, sound(1)))
    model = byte_tokenizer(tmp_path / "model", last_only)
    (plain,) = export(rows, tmp_path / "a", "drtulu", "--tokenizer", str(model))
    verified_too = verified(rows, "drtulu", last_only)
    (checked,) = read_jsonl(tmp_path / "set" / "train.jsonl")
    assert verified_too.returncode == 0 and plain["tokens"] == checked["tokens"] > 700
    packed = trajgraph(
        "export", rows, "--format", "sharegpt", "--output", tmp_path / "a", "--compress", "zstd",
        "--tokenizer", tmp_path / "model",
    )  # fmt: skip
    assert packed.returncode == 0
    info = json.loads((tmp_path / "a" / "dataset_info.json").read_text())
    assert {name: entry["file_name"] for name, entry in info.items()} == {"trajectories": "train.jsonl"}
    assert "(unpack `train.jsonl.zst` first)" in (tmp_path / "a" / "README.md").read_text()
    export(rows, tmp_path / "a", "messages")
    assert not (tmp_path / "a" / "dataset_info.json").exists()


def test_no_address_or_path_is_in_the_card(tmp_path: Path) -> None:
    rows = written(tmp_path, record(1, sound(1)))
    export(rows, tmp_path / "set", "messages", "--tokenizer", str(byte_tokenizer(tmp_path / "model")))
    assert str(tmp_path) not in (tmp_path / "set" / "README.md").read_text()
