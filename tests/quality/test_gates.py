"""Gates: each finds every one of its own defects, and none of the others'; citations lead to their very snippet."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quality.gates import DEFAULT_HARD_GATES, GATES, failed_gate_names, failed_gates, parse_trajectory
from serializers.segments import split_segments
from tests.support.runs import trajgraph
from tests.support.trajectories import COUNT, call, output, record, replaced, sound, think

LIMITED = {"finish_reasons": ["stop", "stop", "length"]}
DEFECTS: dict[str, list[Callable[[int], dict[str, Any]]]] = {
    "unclosed_answer": [
        lambda n: replaced(n, 7, f'<answer>It helps <cite id="{1000 + n}">so</cite>'),
        lambda n: replaced(n, 7, sound(n)[7].removesuffix("</answer>")),
        lambda n: replaced(n, 7, "<answer>"),
    ],
    "no_answer": [
        lambda n: record(n, sound(n)[:7]),
        lambda n: record(n, sound(n)[:6]),
        lambda n: replaced(n, 7, "<answer>  </answer>"),
        lambda n: replaced(n, 7, "<answer>...</answer>"),
    ],
    "truncated": [
        lambda n: record(n, sound(n), finish_reasons=["stop", "stop", "length"]),
        lambda n: record(n, sound(n), finish_reasons=["content_filter"]),
        lambda n: record(n, sound(n), stop_reason="truncated"),
    ],
    "answer_not_last": [
        lambda n: record(n, [*sound(n), sound(n)[7]]),
        lambda n: record(n, [*sound(n), think("I could look further.")]),
        lambda n: record(n, [*sound(n), call(f"more {n}"), output(4000 + n)]),
        lambda n: record(n, [*sound(n), "That is all."]),
    ],
    "unanswered_call": [
        lambda n: record(n, [*sound(n)[:5], *sound(n)[6:7], f'<answer>It helps. <cite id="{1000 + n}">so</cite></answer>']),
        lambda n: record(n, [call(f"heart {n}"), *sound(n)]),
        lambda n: record(n, [*sound(n)[:2], call(f"both {n}"), *sound(n)[2:]]),
    ],
    "forged_tool_output": [
        lambda n: record(n, [*sound(n)[:3], output(9000 + n), *sound(n)[3:]]),
        lambda n: record(n, [output(5), *sound(n)]),
        lambda n: record(n, sound(n), executed=1),
    ],
    "unbalanced_tags": [
        lambda n: replaced(n, 3, "<think>One <think>more.</think>"),
        lambda n: replaced(n, 3, "One more.</think>", think("So be it.")),
        lambda n: record(n, ["</answer>", *sound(n)]),
        lambda n: record(n, ["</call_tool>", *sound(n)]),
    ],
    "no_tool_use": [
        lambda n: record(n, [think("I know."), f"<answer>It helps, {n}.</answer>"]),
        lambda n: record(n, [think(f"I know, {n}."), "<answer>Yes.</answer>"]),
    ],
    "nothing_found": [
        *[lambda n, said=said: record(n, [think("I."), call(f"x {n}"), f"<tool_output>{said}</tool_output>", think("So."),
                                          "<answer>There is nothing.</answer>"])
          for said in (
              "Error: None", "\n error : busy", '{"error": "timed out"}', "Error executing tool x: y", "HTTP 503",
              "Search failed: 429", "Failed to fetch the page", "[Error] timeout", "  ", "Error (500): x", "HTTPError: 500",
              '{"success": false, "error": "x"}', "MCP error -32602: y", '{"success": false}', "HTTP 500 from upstream",
              '{"status": "error"}', '{"url": "u", "success": false}', '[{"error": "x"}]', '{"statusCode": 502}',
              "\nFound 0 results. Showing top 0:\n\n", "{}", "[]", "null", "<webpage></webpage>", "<webpage> \n </webpage>",
              "[image]", "No results found.", "No result.", '{"total": 0, "data": []}', "0 results", "Nothing found",
              '{"searchParameters": {"q": "x"}, "organic": []}', "No papers matched your query", "none",
              "Your search did not match any documents.", "<webpage># Just a moment...</webpage>",
              "<webpage>Please enable JavaScript and cookies to continue</webpage>", "<webpage>404 Not Found</webpage>",
              "<webpage>Verify you are human by completing the CAPTCHA</webpage>", "Search returned no matching articles.",
              "<webpage>We use cookies. Accept all cookies</webpage>", "<webpage>Access denied</webpage>",
              '\nFound 3 results. Showing top 1:\n<snippet id="unknown">Title: No title\nAuthors:  | Year: N/A | '
              "Journal: N/A\nAbstract: No abstract</snippet>\n")],
    ],
    "tool_error_share": [
        *[lambda n, said=said: record(n, [*sound(n)[:2], f"<tool_output>{said}</tool_output>", think("Again."), call(f"x {n}"),
                                f"<tool_output>{said}</tool_output>", think("Hm."), call(f"y {n}"), output(1000 + n),
                                think("Enough."), f'<answer>Yes. <cite id="{1000 + n}">so</cite></answer>'])
          for said in ("Error: busy", "[]", "No results found.")],
    ],
    "empty_query": [
        lambda n: replaced(n, 4, '<call_tool name="pubmed_search"></call_tool>'),
        lambda n: replaced(n, 4, '<call_tool name="pubmed_search" limit="5">  ? </call_tool>'),
    ],
    "duplicate_call": [
        lambda n: replaced(n, 4, call(f"dapagliflozin {n}")),
        lambda n: replaced(n, 4, call(f"dapagliflozin  {n} ")),
        lambda n: replaced(n, 4, call(f"DAPAGLIFLOZIN {n}", limit=9)),
        lambda n: replaced(n, 4, f"<call_tool limit='5' name='pubmed_search'>dapagliflozin {n}</call_tool>"),
    ],
    "call_limit_passed": [
        lambda n: record(n, [piece for k in range(6) for piece in (think("On."), call(f"q {n} {k}"), output(k))]
                         + [think("Done."), '<answer>Yes. <cite id="5">so</cite></answer>']),
        lambda n: record(n, sound(n), max_tool_calls=1),
    ],
    "empty_think": [
        lambda n: replaced(n, 3, "<think></think>"),
        lambda n: replaced(n, 6, "<think>\n \n</think>"),
        lambda n: replaced(n, 6, "<think>\u200b</think>"),
    ],
    "repetition": [
        lambda n: replaced(n, 3, think(f"So the trial of drug {n} shows that it helps in heart failure. " * 30)),
        lambda n: replaced(n, 3, think(f"{n} helps " * 200)),
    ],
    "thought_missing": [
        lambda n: record(n, [piece for piece in sound(n) if "think" not in piece]),
    ],
    "no_citation": [
        lambda n: replaced(n, 7, "<answer>It helps.</answer>"),
        lambda n: replaced(n, 7, f"<answer>It helps, says {1000 + n}.</answer>"),
    ],
    "number_not_in_source": [
        lambda n: replaced(n, 7, f'<answer>It helps. <cite id="{1000 + n}">hazard ratio 0.47</cite></answer>'),
        lambda n: replaced(n, 7, f'<answer>It helps in 4,747 patients. <cite id="{1000 + n}">so</cite></answer>'),
    ],
    "ungrounded_citation": [
        lambda n: replaced(n, 7, f'<answer>Yes. <cite id="{7000 + n}">0.74</cite></answer>'),
        lambda n: replaced(n, 3, think(f'See <cite id="{3000 + n}">this</cite>.')),
        lambda n: replaced(n, 7, f'<answer>Yes. <cite id="{1000 + n}, {8000 + n}">both</cite></answer>'),
        *[lambda n, tag=tag: replaced(n, 7, f"<answer>Yes. {tag}0.74</cite></answer>")
          for tag in ("<cite>", '<cite id="">', '<cite url="x" id="12">', "<CITE ID=12>", '<cite url="https://x.org">',
                      f'<cite id="{"9" * 300}">', f'<cite id="{"77, " * 3000}">')],
        lambda n: replaced(n, 7, "<answer>Yes. <cite id=12>0.74</answer>"),
    ],
    "over_token_limit": [
        lambda n: replaced(n, 2, output(1000 + n, *range(10_000, 10_400))),
        lambda n: replaced(n, 0, think("I think. " * 9000)),
    ],
    "language": [
        lambda n: replaced(n, 0, think("我需要先找到这个试验的主要结果。")),
        lambda n: replaced(n, 6, think("Этого достаточно для ответа.")),
        lambda n: replaced(n, 7, f'<answer>はい、効果があります。<cite id="{1000 + n}">0.74</cite></answer>'),
        *[lambda n, said=said: replaced(n, 6, think(said)) for said in (
            "好的", "เพียงพอแล้ว", "זה מספיק", "Αυτό αρκεί για την απάντηση.",
            "Das ist genug, ich kann nun mit der Antwort beginnen.",
            "Los resultados son muy claros para una respuesta.",
            "Les résultats sont clairs pour cette question, je peux répondre.")],
    ],
}  # fmt: skip


def seeded() -> list[tuple[str | None, dict[str, Any]]]:
    """(gate, row): rows with one defect each, and sound ones."""
    rows: list[tuple[str | None, dict[str, Any]]] = [(None, record(n, sound(n))) for n in range(COUNT)]
    for number, (name, makers) in enumerate(DEFECTS.items(), start=1):
        rows += [(name, makers[n % len(makers)](100 * number + n)) for n in range(COUNT)]
    return rows


ALSO = {
    "unclosed_answer": {"no_citation"},
    "no_answer": {"no_citation"},
    "no_tool_use": {"no_citation"},
    "nothing_found": {"tool_error_share", "no_citation"},
    "ungrounded_citation": {"repetition"},
    "over_token_limit": {"repetition"},
}
"""What some of a gate's defects are defects of too."""


