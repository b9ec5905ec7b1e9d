"""How servers differ that say they speak OpenAI's language: each row is what one of them does."""

from dataclasses import dataclass
from typing import Any, Literal

ThinkIn = Literal["think", "reasoning", "reasoning_content", "thinking"]
KNOWN_FIELDS = frozenset(
    "model messages max_tokens max_completion_tokens temperature top_p stop stream stream_options seed n user tools "
    "tool_choice presence_penalty frequency_penalty response_format logprobs top_logprobs".split()
)
"""Fields of OpenAI's own API."""


@dataclass(frozen=True)
class Manners:
    """What a server does where OpenAI's API leaves it open."""

    owned_by: str
    think_in: ThinkIn = "think"
    max_model_len: int = 32768
    tells_length: Literal["max_model_len", "n_ctx", "no"] = "no"
    stop: Literal["cut", "kept", "on request"] = "cut"
    """What becomes of the stop string that ended a reply."""
    names_stop: Literal["stop_reason", "matched_stop", "no"] = "no"
    refuses_unknown: bool = False
    """422 for a field that OpenAI's API does not have."""
    continues: bool = False
    tokenizes: bool = False
    too_long: Literal["400", "flat 400", "n_ctx 400", "422", "cut"] = "400"
    """What becomes of a prompt that is longer than the context; `cut`: its oldest part is left out without a word."""
    finish_reason: str = "stop"
    stream_end: str = ""
    """The end token that it sends at the end of a stream, where the stop string was asked for."""


MANNERS = {
    "vllm": Manners(
        "trajgraph-demo", tells_length="max_model_len", stop="on request", names_stop="stop_reason", continues=True,
        tokenizes=True, stream_end="<|im_end|>",
    ),
    "vllm-parser": Manners(
        "trajgraph-demo", "reasoning", tells_length="max_model_len", stop="on request", names_stop="stop_reason",
        continues=True, tokenizes=True, stream_end="<|im_end|>",
    ),
    "sglang": Manners(
        "sglang", "reasoning_content", tells_length="max_model_len", stop="on request", names_stop="matched_stop",
        continues=True, too_long="flat 400",
    ),
    "llama.cpp": Manners("llamacpp", "reasoning_content", tells_length="n_ctx", too_long="n_ctx 400"),
    "ollama": Manners("library", "thinking", max_model_len=4096, too_long="cut"),
    "lmstudio": Manners("organization_owner", "reasoning_content", max_model_len=4096),
    "tgi": Manners("text-generation-inference", stop="kept", too_long="422", finish_reason="eos_token"),
    "transformers": Manners("local", "reasoning_content", stop="kept", refuses_unknown=True),
}  # fmt: skip
"""`vllm` is the demo model's own; the others as their servers were seen or are described."""


def too_long(manners: Manners, tokens: int, asked: int, size: int) -> tuple[int, dict[str, Any]] | None:
    """Status and body of the refusal of a prompt of so many tokens; None where there is none."""
    if manners.too_long == "cut" or tokens + (asked if manners.too_long == "422" else 1) <= size:
        return None
    if manners.too_long == "422":
        given = f"{tokens} `inputs` tokens and {asked} `max_new_tokens`"
        said = f"Input validation error: `inputs` tokens + `max_new_tokens` must be <= {size}. Given: {given}"
        return 422, {"error": said, "error_type": "validation"}
    if manners.too_long == "flat 400":
        said = f"The input ({tokens} tokens) is longer than the model's context length ({size} tokens)."
        return 400, {"object": "error", "message": said, "type": "BadRequestError", "param": None, "code": 400}
    if manners.too_long == "n_ctx 400":
        said = f"request ({tokens} tokens) exceeds the available context size ({size} tokens), try increasing it"
        about = {"n_prompt_tokens": tokens, "n_ctx": size}
        return 400, {"error": {"code": 400, "message": said, "type": "exceed_context_size_error", **about}}
    said = (
        f"This model's maximum context length is {size} tokens. However, your request has {tokens} input tokens. "
        "Please reduce the length of the input messages."
    )
    return 400, {"error": {"message": said, "type": "BadRequestError", "param": None, "code": 400}}
