"""The prompt: the system prompt, the nudges, and the history as the server sees it."""

from collections.abc import Mapping, Sequence

from langchain_core.messages import AIMessage, AnyMessage, ToolMessage

from backends.config import TOOL_NAMES
from graph.limits import Limits, ToolRole
from serializers.escaping import escape_tags
from serializers.reply import join_reasoning

_TOOLS = {
    "pubmed_search": """pubmed_search: search PubMed. `limit` is the number of papers to show, 10 at most.
<call_tool name="pubmed_search" limit="5">semaglutide obesity weight loss trial</call_tool>""",
    "browse_webpage": """browse_webpage: read one web page, for example a paper's own page.
<call_tool name="browse_webpage">https://pubmed.ncbi.nlm.nih.gov/31535829/</call_tool>""",
    "google_search": """google_search: search the web, for what PubMed does not hold (guidelines, approvals, news).
<call_tool name="google_search">FDA approval lecanemab label</call_tool>""",
}

_SYSTEM = """You are a biomedical research agent. You answer a question by searching the literature, reading what \
comes back, and citing it.

# Tools
{tools}

# How to work
1. Think first, inside <think>…</think>: what is asked, what is still missing, what to look up next.
2. Make one call per reply, and end the reply with it. The tool's result comes in the next message.
3. {search}
4. You have at most {max_tool_calls} calls in all. When you know enough, or have used them, answer.
5. Answer inside <answer>…</answer>. Put <cite id="PMID">what the paper shows</cite> behind each claim, with the id of a
   snippet you were shown. If the evidence is thin or missing, say so.

# Never
- Never write a tool's result yourself: only the tools do.
- Never invent a PMID, a title or a number. Cite nothing that you have not been shown.
- Never make two calls in one reply, and write nothing behind a call.
- Never write in another language than English.

# Example
A reply that searches:
{example}
A reply that answers:
<think>The first snippet gives the hazard ratio of the primary outcome.</think>
<answer>Dapagliflozin lowered the risk of worsening heart failure or cardiovascular death (hazard ratio 0.74).
<cite id="31535829">DAPA-HF: hazard ratio 0.74, 95% CI 0.65 to 0.85</cite></answer>"""

_PUBMED = "PubMed matches words: give it 3 to 6 keywords, no sentence. If little comes back, use fewer or other words."
_SEARCH = "Ask each tool for what it is made for. If little comes back, ask otherwise."
_EXAMPLE = """<think>I need the primary outcome of DAPA-HF. The trial's name and drug should find it.</think>
<call_tool name="pubmed_search" limit="5">DAPA-HF dapagliflozin heart failure</call_tool>"""

NUDGE_FORMAT = (
    "Your reply had neither a tool call nor an answer. Make one call, written as the system prompt shows, or answer "
    "inside <answer>…</answer>."
)
NUDGE_ANSWER = (
    "No tool calls are left and none will be executed. Write your final answer now, from what you have read, inside "
    "<answer>…</answer>."
)


def system_prompt(
    limits: Limits, tools: Sequence[str] = TOOL_NAMES, descriptions: Mapping[str, tuple[str, str]] | None = None
) -> str:
    """The system prompt for the tools at hand, named as the model calls them. `descriptions` are of other tools than
    ours, by their schemas: what each does, and a call of it.
    """
    others = {name: f"{escape_tags(about)}\n{call}" for name, (about, call) in (descriptions or {}).items()}
    described = "\n".join(
        _TOOLS.get(name) or others.get(name) or f'{name}:\n<call_tool name="{name}">query</call_tool>' for name in tools
    )
    own = "pubmed_search" in tools
    call = described.splitlines()[-1]
    example = _EXAMPLE if own else f"<think>What is missing is what this tool can find.</think>\n{call}"
    return _SYSTEM.format(
        tools=described, max_tool_calls=limits.max_tool_calls, search=_PUBMED if own else _SEARCH, example=example
    )


def prompt_messages(
    system: str, question: str, messages: Sequence[AnyMessage], tool_role: ToolRole = "tool"
) -> list[dict[str, str]]:
    """The request, each message as OpenAI's API takes it: system, question, then what followed.

    What is not the model's own goes back in `tool_role`. With `tool`, Qwen3's chat template keeps every earlier
    thought and the prompt only grows at its end; with `user`, it drops the thoughts before the last message.
    """
    prompt = [{"role": "system", "content": system}, {"role": "user", "content": escape_tags(question)}]
    for message in messages:
        if isinstance(message, AIMessage):  # its call is in the text: sent natively too, it would be twice
            prompt.append({"role": "assistant", "content": message.text})
        else:
            text = "\n".join(filter(None, [message.text, message.additional_kwargs.get("reminder")]))
            prompt.append({"role": tool_role, "content": text})
            if tool_role == "tool":
                answered = message.tool_call_id if isinstance(message, ToolMessage) else message.id
                prompt[-1]["tool_call_id"] = str(answered)
    return prompt


def full_text(reply: AIMessage) -> str:
    """A raw reply as one text, wherever the server put its reasoning."""
    reasoning = reply.additional_kwargs.get("reasoning_content")
    return join_reasoning(reasoning, reply.text) if reasoning else reply.text