def test_every_gate_finds_all_of_its_own_defects_and_none_of_the_others() -> None:
    assert DEFECTS.keys() == GATES.keys()
    makers = [(name, make) for name, made in DEFECTS.items() for make in made]
    rows = [*seeded(), *((name, make(9000 + at)) for at, (name, make) in enumerate(makers))]
    for name, row in rows:
        found = set(failed_gate_names(parse_trajectory(row)))
        assert found - ALSO.get(name or "", set()) == ({name} if name else set()), row["trajectory"]["interleaved_text"]


def test_greek_letters_and_what_a_tool_wrote_are_no_other_language() -> None:
    row = replaced(1, 2, output(1001, 2001).replace("hazard", "研究结果表明这是有效的"))
    assert failed_gate_names(parse_trajectory(row)) == []
    assert (
        failed_gate_names(parse_trajectory(replaced(2, 0, think("TNF-α, IL-1β and Δ are measured in µg, αβγδεζηθ."))))
        == []
    )


def test_results_of_parallel_calls_belong_to_them_in_their_order() -> None:
    whole = sound(1)
    segments = [whole[0], whole[1], call("other words"), whole[2], output(5001), *whole[3:]]
    row = record(1, segments)
    assert failed_gate_names(parse_trajectory(row)) == []
    assert [piece.call for piece in parse_trajectory(row).of("tool_output")] == [1, 2, 3]


