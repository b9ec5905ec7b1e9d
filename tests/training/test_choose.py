"""Which rows become a training set: by what they hold, the best of each question, none that a test asks."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quality.gates import Thresholds, failed_gate_names
from tests.support.exports import export
from tests.support.runs import trajgraph, write_questions
from tests.support.trajectories import call, output, record, sound, think
from training.questions import KnownQuestions, content_words, split_of
from training.rows import Row
from training.where import conditions

WORDS = st.lists(st.sampled_from("aspirin statin lowers risk stroke adults trial dose renal hepatic".split()), min_size=5,
                 max_size=9, unique=True)  # fmt: skip


def written(folder: Path, *records: dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def of(question: str, n: int, pieces: list[str]) -> dict[str, Any]:
    return {**record(n, pieces), "question": question}


@given(WORDS, st.data())
def test_questions_that_ask_the_same_in_other_words_are_on_one_side_of_every_split(words: list[str], data: Any) -> None:
    other = data.draw(st.permutations(words))
    spelled = [data.draw(st.sampled_from([str.upper, str.title, str])) (word) for word in other]  # fmt: skip
    question = f"Does {' '.join(words)}?"
    same = f" does  the {', '.join(spelled)} {data.draw(st.sampled_from(['', '?', '!', ' ']))}"
    assert content_words(question) == content_words(same)
    for share in (0.1, 0.5, 0.9):
        assert split_of(question, share) == split_of(same, share)


@given(WORDS, st.data())
def test_a_question_is_known_when_it_shares_nearly_all_its_words_with_one(words: list[str], data: Any) -> None:
    known = KnownQuestions([" ".join(words), "something else entirely"])
    assert known.holds(" ".join(data.draw(st.permutations(words))))
    assert known.holds(" ".join([*words, "children"])) is (len(words) >= 0.8 * (len(words) + 1))
    assert not known.holds(" ".join(words[: len(words) // 2]))
    assert not KnownQuestions([]).holds(" ".join(words))
    assert KnownQuestions(["???"]).holds("??? ") and not KnownQuestions(["???"]).holds("!")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("What's the dose?", "What is the dose", True), ("Alzheimer\u2019s disease", "Alzheimer disease", True),
     ("na\u00efve cells", "nai\u0308ve cells", True), ("IS IT IN USE?", "Is it in use?", True), ("A versus B", "A vs B", True),
     ("What is known on X for malaria?", "Tell me about X in malaria", True), ("ER+ cancer", "ER- cancer", False),
     ("0.5 mg of it", "5.0 mg of it", False), ("the WHO guidelines", "the guidelines", False), ("<1.4 mmol", ">1.4 mmol", False),
     ("Is vitamin A in it?", "Is a vitamin in it?", False), ("type I diabetes", "type diabetes", False),
     ("Can I take aspirin with warfarin?", "can i take aspirin with warfarin", True)],
)  # fmt: skip
def test_small_words_are_small_and_names_and_numbers_are_not(one: str, other: str, same: bool) -> None:
    assert (content_words(one) == content_words(other)) == same


def test_near_duplicates_are_told_and_stay_together(tmp_path: Path) -> None:
    asked = [f"Does drug{n} lower blood pressure in adults?" for n in range(30)]
    rows = [of(question, 2 * n, sound(2 * n)) for n, question in enumerate(asked)]
    rows += [of(f"{question} ", 2 * n + 1, sound(2 * n + 1)) for n, question in enumerate(asked)]
    done = trajgraph(
        "export", written(tmp_path, *rows), "--format", "text", "--output", tmp_path / "set", "--test-share", "0.4"
    )
    assert "30 questions ask what another one asks in almost the same words" in done.stdout
    sides = [
        {json.loads(line)["question"].strip() for line in (tmp_path / "set" / f"{name}.jsonl").read_text().splitlines()}
        for name in ("train", "test")
    ]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    assert f"kept for testing: {len(sides[1])} of 30 questions ({len(sides[1]) / 30:.1%})\n" in done.stdout


def test_a_split_that_keeps_no_question_is_told(tmp_path: Path) -> None:
    rows = written(tmp_path, of("Does it help?", 1, sound(1)))
    done = trajgraph("export", rows, "--format", "text", "--output", tmp_path / "set", "--test-share", "0.001")
    assert "kept for testing: 0 of 1 questions (0.0%); its own words put a question on its side" in done.stdout


def test_what_a_test_asks_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = written(tmp_path, *(of(f"Does drug{n} lower blood pressure in adults?", n, sound(n)) for n in range(4)))
    tests = write_questions(tmp_path / "test.jsonl", ["In adults, does DRUG2 lower the blood pressure?", "Other?"])
    done = trajgraph("export", rows, "--format", "text", "--output", tmp_path / "set", "--without", tests)
    assert "left out: 1 row whose question is among those of --without" in done.stdout, done
    assert "| whose question is among those of --without | 1 |" in (tmp_path / "set" / "README.md").read_text()
    tests.write_text(tests.read_text() + '{"prompt": "And a third one?"}\n')
    unread = trajgraph("export", rows, "--format", "text", "--output", tmp_path / "x", "--without", tests)
    assert unread.returncode == 2 and 'line 3: no "question" in it (--without)' in unread.stderr, unread
    missing = trajgraph("export", rows, "--format", "text", "--output", tmp_path / "x", "--without", tmp_path / "none")
    assert missing.returncode == 2 and "none" in missing.stderr


FAILING = "<tool_output>\nError: the server is away\n</tool_output>"
LONG = [*sound(1)[:6], think("Much more to say. " * 30), sound(1)[7]]
ERRS = [*sound(1)[:3], call("again"), FAILING, *sound(1)[3:]]
DOUBLED = [*sound(1)[:3], sound(1)[1], sound(1)[2], *sound(1)[3:]]  # fails a gate: the same call again


def test_the_best_of_a_question_are_those_with_the_fewest_faults_then_the_shortest(tmp_path: Path) -> None:
    kinds = {"doubled": DOUBLED, "errs": ERRS, "long": LONG, "short": sound(1)}
    rows = written(tmp_path, *(of("Does it help?", n, pieces) for n, pieces in enumerate(kinds.values())),
                   of("Another?", 9, DOUBLED))  # fmt: skip
    names = [f"qwen3_traj_{n:05d}" for n in range(4)]
    for best, wanted in [(1, names[3:]), (2, names[2:]), (3, names[1:]), (9, names)]:
        made = [row["sample_id"] for row in export(rows, tmp_path / f"{best}", "text", "--best", str(best))]
        assert made == [*wanted, "qwen3_traj_00009"]
    done = trajgraph("export", rows, "--format", "text", "--output", tmp_path / "x", "--best", "1")
    assert "left out: 3 rows beside better ones (--best)" in done.stdout


@pytest.mark.parametrize(
    ("condition", "kept"),
    [("gates=0", 3), ("gates>0", 1), ("turns>3", 2), ("tool_error_share>0", 1), ("tool_error_share<0.34", 4),
     ("grounded>=2", 4), ("grounded_share=1", 4), ("grounded_share<1", 0), ("output_tokens=0", 4)],
)  # fmt: skip
def test_a_condition_may_be_about_any_count_or_share(tmp_path: Path, condition: str, kept: int) -> None:
    kinds = (DOUBLED, ERRS, LONG, sound(1))
    rows = written(tmp_path, *(record(n, pieces) for n, pieces in enumerate(kinds)))
    done = trajgraph("export", rows, "--format", "text", "--output", tmp_path / "set", "--where", condition)
    assert (f"train.jsonl: {kept} row" in done.stdout) if kept else done.returncode == 2, done


@given(st.lists(st.sampled_from([output(1), FAILING, "<tool_output>\nFound 0 results.\n</tool_output>"]), max_size=5),
       st.sampled_from([0.0, 0.3, 0.5, 0.9]))  # fmt: skip
def test_a_condition_on_a_share_and_the_gate_of_its_name_agree(outputs: list[str], limit: float) -> None:
    pieces = [piece for one in outputs for piece in (call("a"), one)]
    row = Row(Path("x"), 1, record(1, [*pieces, "<answer>It helps.</answer>"]))
    fails = "tool_error_share" in failed_gate_names(row.parsed, Thresholds(tool_error_share=limit))
    assert conditions([f"tool_error_share>{limit}"], Thresholds())(row) == fails


def test_the_best_of_pairs_are_the_pairs_of_the_best(tmp_path: Path) -> None:
    unanswered = [*sound(1)[:3], think("I give up.")]
    kinds = {"doubled": DOUBLED, "errs": ERRS, "long": LONG, "short": sound(1)}
    rows = [of("Does it help?", n, pieces) for n, pieces in enumerate(kinds.values())]
    rows += [of("Does it help?", 10 + n, [*unanswered, think(f"{n}")]) for n in range(4)]
    path = written(tmp_path, *rows)
    assert len(export(path, tmp_path / "all", "dpo")) == 4
    for best in (1, 2, 3):
        made = export(path, tmp_path / f"{best}", "dpo", "--best", str(best))
        assert {row["sample_id"] for row in made} == {f"qwen3_traj_{n:05d}" for n in range(4 - best, 4)}
    done = trajgraph("export", path, "--format", "dpo", "--output", tmp_path / "told", "--best", "1")
    assert "left out: 6 rows beside better ones (--best)" in done.stdout


def test_a_pair_is_found_wherever_there_is_one(tmp_path: Path) -> None:
    """The accepted one that has most in common differs in what a tool gave alone."""
    worse = [*sound(1)[:2], sound(2)[2], think("I give up.")]
    other = [think("Another way."), *sound(1)[1:]]
    path = written(tmp_path, *(of("Q?", n, pieces) for n, pieces in enumerate([sound(1), other, worse])))
    (row,) = export(path, tmp_path / "set", "dpo")
    assert (row["sample_id"], row["rejected_id"]) == ("qwen3_traj_00001", "qwen3_traj_00002")


@pytest.mark.parametrize(
    ("condition", "fix"),
    [("no_citation=0", "gate=no_citation or gate!=no_citation"), ("grounded_share=NaN", "'NaN' is no number"),
     ("turns=many", "'many' is no number"), ("colour=red", "write FIELD=VALUE")],
)  # fmt: skip
def test_a_condition_that_is_none_is_refused_with_the_fix(tmp_path: Path, condition: str, fix: str) -> None:
    rows = written(tmp_path, record(1, sound(1)))
    done = trajgraph("export", rows, "--format", "text", "--output", tmp_path / "set", "--where", condition)
    assert done.returncode == 2 and fix in done.stderr, done
