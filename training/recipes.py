"""The lines to paste for the trainers that read a format, with the length at which no row is cut."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from training.trainers import TRAINERS

_STEP = 256
_DEFAULTS = {
    "TRL": TRAINERS["trl"].default_length, "LLaMA-Factory": TRAINERS["llamafactory"].default_length,
    "DR Tulu (its LLaMA-Factory)": TRAINERS["drtulu"].default_length,
    "open-instruct": TRAINERS["open-instruct"].default_length,
}  # fmt: skip
"""The lengths at which trainers cut where nothing is said."""
_TRL = (
    "TRL",
    "python",
    """SFTConfig(assistant_only_loss=True, max_length={length})
# with load_dataset("json", data_files="train.jsonl"), column `messages`""",
)
_OPEN_INSTRUCT = (
    "open-instruct",
    "sh",
    "--mixer_list train.jsonl 1.0 --transform_fn sft_tulu_tokenize_and_truncate_v1 sft_tulu_filter_v1 \\\n"
    "  --max_seq_length {length}",
)
_AXOLOTL = (
    "axolotl",
    "yaml",
    """sequence_len: {length}
datasets:
  - {{path: train.jsonl, ds_type: json, type: chat_template, field_messages: messages, roles_to_train: [assistant]}}""",
)
_LLAMAFACTORY = (
    "LLaMA-Factory",
    "yaml",
    """dataset_dir: .  # this folder, for its dataset_info.json
dataset: trajectories
template: qwen3
enable_thinking: true
cutoff_len: {length}""",
)
_DRTULU = (
    "DR Tulu (its LLaMA-Factory)",
    "yaml",
    """dataset_dir: .  # this folder, for its dataset_info.json
dataset: trajectories
template: qwen3
use_span_masking: true
mask_span_types: "tool_output"
cutoff_len: {length}""",
)
_VERL = (
    "verl",
    "sh",
    """data.train_files=train.parquet data.multiturn.enable=true data.multiturn.messages_key=messages \\
  data.max_length={length} data.truncation=error""",
)
_READ_PACKED = ("TRL", "axolotl")
"""They load by `datasets`, which unpacks; the others go by the file's ending."""
_DPO = ("TRL", "python", "DPOConfig(max_length={length})")
_RECIPES: dict[str, Sequence[tuple[str, str, str]]] = {
    "messages": (_TRL, _OPEN_INSTRUCT, _AXOLOTL), "sharegpt": (_LLAMAFACTORY,), "drtulu": (_DRTULU,),
    "parquet": (_VERL,), "dpo": (_DPO,),
}  # fmt: skip


def advised_length(tokens: Sequence[int]) -> int:
    """The length at which no row is cut."""
    return -(-max(tokens) // _STEP) * _STEP


def recipes(format_name: str, tokens: Sequence[int], file: str) -> str:
    """What to paste, as Markdown; empty where no trainer reads the format."""
    length, plain, shown = advised_length(tokens), unpacked(file), list[str]()
    for name, kind, lines in _RECIPES.get(format_name, ()):
        first = f" (unpack `{file}` first)" if file != plain and name not in _READ_PACKED else ""
        named = lines.format(length=length).replace("train.jsonl", plain if first else file)
        shown.append(f"{name}{first}:\n\n```{kind}\n{named}\n```")
    return "\n\n".join(shown)


def unpacked(name: str) -> str:
    """A file's name without what `--compress` puts behind it."""
    return name.removesuffix(".gz").removesuffix(".zst")


def kept_at(format_name: str, tokens: Sequence[int]) -> dict[str, int]:
    """How many rows keep their end at the lengths at which the trainers of a format cut, and at the advised one."""
    readers = [name for name, _, _ in _RECIPES.get(format_name, ()) if name in _DEFAULTS]
    lengths = {f"{_DEFAULTS[name]:,} ({name}'s default)": _DEFAULTS[name] for name in readers}
    advised = advised_length(tokens)
    lengths[f"{advised:,} (advised)"] = advised
    return {name: sum(one <= length for one in tokens) for name, length in lengths.items()}


def dataset_info(format_name: str, files: Mapping[str, Path]) -> dict[str, str]:
    """LLaMA-Factory's `dataset_info.json`, by its name, of the files of each split, unpacked: it reads no packed ones.
    Nothing for a format that it does not read.
    """
    if format_name == "sharegpt":
        columns, tags = {"messages": "conversations", "system": "system", "tools": "tools"}, {}
    elif format_name == "drtulu":
        columns = {"messages": "conversations"}
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
                "system_tag": "system"}  # fmt: skip
    else:
        return {}
    entry = {"formatting": "sharegpt", "columns": columns, **({"tags": tags} if tags else {})}
    names = {"train": "trajectories", "test": "trajectories_test"}
    entries = {names[split]: {"file_name": unpacked(path.name), **entry} for split, path in files.items()}
    return {"dataset_info.json": json.dumps(entries, indent=1) + "\n"}
