"""The table of all flags in the READMEs, made from the settings: `python -m tests.support.flags_table` writes it anew."""

import re
from pathlib import Path

from batch.config import RunConfig
from batch.flags import defaults, flat

ROOT = Path(__file__).resolve().parents[2]
_BEGIN, _END = "<!-- flags -->", "<!-- /flags -->"


def flags() -> dict[str, tuple[str, str]]:
    """Default and meaning by flag, as the settings say."""
    values, found = defaults(RunConfig), {}
    for item, _ in flat(RunConfig):
        about, name, value = item.metadata["setting"], item.name.replace("_", "-"), values.get(item.name)
        flag = (
            f"`--no-{name}`" if value is True else f"`--{name}`" + (f", `{about['short']}`" if about["short"] else "")
        )
        if item.name == "questions_file":
            shown = "required"
        elif item.name == "output":
            shown = f"`{item.default}`"
        else:
            shown = (
                ""
                if value in (None, False, True, [], {})
                else f"`{', '.join(value) if isinstance(value, list) else value}`"
            )
        if item.name == "hard_gates":
            shown = "those marked `!` below"
        found[flag] = (shown, about["help"].replace("|", "\\|"))
    return found


def table(translated: dict[str, str] | None = None) -> str:
    """As Markdown; `translated` has the meanings in another language."""
    heads = ("flag", "default", "") if translated is None else ("参数", "默认值", "含义")
    rows = [
        heads,
        ("---",) * 3,
        *((name, shown, (translated or {}).get(name, text)) for name, (shown, text) in flags().items()),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def in_file(name: str) -> str:
    """The table that a README holds."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return text[text.index(_BEGIN) + len(_BEGIN) : text.index(_END)].strip()


def meanings(name: str) -> dict[str, str]:
    """The meanings by flag that a README's table gives."""
    return dict(re.findall(r"^\| (`.+?) \| .*? \| (.*) \|$", in_file(name), re.MULTILINE))


def _write(name: str, text: str) -> None:
    path = ROOT / name
    old = path.read_text(encoding="utf-8")
    path.write_text(old[: old.index(_BEGIN) + len(_BEGIN)] + f"\n{text}\n" + old[old.index(_END) :], encoding="utf-8")


if __name__ == "__main__":
    _write("README.md", table())
    _write("README.zh-CN.md", table(meanings("README.zh-CN.md")))
