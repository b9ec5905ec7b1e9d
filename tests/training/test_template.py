"""Chat templates: what a row loses in one, or gains, is found before anybody trains on it."""

import json
from pathlib import Path

import pytest

from backends.errors import UsageError
from tests.support.exports import TEMPLATE, export
from tests.support.runs import read_jsonl, trajgraph
from tests.support.trajectories import call, output, record, sound, think
from training.chat_template import ChatTemplate
from training.export import exported
from training.export_spec import ExportSpec
from training.rows import read_rows
from training.sources import Prompts

HEADED = "{% for m in messages %}<|im_start|>ROLE\nCONTENT<|im_end|>\n{% endfor %}"


def template(role: str = "{{ m.role }}", content: str = "{{ m.content }}") -> str:
    return HEADED.replace("ROLE", role).replace("CONTENT", content)


MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(record(n, sound(n))) + "\n" for n in range(3)))
    return path


def verify(rows: Path, source: str, format_name: str = "messages", prompt: str | None = None) -> str:
    """What an export with a template says against it; nothing when every row round-trips through."""
    path = rows.with_name("template.jinja")
    path.write_text(source)
    try:
        exported(
            read_rows(rows),
            rows.with_name("set"),
            ExportSpec(format_name, Prompts(of_file={rows: {"prompt": prompt}})),
            ChatTemplate.read(path),
            described=lambda _: {"README.md": ""},
        )
    except UsageError as error:
        return str(error)
    return ""


MISTRAL = (
    "<s>{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}</s>{% elif m.role == 'tool' %}"
    "[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]{% else %}[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}"
)
GEMMA = (
    "{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}{% set told = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set told = messages %}{% endif %}{% for m in told %}<start_of_turn>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ first if loop.first }}{{ m.content }}<end_of_turn>\n{% endfor %}"
)
NAMED_ENDS = "{% for m in messages %}<|{{ m.role }}_start|>{{ m.content }}<|{{ m.role }}_end|>{% endfor %}"
XML = "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}\n</{{ m.role }}>\n{% endfor %}"
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
IN_TWO = MARKED.replace(
    "{{ m.content }}{% endgeneration %}",
    "{{ m.content[:9] }}{% endgeneration %}{% generation %}{{ m.content[9:] }}{% endgeneration %}",
)


@pytest.mark.parametrize("format_name", ["messages", "sharegpt", "parquet", "drtulu"])
@pytest.mark.parametrize("source", [template(), template(content="{{ m.content | trim }} "), MISTRAL, MARKED, IN_TWO, GEMMA,
                                    NAMED_ENDS, XML, DEFAULT_SYSTEM + template()])  # fmt: skip
@pytest.mark.parametrize("prompt", [None, "You are a research assistant.\nUse <think>."])
def test_a_template_that_writes_every_message_whole_under_its_own_header_is_survived(
    rows: Path, source: str, format_name: str, prompt: str | None
) -> None:
    told = verify(rows, source, format_name, prompt)
    if format_name == "drtulu" and "{% generation %}" in source:  # its one message holds what the tools gave
        assert "the mask of '<tool_output>" in told
        assert "--format messages" in told
    else:
        assert told == ""


@pytest.mark.parametrize("format_name", ["messages", "sharegpt", "parquet"])
@pytest.mark.parametrize(
    ("source", "said"),
    [
        (template(content="{{ m.content | replace('</answer>', '') }}"), "would lose qwen3_traj_00000: the tags of answer"),
        (template(content="{{ m.content | replace('<think>', '') }}"), "the tags of thought"),
        (template(content="{{ m.content | replace(' limit=\"5\"', '') }}"), "the tags of call"),
        (template(content="{{ m.content | replace('tool_output', 'output') }}"), "the tags of result"),
        (template(content="{{ m.content[:200] }}"), "would lose"),
        (template(content="{{ m.content | upper }}"), "would lose"),
        (template(role="assistant"), "the roles: user messages are headed"),
        (template(role="{{ 'user' if m.role == 'assistant' else m.role }}"), "the roles: user messages are headed"),
        (template(role="{{ 'assistant' if m.role == 'tool' else m.role }}"), "the roles: tool messages are headed"),
        (template(role="{{ {'assistant': 'tool', 'tool': 'assistant'}.get(m.role, m.role) }}"), "the roles: tool messages"),
        (template(role="{{ 'assistant\n<tool_response>' if m.role == 'tool' else m.role }}"), "the roles: tool messages"),
        (template(content="{{ m.content.split() | join('') }}"), "would lose"),
        (template(content="{{ m.content }}{% if m.role == 'assistant' %}<think>hm</think>{% endif %}"), "adds <think>"),
        (template(content="{{ m.content }}{% if m.role == 'assistant' %} {{ m.content }}{% endif %}"), "adds <think>"),
        (template() + "<|im_start|>assistant\nThat is all.<|im_end|>", "adds a reply that the model never wrote"),
        (GEMMA + "<start_of_turn>model\nThat is all.<end_of_turn>", "adds a reply that the model never wrote"),
        (MARKED.replace("{% generation %}", "{% generation %}Sure, I say: "), "the mask of 'Sure, I say:'"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "the roles: user messages are headed ''"),
        (template(content="{% if loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}"), "adds <think>"),
        (MARKED.replace("== 'assistant'", "!= 'user'"), "the mask of '<tool_output>"),
        (MARKED.replace("== 'assistant'", "== 'assistant' and not loop.last"), "the mark that trains on '<think>"),
    ],
)  # fmt: skip
def test_what_a_template_loses_adds_or_masks_wrongly_is_named_with_the_mend(
    rows: Path, source: str, said: str, format_name: str
) -> None:
    told = verify(rows, source, format_name)
    assert said in told
    assert "Fix: train with a template" in told
    assert not list(rows.with_name("set").glob("*.*"))


