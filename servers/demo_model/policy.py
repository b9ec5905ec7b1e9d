"""What the demo model says: it reads the conversation, searches, looks at what came back, and answers from it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_CALLS = 4
MAX_KEYWORDS = 5
_WORD = re.compile(r"[A-Za-z0-9][\w+/-]*[\w+]|\w")
_SNIPPET = re.compile(r'<snippet id="([^"]+)">Title: ([^\n]*)\n.*?\nAbstract: (.*?)</snippet>', re.DOTALL)
_CALL = re.compile(r'<call_tool name="(\w+)"[^>]*>([^<]*)</call_tool>')
_PMID = re.compile(r"\b(?:PMID:?\s*)?(\d{7,8})\b")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_FIGURES = re.compile(r"\d+\.\d+|\d+%")
_COMMON = frozenset(
    """a about across after against all along also although among an and any are as associated association at be been
    before being best between both by can clinical compare compared comparison contribute could current data determine
    did differ different do does during each effect effective effectiveness effects efficacy evidence examined following
    for from group has hazard have how if impact in including influence into is it its key known long long-term main
    major may mechanism mechanisms more most of on only or other outcome outcomes over patient patients people phase
    predict prognostic rate rates ratio ratios recent reduce reducing related relate relationship relative reported
    results risk role show shown since six studies study such support supports term than that the their then there these
    they this through to treated treatment trial trials two under use used using versus vs was well were what when where
    whether which while who with within without year years ii iii iv""".split()
)


@dataclass(frozen=True)
class Snippet:
    """A search result as the conversation shows it."""

    identity: str
    title: str
    abstract: str


def reply(messages: Sequence[Mapping[str, Any]]) -> str:
    """The next reply to a chat, thought first. Deterministic; reads only what the messages say."""
    asked = next((at for at, message in enumerate(messages) if message.get("role") == "user"), len(messages))
    question = _text(messages[asked]) if asked < len(messages) else ""
    said = [_text(message) for message in messages if message.get("role") == "assistant"]
    read = "\n".join(_text(message) for message in messages[asked + 1 :] if message.get("role") in ("tool", "user"))
    calls = [call for text in said for call in _CALL.findall(text)]
    words = keywords(question)
    relevant = _relevant(words, [Snippet(*found) for found in _SNIPPET.findall(read)])
    if len(calls) >= MAX_CALLS or "No tool calls are left" in read:
        return _answer(question, words, relevant, "I have no calls left, so I answer from what I have read.")
    if not calls:
        return _search(words[:MAX_KEYWORDS], f"The question is about {', '.join(words[:3])}. A search should find it.")
    tried = {query for _, query in calls}
    if not relevant:
        for size in (3, 2, 1):
            for start in range(0, max(len(words) - size + 1, 0)):
                query = " ".join(words[start : start + size])
                if query not in tried and len(calls) < 3:
                    return _search([query], "Nothing fitting came back, so I try fewer and other words.")
        return _answer(question, words, relevant, "The searches found nothing that fits; I should say so.")
    missing = [word for word in words if not word.islower() and not any(_holds(word, snippet) for snippet in relevant)]
    if missing and len(calls) == 1:
        return _search(missing[:2], f"The results say nothing about {missing[0]} yet; I look for that.")
    best = relevant[0]
    if not any(name == "browse_webpage" for name, _ in calls):
        address = f"https://pubmed.ncbi.nlm.nih.gov/{best.identity}/"
        thought = f"The paper {best.identity} fits best. I read its page to be sure of the figures."
        return f'<think>{thought}</think>\n<call_tool name="browse_webpage">{address}</call_tool>'
    return _answer(question, words, relevant, f"{len(relevant)} papers fit the question; that is enough to answer.")


def keywords(question: str) -> list[str]:
    """The question's own words worth searching for, names and numbers first, each once."""
    found = [word for word in _WORD.findall(question) if word.lower() not in _COMMON and len(word) > 1]
    pmids = _PMID.findall(question)
    named = [word for word in found[1:] if not word.islower() and not word.isdigit()]
    plain = sorted((word for word in found if word.islower()), key=len, reverse=True)
    return list(dict.fromkeys([*pmids, *named, *plain, *found[:1]]))


def _search(words: Sequence[str], thought: str) -> str:
    return f'<think>{thought}</think>\n<call_tool name="pubmed_search" limit="5">{" ".join(words)}</call_tool>'


def _answer(question: str, words: Sequence[str], relevant: Sequence[Snippet], thought: str) -> str:
    if relevant:
        lines = [f'- {_title(snippet)} <cite id="{snippet.identity}">{_best_sentence(words, snippet)}</cite>'
                 for snippet in relevant[:3]]  # fmt: skip
        body = "What the papers I found report:\n\n" + "\n".join(lines)
    else:
        body = "The searches returned no paper that answers this question, so no claim is made here."
    return f"<think>{thought}</think>\n<answer>\n{body}\n</answer>"


def _relevant(words: Sequence[str], snippets: Sequence[Snippet]) -> list[Snippet]:
    """Snippets that hold enough of the question's words, best first, each paper once."""
    unique = {snippet.identity: snippet for snippet in snippets if not snippet.identity.startswith("G")}
    scored = [(sum(_holds(word, snippet) for word in words), snippet) for snippet in unique.values()]
    enough = min(2, len(words))
    kept = [(score, snippet) for score, snippet in scored if score >= enough or snippet.identity in words]
    return [snippet for _, snippet in sorted(kept, key=lambda pair: (-pair[0], pair[1].identity))]


def _holds(word: str, snippet: Snippet) -> bool:
    text = f"{snippet.identity} {snippet.title} {snippet.abstract}".lower()
    return re.search(rf"(?<!\w){re.escape(word.lower())}", text) is not None


def _best_sentence(words: Sequence[str], snippet: Snippet) -> str:
    sentences = _SENTENCE.split(" ".join(snippet.abstract.split()))
    score = [
        sum(word.lower() in sentence.lower() for word in words) + len(_FIGURES.findall(sentence))
        for sentence in sentences
    ]
    return sentences[score.index(max(score))].replace("<", "&lt;").rstrip(".")


def _title(snippet: Snippet) -> str:
    return snippet.title.replace("<", "&lt;").rstrip(".") + "."


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")
