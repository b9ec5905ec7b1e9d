"""What a model server does with a run's requests, found out by asking it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from backends.completion import plain_completion, thought_fields
from backends.errors import BadRequest, ContextOverflow, ModelError, ModelTimeout
from backends.model_client import ChatClient
from backends.model_info import ModelInfo

Messages = list[dict[str, str]]
_LONGEST_PROBE = 60.0
_FIRST_REPLY = 300
"""Tokens of the reply that is looked at."""
_SHORTEST_ROOM = 512
"""Tokens beside prompt and reply, for the tool outputs: with less, none can be shown."""
_OUTPUT = 2500
"""Tokens of a usual tool output."""
_STOPS = ["e", "a", "o"]
"""One of these comes early in whatever a model says."""
_REST_OF_A_WORD = 16
"""Letters that some servers keep behind a stop string: those of the same token."""
_THOUGHT = " ".join(f"First {n} I look at trial number {n} once more." for n in range(12))
_NO_LIMIT = "unknown, and no prompt was refused"
_SEED_PROMPT: Messages = [{"role": "user", "content": "Name five words at random."}]
_SENTENCE: Messages = [{"role": "user", "content": "Write one sentence about the heart."}]


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `missing` makes a run fail, `warning` makes it worse. `flags` are those that mend it."""

    state: Literal["ok", "warning", "missing"]
    what: str
    said: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Reply:
    """An answer: its text with the thought in front, the field that the thought was in, and what was counted."""

    text: str
    thought: str
    field: str | None
    finish_reason: str | None
    prompt_tokens: int
    tokens: int
    seconds: float


