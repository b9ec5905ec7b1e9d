"""What we export is read again as what it was, whatever the format has no place for."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quality.gates import Thresholds, failed_gate_names
from tests.support.trajectories import call, output, record, think
from training.export_spec import ExportSpec
from training.made import singles
from training.messages import messages, text_spans
from training.rows import Row
from training.shapes import as_record

WORDS = st.text("ab é<>&\"'=", min_size=1, max_size=8).map(lambda text: f"w{text}w")
OUTPUTS = st.sampled_from([output(1), output(), "<tool_output>\nThe tag <tool_output> begins it.\n</tool_output>",
                           "<tool_output><webpage>\n\nA page.\n</webpage></tool_output>"])  # fmt: skip
NUDGED, SILENT = "nudged", "silent"
TURNS = st.lists(
    st.one_of(
        st.tuples(WORDS.map(think), st.lists(st.tuples(WORDS.map(call), OUTPUTS), min_size=1, max_size=2)),
        st.tuples(st.just(NUDGED), WORDS.map(think)),
        st.just((SILENT, "")),
    ),
    max_size=4,
)


@st.composite
def records(draw: Any) -> dict[str, Any]:
    parts, nudges, outputs = list[str](), list[dict[str, Any]](), 0
    for first, second in draw(TURNS):
        if first in (NUDGED, SILENT):
            parts += [second] if second else []
            nudges.append({"at": len("\n".join(parts)), "text": draw(st.sampled_from(["Go on.", "Call a tool."]))})
        else:
            asked, given_back = zip(*second, strict=True)
            parts += [first, *asked, *given_back]
            outputs += len(given_back)
    told = st.dictionaries(st.integers(1, max(outputs, 1)).map(str), st.just("One call is left."), max_size=outputs)
    about = {"nudges": nudges, "reminders": draw(told), "tool_role": draw(st.sampled_from(["tool", "user"]))}
    ends = draw(st.sampled_from([[think("So."), "<answer>Yes.</answer>"], ["I think it helps."]]))
    about |= {
        "model": "Qwen3-8B",
        "max_tool_calls": draw(st.integers(0, 3)),
        "finish_reasons": [draw(st.sampled_from(["stop", "length"]))],
    }
    whole = record(1, [*parts, *ends], **{name: value for name, value in about.items() if value})
    return {**whole, "question": draw(WORDS), "system_prompt": draw(st.sampled_from(["You search.", "Use <think>."]))}


@pytest.mark.parametrize("format_name", ["messages", "sharegpt", "drtulu", "parquet", "text", "atif", "records"])
@given(whole=records())
def test_an_export_read_again_is_the_same_trajectory_and_trains_the_same(
    format_name: str, whole: dict[str, Any]
) -> None:
    row, spec = Row(Path("x"), 1, whole), ExportSpec(format_name)
    for made in singles([row], spec, Counter()):
        again = Row(Path("x"), 1, as_record(json.loads(json.dumps(made.whole(spec, 1)))))
        assert (again.text, again.question) == (row.text, row.question)
        assert failed_gate_names(again.parsed, Thresholds()) == failed_gate_names(row.parsed, Thresholds())
        assert again.metadata["model"] == "Qwen3-8B"
        assert text_spans(again) == text_spans(row)
        if format_name != "drtulu":  # whose prompt has no tag without its other half
            role = spec.prompts.tool_role(again)
            assert messages(again, again.own_prompt, role) == messages(row, row.own_prompt, spec.prompts.tool_role(row))
