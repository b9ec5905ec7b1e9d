"""What a run needs, tried before it: the model and the tools are asked, with the run's own settings."""

import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

from backends.endpoint import Endpoint
from backends.errors import BackendError, UsageError
from backends.model_check import Finding, ModelCheck
from backends.services import open_model, open_tools
from backends.tools import ToolClient
from batch.config import RunConfig
from batch.questions import check_questions
from batch.start import safe_prompt
from nodes.prompts import prompt_messages
from serializers.evidence import failed, says_nothing
from serializers.tags import STOP_STRINGS
from serializers.tool_output import render

_QUERIES = {
    "pubmed_search": "heart failure", "browse_webpage": "https://pubmed.ncbi.nlm.nih.gov/31535829/",
    "google_search": "heart failure guideline",
}  # fmt: skip
_QUESTION = "Does dapagliflozin help in heart failure?"
_LONGEST_REPLY = 60.0
_ANY_QUERY = "heart failure"


async def findings(config: RunConfig) -> AsyncIterator[Finding]:
    """All findings, each as soon as it is known. Raises UsageError for settings that no run takes."""
    config.check()
    yield Finding("ok", "python", sys.version.split()[0])
    yield _folder(config.output)
    own_prompt, question = config.prompt(), _first_question(config)
    descriptions: dict[str, tuple[str, str]] = {}
    async with AsyncExitStack() as stack:
        try:
            tools = await stack.enter_async_context(open_tools(config.tools, concurrency=1, failed=failed))
            descriptions = tools.descriptions
            async for finding in _tools(tools):
                yield finding
        except UsageError as error:
            yield Finding("missing", "tools", str(error))
    async with AsyncExitStack() as stack:
        try:
            pool = await stack.enter_async_context(
                open_model(config.model, stop=STOP_STRINGS, concurrency=config.concurrency, timeout=_LONGEST_REPLY)
            )
        except UsageError as error:
            yield Finding("missing", "model", str(error))
            return
        prompt = prompt_messages(safe_prompt(config, descriptions, own_prompt), question, ())
        for endpoint in pool.endpoints.all:
            async for finding in _model(endpoint, config, prompt):
                yield finding


async def _model(endpoint: Endpoint, config: RunConfig, prompt: list[dict[str, str]]) -> AsyncIterator[Finding]:
    """What one of the model's servers does with the run's requests; a run goes on without one that is down."""
    if endpoint.chat is None or endpoint.served is None:
        yield Finding("warning", "model", str(endpoint.fault))
        return
    served, where = endpoint.served, f"{endpoint.served.name} at {endpoint.spec.url}"
    said = f"{where}: {served.unlisted}" if served.unlisted else where
    yield Finding("warning" if served.unlisted else "ok", "model", said)
    check = ModelCheck(
        endpoint.chat, prompt, served=served, concurrency=config.concurrency, tool_role=config.tool_role,
        max_tokens=config.limits.max_tokens, calls=config.limits.max_tool_calls,
    )  # fmt: skip
    async for finding in check.findings():
        yield finding


def _first_question(config: RunConfig) -> str:
    if str(config.questions_file) == ".":
        return _QUESTION
    questions = check_questions(config.questions_file, skip_bad_rows=True)
    return next((row["question"] for _, row in questions.stream()), _QUESTION)


def _folder(output: Path) -> Finding:
    folder = next(parent for parent in (output, *output.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Finding("ok", "output", str(output))
    except OSError as error:
        return Finding("missing", "output", f"{output} cannot be written ({error.strerror})")


async def _tools(tools: ToolClient) -> AsyncIterator[Finding]:
    """A call of each tool; a run needs one that finds something, or of which it is not known."""
    may_find = False
    for name in tools.routes:
        finding = await _called(tools, name)
        may_find |= finding.state == "ok" or name not in _QUERIES
        yield finding
    if not may_find:
        yield Finding("missing", "tools", "none of them answers with something to read")


async def _called(tools: ToolClient, name: str) -> Finding:
    query = _QUERIES.get(name, _ANY_QUERY)
    others = ",".join(one for one in tools.routes if one != name)
    needed = name == "pubmed_search" or not others
    started = time.monotonic()
    try:
        result, _ = await tools.call(name, query, {})
        shown, wrong = render(name, result).text, failed(result)
    except BackendError as error:
        shown, wrong = str(error), True
    seconds, plain = time.monotonic() - started, shown.removeprefix("<tool_output>").removesuffix("</tool_output>")
    said = " ".join(plain.split())[:300]
    if wrong and name not in _QUERIES:
        return Finding("warning", name, f"asked for {query!r} as a model might, it answers with an error: {said}")
    if wrong:
        return Finding("missing" if needed else "warning", name, said, () if needed else (f"--tools {others}",))
    if says_nothing(plain):
        return Finding("warning", name, f"nothing came for {query!r}: {said}")
    return Finding("ok", name, f"{_shape(shown)} in {seconds:.1f} s")


def _shape(shown: str) -> str:
    if snippets := shown.count("<snippet "):
        return f"{snippets} snippets"
    return f"a page of {len(shown):,} characters" if "<webpage>" in shown else f"{len(shown):,} characters"