class ModelCheck:
    """Asks with the run's own settings. `prompt` is the first prompt of a run."""

    def __init__(
        self,
        chat: ChatClient,
        prompt: Messages,
        *,
        served: ModelInfo,
        max_tokens: int,
        calls: int,
        concurrency: int,
        tool_role: str,
    ) -> None:
        self._chat, self._prompt, self._served = chat, prompt, served
        self._max_tokens, self._calls, self._concurrency, self._tool_role = max_tokens, calls, concurrency, tool_role
        self._extras: dict[str, Any] = dict(chat.EXTRAS)
        self._counts = True
        """Whether what the server says of a prompt's tokens can be a count."""

    async def findings(self) -> AsyncIterator[Finding]:
        """All that is found, each as soon as it is known. After a refusal of the first request there is no more."""
        try:
            extras, first = await self._first()
        except ModelError as error:
            yield Finding("missing", "completion", str(error))
            return
        yield Finding("ok", "completion", f"{first.tokens} tokens in {first.seconds:.1f} s")
        yield extras
        yield _thought(first)
        properties = await self._chat.server_properties()
        context = partial(self._context, first.prompt_tokens, properties)
        with contextlib.suppress(ModelError):
            self._counts = (await self._words(1)).prompt_tokens < first.prompt_tokens
        checks: dict[str, Callable[[], Awaitable[Finding]]] = {
            "stop strings": self._stop_strings, "roles": self._roles, "continuing": self._continuing,
                  "seed": self._seeds, "context": context}  # fmt: skip
        for name, check in checks.items():
            try:
                yield await check()
            except ModelError as error:
                yield Finding("warning", name, f"not known: {error}")
        if isinstance(slots := properties.get("total_slots"), int):
            yield self._slots(slots)

    async def _first(self) -> tuple[Finding, _Reply]:
        most = min(self._max_tokens, _FIRST_REPLY)
        try:
            return Finding("ok", "extra fields", "taken or ignored"), await self._ask(
                self._prompt, most, **self._extras
            )
        except BadRequest:
            refused, self._extras = self._extras, {}
            reply = await self._ask(self._prompt, most)
        return Finding("ok", "extra fields", f"{', '.join(refused)} refused: asked without them"), reply

    async def _stop_strings(self) -> Finding:
        reply = await self._ask(_SENTENCE, 60, stop=_STOPS, **self._extras)
        found = [at for stop in _STOPS if (at := reply.text.find(stop)) >= 0]
        if not found and reply.finish_reason == "stop":
            return Finding("ok", "stop strings", "end a reply, cut from its end: the closing tag is written back")
        behind = len(reply.text) - 1 - min(found, default=0)
        if found and reply.finish_reason == "stop" and behind <= _REST_OF_A_WORD:
            return Finding("ok", "stop strings", "end a reply, and stay at its end")
        if not found:
            return Finding("warning", "stop strings", f"not seen to end a reply ({reply.finish_reason})")
        said = "ignored: replies run on behind a call, and are cut by us (correct, and slower)"
        return Finding("warning", "stop strings", said)

    async def _roles(self) -> Finding:
        try:
            kept = await self._thoughts_kept(self._tool_role)
        except BadRequest as error:
            if self._tool_role != "tool":
                raise
            await self._thoughts_kept("user")
            return Finding("missing", "roles", f"role tool is refused ({error})", ("--tool-role user",))
        if kept is None:
            return Finding(
                "warning", "roles", f"role {self._tool_role} is taken; no tokens counted, so thoughts unknown"
            )
        if kept:
            return Finding("ok", "roles", f"role {self._tool_role} is taken, earlier thoughts are kept by the template")
        said = f"role {self._tool_role} is taken; the template drops the thoughts of earlier turns"
        return Finding("warning", "roles", said, ("--tool-role tool",) if self._tool_role == "user" else ())

    async def _thoughts_kept(self, role: str) -> bool | None:
        """Whether a long thought of an earlier turn counts in the prompt; None where nothing is counted."""
        tokens = []
        for thought in ("I search.", _THOUGHT):
            said = f'<think>\n{thought}\n</think>\n\n<call_tool name="pubmed_search">heart</call_tool>'
            result = {"role": role, "content": "<tool_output>No result.</tool_output>"}
            if role == "tool":
                result["tool_call_id"] = "call-1"
            asked = [*self._prompt, {"role": "assistant", "content": said}, result]
            tokens.append((await self._ask(asked, 1, **self._extras)).prompt_tokens)
        return None if 0 in tokens else tokens[1] - tokens[0] > len(_THOUGHT.split()) // 2

    async def _continuing(self) -> Finding:
        begun = [*_SENTENCE, {"role": "assistant", "content": "<think>\nI know.\n</think>\n\nThe heart is"}]
        asked = {"continue_final_message": True, "add_generation_prompt": False}
        try:
            plain = await self._ask(begun, 1)
            continued = await self._ask(begun, 1, **asked)
        except BadRequest:
            return Finding("ok", "continuing", "refused: a reply that is cut off is asked for again, longer")
        if 0 < continued.prompt_tokens < plain.prompt_tokens and self._chat.continues:
            return Finding("ok", "continuing", "a reply that is cut off is continued where it ended")
        if 0 < continued.prompt_tokens < plain.prompt_tokens:
            said = "known to it; a run continues only replies of servers that name themselves vLLM or SGLang"
            return Finding("ok", "continuing", said)
        return Finding("ok", "continuing", "not known to it: a reply that is cut off is asked for again, longer")

    async def _seeds(self) -> Finding:
        def ask(seed: int) -> Any:
            return self._ask(_SEED_PROMPT, 24, seed=seed, temperature=1.0, stop=None)

        one, again, other = await asyncio.gather(ask(11), ask(11), ask(12))
        if one.text != again.text:
            return Finding("warning", "seed", "the same seed gives other words: samples cannot be made again")
        if one.text == other.text:
            return Finding("warning", "seed", "another seed gives the same words: several samples may be one")
        return Finding("ok", "seed", "the same seed gives the same words, another seed gives others")

    async def _context(self, prompt_tokens: int, properties: dict[str, Any]) -> Finding:
        about, told = properties.get("default_generation_settings"), self._served.max_model_len
        if told is None and isinstance(about, dict) and isinstance(about.get("n_ctx"), int):
            told = about["n_ctx"]
        asked = self._chat.max_model_len if self._chat.max_model_len != told else None
        wanted = prompt_tokens + self._calls * _OUTPUT + self._max_tokens
        if told:
            said = "as you say" if asked else "as it says"
            if asked and asked > told:
                said = f"as it says, and not the {asked:,} that you say"
            return self._fit(min(told, asked or told), said, prompt_tokens, wanted)
        try:
            counted, is_cut = await self._cut_at(max(min(asked or wanted, wanted), 64))
        except ContextOverflow as error:
            if error.max_model_len is None:
                return Finding("warning", "context", f"shorter than {wanted:,} tokens: name it", ("--max-model-len N",))
            return self._fit(error.max_model_len, "as its refusal says", prompt_tokens, wanted)
        except ModelTimeout:
            said = f"unknown: {wanted:,} tokens took more than {_LONGEST_PROBE:g} s to read; name it"
            return Finding("warning", "context", said, ("--max-model-len N",))
        if is_cut:
            said = "at which the server cuts prompts in silence (num_ctx?)"
            fits = self._fit(counted, said, prompt_tokens, wanted)
            return replace(fits, state="ok" if fits.state == "ok" else "missing")
        if asked:
            return self._fit(asked, "as you say", prompt_tokens, wanted)
        return Finding("ok", "context", f"{counted:,} tokens at least" if counted else _NO_LIMIT)

    def _fit(self, size: int, said: str, prompt_tokens: int, wanted: int) -> Finding:
        told = f"{size:,} tokens, {said}"
        flags = () if self._chat.max_model_len == size else (f"--max-model-len {size}",)
        if size >= wanted:
            return Finding("ok", "context", f"{told}: the prompt ({prompt_tokens:,}), outputs and a reply fit", flags)
        reply = min(self._max_tokens, size // 4)
        if size - prompt_tokens - reply < _SHORTEST_ROOM:
            said = f"{told}: too short for the prompt ({prompt_tokens:,}), a tool output and a reply; serve more"
            return Finding("missing", "context", said)
        said = f"{told}; a whole run takes {wanted:,}: outputs will be shortened; serve it with more if you can"
        return Finding("warning", "context", said, (*flags, *self._shorter(size)))

    def _shorter(self, size: int) -> tuple[str, ...]:
        """A budget for replies that leaves room for the outputs, where the run's own does not."""
        return (f"--max-tokens {max(size // 4, 64)}",) if self._max_tokens > size // 4 else ()

    async def _cut_at(self, words: int) -> tuple[int, bool]:
        """Tokens that the server counts in so many words, and whether it left some out: by what it counts in one word
        and in a quarter of them. 0 where it counts nothing.
        """
        try:
            async with asyncio.timeout(_LONGEST_PROBE):
                one, some, all_ = [(await self._words(count)).prompt_tokens for count in (1, words // 4, words)]
        except TimeoutError as error:
            raise ModelTimeout("too long") from error
        if not self._counts or not one < some:
            return 0, False
        expected = one + (some - one) * (words - 1) / (words // 4 - 1)
        return all_, all_ < 0.98 * expected

    async def _words(self, count: int) -> _Reply:
        return await self._ask([{"role": "user", "content": "heart " * count}], 1)

    def _slots(self, slots: int) -> Finding:
        if slots >= self._concurrency:
            return Finding("ok", "slots", f"{slots}, enough for --concurrency {self._concurrency}")
        said = f"{slots} for --concurrency {self._concurrency}: the other questions wait in its line"
        return Finding("warning", "slots", said, (f"--concurrency {slots}",))

    async def _ask(self, messages: Messages, max_tokens: int, **body: Any) -> _Reply:
        started = time.monotonic()
        answer = await self._chat.try_out(messages, max_tokens, **body)
        seconds = time.monotonic() - started
        plain = plain_completion(answer)
        (choice,) = plain["choices"]
        thought, usage = choice["message"].get("reasoning_content", ""), plain["usage"] or {}
        said = (one.get("message") for one in answer["choices"] if isinstance(one, dict))
        fields = [name for message in said if isinstance(message, dict) for name in thought_fields(message)]
        return _Reply(
            thought + choice["message"]["content"], thought, next(iter(fields), None),
            choice.get("finish_reason"), usage.get("prompt_tokens", 0) if self._counts else 0,
            usage.get("completion_tokens", 0), seconds,
        )  # fmt: skip


def _thought(reply: _Reply) -> Finding:
    """Where the thought is, by the first reply."""
    if reply.field:
        ends = (reply.thought[:1].isspace(), reply.thought[-1:].isspace())
        if all(ends):
            return Finding("ok", "thought", f"in `{reply.field}`, white space around it kept")
        side = {(True, False): "behind", (False, True): "before"}.get(ends, "around")
        return Finding("ok", "thought", f"in `{reply.field}`, white space {side} it cut, or there was none")
    if reply.thought:
        return Finding("ok", "thought", "in a part of the content")
    if "<think>" in reply.text or "</think>" in reply.text:
        kept = "white space kept" if reply.text.lstrip().startswith("<think>\n") else "as the model writes it"
        return Finding("ok", "thought", f"in the content, {kept}")
    if reply.tokens > 20 and reply.tokens > 2 * len(reply.text.encode()):
        said = f"lost: {reply.tokens} tokens were counted and {len(reply.text)} characters sent; turn its parser off"
        return Finding("missing", "thought", said)
    return Finding("warning", "thought", "none seen in the first reply")
