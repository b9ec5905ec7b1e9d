"""Counting tokens with a server's own tokenizer."""

from collections.abc import Callable

import httpx

from backends.errors import UsageError


def count_at(url: str) -> Callable[[str], int]:
    """A count by vLLM's `/tokenize` at an address. Raises UsageError when it does not answer."""
    client = httpx.Client(timeout=30, trust_env=False)

    def count(text: str) -> int:
        try:
            return int(client.post(url, json={"prompt": text}).raise_for_status().json()["count"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"--tokenize-url {url}: no count of tokens ({type(error).__name__})") from error

    return count
