"""What a tool's answer says: its text first, whatever stands beside it."""

import json
from typing import Any

import pytest

from backends.errors import ToolFailed
from backends.tool_result import read_result


def result(*texts: str, **more: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text} for text in texts], **more}


PAPER = {"paperId": "1", "title": "T"}
LINK = {"type": "resource_link", "name": "Trial protocol", "description": "The protocol", "uri": "https://x.org/p.pdf"}


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (result('{"total": 1}'), {"total": 1}),
        (result('{\n  "total": 1\n}'), {"total": 1}),
        (result("plain text"), "plain text"),
        (result(), "No result."),
        (result(" \n"), "No result."),
        (result("[]"), []),
        (result("3.10"), "3.10"),
        (result("null"), "null"),
        (result("No papers", structuredContent={"data": ["x"]}), "No papers"),
        (result('{"total": 2}', structuredContent={"total": 1}), {"total": 2}),
        (result("Found it.", structuredContent={"status": "ok"}), "Found it."),
        (result("x", structuredContent={"result": [1, 2]}), "x"),
        (result("x", structuredContent={"result": "plain"}), "x"),
        (result("See below.", structuredContent={"data": [PAPER]}), {"data": [PAPER]}),
        (result("See below.", structuredContent={"result": [PAPER]}), [PAPER]),
        (result(structuredContent={"result": [1, 2]}), [1, 2]),
        (result(structuredContent={"result": '{"total": 3}'}), {"total": 3}),
        (result(structuredContent={"total": 1}), {"total": 1}),
        (result(json.dumps(PAPER), json.dumps(PAPER), structuredContent={"result": [PAPER, PAPER]}), [PAPER, PAPER]),
        (result(json.dumps(PAPER), json.dumps(PAPER)), [PAPER, PAPER]),
        ({"content": [LINK]}, "Trial protocol: The protocol: https://x.org/p.pdf"),
        ({"content": [{"type": "resource", "resource": {"uri": "file:///a", "text": "inside"}}]}, "inside"),
        ({"content": [{"type": "image", "data": "aGk=", "mimeType": "image/png"}]}, "[image]"),
        (result("[" * 100_000), "[" * 100_000),
    ],
)
def test_results_arrive_as_json_or_as_plain_text(answer: dict[str, Any], value: Any) -> None:
    assert read_result(answer) == value


def test_a_result_that_is_flagged_as_an_error_is_for_the_model_to_read() -> None:
    with pytest.raises(ToolFailed, match="no such page"):
        read_result(result("no such page", isError=True))