def test_a_gate_names_the_pieces_at_fault() -> None:
    found = failed_gates(parse_trajectory(replaced(1, 3, "<think></think>")))
    assert [(name, [piece.body for piece in segments]) for name, segments in found.items()] == [("empty_think", [""])]
    again = failed_gates(parse_trajectory(replaced(1, 4, call("dapagliflozin 1"))))["duplicate_call"]
    assert [piece.call for piece in again] == [2]


@given(st.lists(st.sampled_from(["<think>", "</think>", "<call_tool name='x'>", "</call_tool>", "<tool_output>",
                                 "</tool_output>", "<answer>", "</answer>", "<cite id='1'>", "</cite>", "a b. 3", "\n"]), max_size=30))  # fmt: skip
def test_any_text_is_taken_apart_without_loss(parts: list[str]) -> None:
    text = "".join(parts)
    segments, unmatched_closing_tags = split_segments(text)
    at, between = 0, ""
    for piece in segments:
        assert piece.start >= at
        assert piece.body in text[piece.start : piece.end]
        between += text[at : piece.start]
        at = piece.end
    assert not re.sub(
        "|".join(f"</{name}>" for name in set(unmatched_closing_tags)) or r"\Z", "", between + text[at:]
    ).strip()
    failed_gate_names(parse_trajectory({"trajectory": {"interleaved_text": text}}))


def test_a_thought_may_talk_about_tags() -> None:
    for said in ("The answer goes inside <answer></answer>.", "It ends with </answer>.", "A <call_tool> is next."):
        assert failed_gate_names(parse_trajectory(replaced(1, 0, think(said)))) == []


@pytest.mark.parametrize("row", [{}, {"trajectory": None}, {"trajectory": {"interleaved_text": 5}, "metadata": []},
                                 {"trajectory": {"interleaved_text": "</answer>", "tool_calls": "x"}}])  # fmt: skip
def test_a_row_of_any_shape_is_judged(row: dict[str, Any]) -> None:
    assert "no_answer" in failed_gate_names(parse_trajectory(row))


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for _, row in seeded()) + "not JSON\n[1]\n", encoding="utf-8")
    return path


def test_an_audit_counts_each_gate_and_its_exit_code_tells_of_hard_ones(rows_file: Path, tmp_path: Path) -> None:
    told = trajgraph("audit", rows_file, "--json", "--write-clean", tmp_path / "clean.jsonl")
    (counts,) = json.loads(told.stdout)
    assert told.returncode == 1
    assert counts["rows"] == COUNT * (len(GATES) + 1) + 2
    assert counts["unreadable"] == 2
    also = Counter(name for found in ALSO.values() for name in found)
    assert counts["gates"]["nothing_found"] == counts["gates"]["forged_tool_output"] == COUNT
    assert {name: counts["gates"][name] for name in GATES if name not in also} == dict.fromkeys(
        GATES.keys() - also, COUNT
    )
    assert counts["clean"] == COUNT
    assert counts["unfit"] == len(DEFAULT_HARD_GATES) * COUNT + 2
    again = trajgraph("audit", tmp_path / "clean.jsonl")
    assert again.returncode == 0
    assert trajgraph("audit", rows_file, "--hard-gates", "nonsense").returncode == 2


def test_an_audit_explains_one_sample(rows_file: Path) -> None:
    told = trajgraph(
        "audit", rows_file, "--explain", f"qwen3_traj_{100 * (1 + list(DEFECTS).index('ungrounded_citation')):05d}"
    )
    assert "ungrounded_citation: A citation of something that had not been shown, or of nothing." in told.stdout
    assert "never_retrieved, nowhere" in told.stdout
    assert trajgraph("audit", rows_file, "--explain", "nobody").returncode == 2
