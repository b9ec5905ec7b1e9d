"""Addresses of model servers: written in many ways, each read once; what cannot be meant is one line."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.config import ModelConfig
from backends.endpoint_list import EndpointSpec, parse_endpoint, parse_endpoints, read_endpoints
from backends.errors import UsageError
from backends.model_client import load_in

HOSTS = st.sampled_from(["gpu1", "gpu2.lan", "10.0.0.7", "localhost", "[::1]"])
URLS = st.builds("http://{}:{}/v1".format, HOSTS, st.integers(1, 65535))
WEIGHTS, MOST = st.floats(0.001, 1000), st.integers(1, 100_000)
NAMES = st.text(string.ascii_letters + "-_./", min_size=1, max_size=20)


@given(URLS, st.none() | WEIGHTS, st.none() | MOST, st.none() | NAMES, st.randoms())
def test_what_stands_behind_an_address_is_read_in_any_order(url: str, weight, most, model, random) -> None:  # type: ignore[no-untyped-def]
    given = {"weight": weight, "max-in-flight": most, "model": model}
    options = [f"{name}={value}" for name, value in given.items() if value is not None]
    random.shuffle(options)
    spec = parse_endpoint(" , ".join([url, *options]), "--local-model-url")
    assert spec == EndpointSpec(url, 1.0 if weight is None else weight, most, model)


@given(URLS, st.sampled_from(["{}", "{}/", "{}//", "{},weight=2"]), st.booleans())
def test_the_same_address_twice_is_refused_however_it_is_written(url: str, written: str, shouts: bool) -> None:
    again = written.format(url.replace("http://", "HTTP://").replace("localhost", "LOCALHOST") if shouts else url)
    with pytest.raises(UsageError, match="the same address twice"):
        parse_endpoints([url, again], "--local-model-url")


@pytest.mark.parametrize(
    "pair",
    [("http://localhost:8000/v1", "http://127.0.0.1:8000/v1"), ("http://a/v1", "http://a:80/v1"),
     ("https://a/v1", "https://a.:443/v1/"), ("http://[::1]:1/v1", "http://localhost:1/v1")],
)  # fmt: skip
def test_two_names_of_one_address_are_one(pair: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="the same address twice"):
        parse_endpoints(list(pair), "--local-model-url")


@pytest.mark.parametrize(
    "word",
    [
        "http://a/v1,weight=0", "http://a/v1,weight=-1", "http://a/v1,weight=nan", "http://a/v1,weight=", "h:1",
        "http://a/v1,max-in-flight=0", "http://a/v1,max-in-flight=1.5", "http://a/v1,speed=2", "http://a/v1,weight",
        "http://a/v1,weight=1,weight=2", "http://me:secret@a/v1", "http://a/v1?key=secret", "", ",weight=2",
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_one_line_without_a_secret(word: str) -> None:
    with pytest.raises(UsageError) as caught:
        ModelConfig((word,))
    said = str(caught.value)
    assert said.startswith("--local-model-url") and "\n" not in said and "secret" not in said


def test_a_file_names_an_address_a_line_with_comments(tmp_path: Path) -> None:
    file = tmp_path / "endpoints"
    file.write_text("\ufeff# node 1\nhttp://a:8000/v1,weight=2  # eight GPUs\n\n  http://b:8000/v1\n", encoding="utf-8")
    assert read_endpoints(file) == [EndpointSpec("http://a:8000/v1", 2.0), EndpointSpec("http://b:8000/v1")]
    assert ModelConfig(("nonsense",), file).where == "http://a:8000/v1, http://b:8000/v1"
    for content in ("", "# nothing\n", "http://a/v1\nhttp://a:80/v1\n", "\udcff"):
        file.write_text(content, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(UsageError, match=f"--endpoints {file}"):
            read_endpoints(file)
    with pytest.raises(UsageError, match="no regular file"):
        read_endpoints(tmp_path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_endpoints(tmp_path / "missing")


@pytest.mark.parametrize(
    ("metrics", "load"),
    [
        ('# TYPE x gauge\nvllm:num_requests_running{engine="0",model_name="Q"} 3.0\n'
         'vllm:num_requests_running{engine="1",model_name="Q"} 4.0\nvllm:num_requests_waiting{engine="0"} 1e1\n', (7, 10)),
        ('sglang:num_running_reqs{model_name="x"} 2.0\nsglang:num_queue_reqs{model_name="x"} 0.0\n', (2, 0)),
        ("llamacpp:requests_processing 1\nllamacpp:requests_deferred 5\n", (1, 5)),
        ("vllm:num_requests_running_total 5\n", None), ("<html>not found</html>", None), ("", None),
    ],
)  # fmt: skip
def test_the_load_is_read_as_each_server_tells_it(metrics: str, load: tuple[float, float] | None) -> None:
    assert load_in(metrics) == load
