"""Strictness for the whole suite, and the servers that tests talk to."""

import os

os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"
os.environ["LANGSMITH_TRACING"] = "false"
for name in (
    "OPENAI_API_KEY",
    "MCP_TRANSPORT_HOST",
    "MCP_TRANSPORT_PORT",
    "MCP_URL",
    "LOCAL_MODEL_URL",
    "MODEL_NAME",
    "OPENAI_BASE_URL",
):
    os.environ.pop(name, None)

collect_ignore = [] if os.environ.get("TRAJGRAPH_REAL") else ["real"]
"""What others wrote is asked by `make real`: it wants environments of its own."""

from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.support.runs import QUESTIONS, write_questions  # noqa: E402
from tests.support.servers import ScriptedModel, demo_model, offline_tools  # noqa: E402

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture
def scripted_model() -> Iterator[ScriptedModel]:
    """A model on a socket that says what the test puts into `replies`."""
    with ScriptedModel().served() as model:
        yield model


@pytest.fixture(scope="session")
def tools_url() -> Iterator[str]:
    """The bundled offline tool server."""
    with offline_tools() as url:
        yield url


@pytest.fixture(scope="session")
def model_url() -> Iterator[str]:
    """The bundled demo model, served as Qwen3-8B."""
    with demo_model() as url:
        yield url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a questions file of six rows."""
    write_questions(tmp_path / "questions.jsonl", QUESTIONS)
    return tmp_path
