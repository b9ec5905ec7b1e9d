"""What trainers train on: trained.py trl|dpo|llamafactory|drtulu ROWS.jsonl TOKENIZER LENGTH. Prints, a row a line, how many
tokens there are, how many count, and the texts of those, run by run. Runs in the trainers' own environment.
"""

import importlib.machinery
import json
import os
import sys
import tempfile
import types
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "DISABLE_VERSION_CHECK": "1"}

from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

trainer, source, folder, length = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
with open(source, encoding="utf-8") as lines:
    rows = [json.loads(line) for line in lines]


def small_model() -> Any:
    """A model too small to be one."""
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), **small, **heads))


def by_trl() -> Any:
    """SFTTrainer's own preparation, with the template that it trains Qwen3 with."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    settings = SFTConfig(
        output_dir=tempfile.mkdtemp(), assistant_only_loss=True, max_length=int(length), packing=False, use_cpu=True, bf16=False,
        report_to=[], eos_token="<|im_end|>",
    )  # fmt: skip
    data = Dataset.from_list([{"messages": row["messages"]} for row in rows])
    made = SFTTrainer(model=small_model(), args=settings, train_dataset=data, processing_class=tokenizer).train_dataset
    return ((one["input_ids"], one["labels"]) for one in made)


def by_dpo() -> Any:
    """DPOTrainer's own preparation and collator: both sides of each pair, what counts in the loss by its mask."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    settings = DPOConfig(
        output_dir=tempfile.mkdtemp(), max_length=int(length), use_cpu=True, bf16=False, report_to=[],
        gradient_checkpointing=False,
    )  # fmt: skip
    data = Dataset.from_list([{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows])
    with tempfile.TemporaryDirectory() as saved:  # the reference model is read from there
        small_model().save_pretrained(saved)
        model = Qwen3ForCausalLM.from_pretrained(saved)
        made = DPOTrainer(model=model, args=settings, train_dataset=data, processing_class=tokenizer)
    for one in made.train_dataset:
        batch = made.data_collator([one])
        for ids, counts in zip(batch["input_ids"].tolist(), batch["completion_mask"].tolist(), strict=True):
            yield ids, [token if counted else -100 for token, counted in zip(ids, counts, strict=True)]


def by_llamafactory() -> Any:
    """Its converter, its template `qwen3` and its supervised processor; rows as its `dataset_info.json` has them."""
    audio = types.ModuleType("torchaudio")
    audio.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    sys.modules["torchaudio"] = audio
    from llamafactory.data.converter import SharegptDatasetConverter
    from llamafactory.data.parser import DatasetAttr
    from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams.data_args import DataArguments

    arguments = DataArguments(template="qwen3", cutoff_len=int(length), enable_thinking=True)
    template = get_template_and_fix_tokenizer(tokenizer, arguments)
    entry = json.loads(Path(source).with_name("dataset_info.json").read_text(encoding="utf-8"))["trajectories"]
    columns = DatasetAttr("file", "rows", formatting=entry["formatting"])
    for name, value in (entry["columns"] | entry.get("tags", {})).items():
        setattr(columns, name, value)
    convert = SharegptDatasetConverter(columns, arguments)
    process = SupervisedDatasetProcessor(template=template, tokenizer=tokenizer, processor=None, data_args=arguments)
    for row in rows:
        made = process.preprocess_dataset({name: [value] for name, value in convert(row).items()})
        yield (made["input_ids"][0], made["labels"][0]) if made["input_ids"] else ([], [])


def masked(ids: list[int], labels: list[int]) -> list[int]:
    """DR Tulu's rule, restated over the bytes of the row: from each `<tool_output` to the next `</tool_output>`."""
    added = tokenizer.get_added_vocab()
    sizes = [len(word.encode()) if word in added else len(word) for word in tokenizer.convert_ids_to_tokens(ids)]
    text, at, spans = tokenizer.decode(ids).encode(), 0, []
    while (start := text.find(b"<tool_output", at)) >= 0 and (end := text.find(b"</tool_output>", start)) >= 0:
        at = end + len(b"</tool_output>")
        spans.append((start, at))
    assert sum(sizes) == len(text)
    ends = list(accumulate(sizes))
    inside = [any(a < end and end - size < b for a, b in spans) for size, end in zip(sizes, ends, strict=True)]
    return [-100 if within else label for within, label in zip(inside, labels, strict=True)]


ways = {"trl": by_trl, "dpo": by_dpo, "llamafactory": by_llamafactory, "drtulu": by_llamafactory}
for ids, labels in ways[trainer]():
    if trainer == "drtulu":
        labels = masked(ids, labels)
    runs = groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != -100)
    texts = [tokenizer.decode([token for token, _ in run]) for counts, run in runs if counts]
    print("row", json.dumps([len(ids), sum(label != -100 for label in labels), texts]))