def test_an_answer_without_a_thought_gains_an_empty_one_in_qwen3s_template(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(record(1, [*sound(1)[:6], sound(1)[7]])))
    assert "adds <think>, which the model never wrote" in verify(rows, TEMPLATE.read_text())


@pytest.mark.parametrize("source", ["{{ 1 / 0 }}", "{% for i in range(10000000) %}x{% endfor %}",
                                    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
                                    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"])  # fmt: skip
def test_a_template_that_fails_is_told_for_what_it_is(rows: Path, source: str) -> None:
    assert verify(rows, source).startswith("--verify-template")


def test_rows_that_a_template_adds_a_thought_to_can_be_left_out(rows: Path, tmp_path: Path) -> None:
    with rows.open("a") as more:
        more.write(json.dumps(record(9, [*sound(9)[:6], sound(9)[7]])) + "\n")
    told = verify(rows, TEMPLATE.read_text())
    assert "adds <think>, which the model never wrote (1 of 4 rows). Fix:" in told
    assert "--where thoughtless=0" in told
    left = export(rows, tmp_path / "some", "messages", "--where", "thoughtless=0", "--verify-template", str(TEMPLATE))
    assert len(left) == 3


@pytest.mark.parametrize("source", [template(), MARKED])
def test_characters_that_are_none_and_replies_with_nothing_in_them_stop_no_template(rows: Path, source: str) -> None:
    segments = sound(1)
    segments[2] = segments[2].replace("hazard", "\ufdd0haz\ufdd1ard")
    row = record(1, segments)
    row["metadata"] = {"nudges": [{"at": len("\n".join(segments[:6])), "text": "Answer."}]}
    rows.write_text(json.dumps(row) + "\n")
    assert verify(rows, source) == ""


def test_a_nudge_behind_a_reply_with_nothing_in_it_is_in_the_conversation(tmp_path: Path) -> None:
    whole = sound(1)
    row = record(1, whole)
    at = len("\n".join(whole[:6]))
    row["metadata"] = {
        "nudges": [{"at": 0, "text": "First."}, {"at": at, "text": "Answer."}, {"at": at, "text": "Now."}]
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (made,) = export(tmp_path / "rows.jsonl", tmp_path / "set", "messages", "--verify-template", str(TEMPLATE))
    said = [(message["role"], message["content"]) for message in made["messages"]]
    assert said[1:3] == [("assistant", ""), ("tool", "First.")]
    assert said[-5:-1] == [("assistant", ""), ("tool", "Answer."), ("assistant", ""), ("tool", "Now.")]


def test_a_run_whose_results_are_user_messages_is_told_which_setting_keeps_its_thoughts(
    folder: Path, model_url: str, tools_url: str
) -> None:
    command = ["generate", "--questions-file", folder / "questions.jsonl", "--output", folder / "out", "--limit", "2"]
    made = trajgraph(*command, "--local-model-url", model_url, "--mcp-url", tools_url, "--tool-role", "user")
    assert made.returncode == 0, made.stderr
    (row, _) = export(folder / "out", folder / "set", "messages")
    assert {message["role"] for message in row["messages"]} == {"system", "user", "assistant"}
    lost = trajgraph("export", folder / "out", "--format", "messages", "--output", folder / "lost",
                     "--verify-template", TEMPLATE)  # fmt: skip
    assert "generate with --tool-role tool" in lost.stderr


def test_a_text_is_trained_on_as_it_is_and_no_template_is_asked(rows: Path) -> None:
    assert "no template is applied" in verify(rows, template(), "text")


def test_what_trainers_offer_to_a_template_is_there(rows: Path) -> None:
    source = (
        "{% if strftime_now('%Y') | int < 2000 %}{{ raise_exception('the clock is wrong') }}{% endif %}" + template()
    )
    assert verify(rows, source) == ""


def test_sharegpt_rows_alternate_and_come_in_pairs_whatever_the_trajectory(tmp_path: Path) -> None:
    """LLaMA-Factory skips a conversation that is odd in length or has a sender out of turn."""
    whole = sound(1)
    odd = [
        whole, whole[:6], whole[:3], [output(5), *whole], [*whole[:3], output(9), *whole[3:]],
        [think("I."), call("a b"), call("c d"), output(1), output(2), *whole[6:]], ["Only text."],
    ]  # fmt: skip
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(record(n, segments)) + "\n" for n, segments in enumerate(odd)))
    made = export(rows, tmp_path / "set", "sharegpt", "--hard-gates", "")
    assert len(made) == len(odd)
    for row in made:
        senders = [turn["from"] for turn in row["conversations"]]
        assert len(senders) % 2 == 0
        assert set(senders[0::2]) <= {"human", "observation"}
        assert set(senders[1::2]) == {"gpt"}
        assert [at for at, _, _ in row["train_spans"]] == list(range(1, len(senders), 2))


def test_a_pair_says_what_is_trained_on_in_each_side_and_counts_the_longer(tmp_path: Path) -> None:
    good, bad = record(1, sound(1)), {**record(2, sound(1)[:7]), "question": "Does it help, 1?"}
    bad["trajectory"]["interleaved_text"] += " And so on." * 200
    (tmp_path / "rows.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
    (pair,) = export(tmp_path / "rows.jsonl", tmp_path / "set", "dpo", "--verify-template", str(TEMPLATE))
    assert [said["role"] for said in pair["prompt"]] == ["user", "assistant", "tool", "assistant", "tool"]
    assert [said["role"] for said in (*pair["chosen"], *pair["rejected"])] == ["assistant", "assistant"]
    assert "That is enough" in pair["chosen"][0]["content"] and "And so on." in pair["rejected"][0]["content"]
    assert pair["tokens"] > 200
    (alone,) = [row for row in export(tmp_path / "rows.jsonl", tmp_path / "one", "messages") if row]
    assert pair["tokens"] > alone["tokens"]


def test_a_card_has_the_schema_the_gates_and_a_row_that_is_json(rows: Path, tmp_path: Path) -> None:
    with rows.open("a") as more:
        more.write(
            json.dumps(record(9, [*sound(9)[:3], "<think></think>", *sound(9)[6:7], "<answer>It helps.</answer>"]))
        )
    (first, *_) = export(rows, tmp_path / "set", "messages")
    card = (tmp_path / "set" / "README.md").read_text(encoding="utf-8")
    for column in first:
        assert f"| `{column}` |" in card
    assert "| of these, fail empty_think | 1 |" in card
    for format_name in ("sharegpt", "drtulu", "text", "atif", "records", "parquet"):
        export(rows, tmp_path / format_name, format_name)
        of_other = (tmp_path / format_name / "README.md").read_text(encoding="utf-8")
        assert of_other.count("| whether they fit |") == (format_name != "atif")
    sample = json.loads(card.split("```json")[1].split("```")[0])
    assert sample.keys() == read_jsonl(tmp_path / "set" / "train.jsonl")[0].keys()


def test_each_row_has_the_prompt_that_it_was_made_under(folder: Path, model_url: str, tools_url: str) -> None:
    command = ["generate", "--questions-file", folder / "questions.jsonl", "--output", folder / "out"]
    command += ["--local-model-url", model_url, "--mcp-url", tools_url, "--allow-changed-settings"]
    for number, prompt in enumerate(("Be brief.", "Be thorough."), start=1):
        (folder / "prompt.txt").write_text(prompt)
        done = trajgraph(*command, "--limit", str(number), "--system-prompt-file", folder / "prompt.txt")
        assert done.returncode == 0, done.stderr
    made = export(folder / "out", folder / "set", "messages")
    assert {row["sample_id"][-1]: row["messages"][0]["content"] for row in made} == {
        "1": "Be brief.",
        "2": "Be thorough.",
    }
