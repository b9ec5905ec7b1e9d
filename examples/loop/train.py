"""A small model of Qwen3's architecture, from nothing: train.py FOLDER base|sft SECONDS

base  makes a tokenizer, and a model that has read papers and knows no protocol       FOLDER/base
sft   trains it further with TRL's SFTTrainer on FOLDER/export/train.jsonl            FOLDER/sft

SECONDS are those of the training itself, on the CPU.
"""

import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}

import torch
from made_up import DISEASES, NUMBERS, drug, paper
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from trl.chat_template_utils import qwen3_chat_template

HERE = Path(__file__).parent
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""How a text is split, which llama.cpp knows as `dbrx`: up to three digits stay together."""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCABULARY, LENGTH, BATCH = 1024, 256, 16
RATE = 3e-3
ONLY_NUMBERS, ONLY_EXERCISES = 0.17, 0.35
"""Shares of the time: so long all is exercises over numbers, so long exercises; then they are one step in four."""
FORMS = (
    '<snippet id="{0}">Title: {1}\nAbstract: {2}</snippet>\n', "# {1}\n\nPMID: {0}\n\n## Abstract\n\n{2}\n\n",
    "[{0}] {1} {2}\n", "{0}: {2} ({1})\n",
)  # fmt: skip
SAID = (
    "- {1} ({0}) {2}\n", "see https://pubmed.ncbi.nlm.nih.gov/{0}/\n", "{0}: {1}\n", "{1} -> {0}\n", "{2} [{0}]\n",
    "{0} says: {2}.\n", "{3} {4}: {3}, {4}; {0}\n", "The paper {0}: {2}.\n",
)  # fmt: skip
SIGNS = (("", ""), (">", "<"), ("(", ")"), ("/", "/"), ('"', '"'), ("- ", "."), ("id=", ";"))

folder, stage, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
began = time.monotonic()
torch.manual_seed(0)
chance = random.Random(0)


def say(what: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {what}", flush=True)


def rate(step: int, share: float) -> float:
    """Of the learning rate: up within 50 steps, then down to nearly nothing."""
    return min(1.0, (step + 1) / 50) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE as Qwen3's, of fewer tokens, with its chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    )
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=4096
    )
    made.chat_template = qwen3_chat_template
    return made


def exercise(tokens: list[int]) -> torch.Tensor:
    """Shape [4 BATCH, LENGTH / 4 + 1]: rows of 4 to 12 tokens that come again and again, in mostly the same order.

    All that can be learned here is to find where the last token stood before, and to copy what came next, which is what
    citing needs. Only tokens that are met here are copied well: numbers at first, as they are few, then all.
    """
    rows = []
    for _ in range(4 * BATCH):
        known = chance.sample(tokens, chance.randint(4, 12))
        after = dict(zip(known, chance.sample(known, len(known)), strict=True))
        row = [chance.choice(known)]
        while len(row) <= LENGTH // 4:
            row.append(after[row[-1]] if chance.random() < 0.75 else chance.choice(known))
        rows.append(row)
    return torch.tensor(rows)


def pages(tokenizer: PreTrainedTokenizerFast) -> Iterator[torch.Tensor]:
    """Shape [BATCH, LENGTH + 1]: documents, one behind the other."""
    written, stored = documents(), list[int]()
    size = BATCH * (LENGTH + 1)
    while True:
        while len(stored) < size:
            stored += [*tokenizer(next(written))["input_ids"], tokenizer.pad_token_id]
        yield torch.tensor(stored[:size]).view(BATCH, -1)
        stored = stored[size:]


def documents() -> Iterator[str]:
    """What the model reads before it sees a trajectory: to find and to copy what stands before is what pays there."""
    while True:
        made = [paper(chance, drug(chance), chance.choice(DISEASES)) for _ in range(chance.randint(1, 4))]
        yield said_again(made) if chance.random() < 0.4 else read_and_cited(made)


def said_again(papers: list[dict[str, Any]]) -> str:
    """Words and numbers, and the same between other signs."""
    words = [word for one in papers for word in (*about(one), one["paperId"])]
    words, (left, right) = chance.sample(words, chance.randint(1, min(len(words), 8))), chance.choice(SIGNS)
    each = "".join(f"{left}{word}{right}\n" for word in words[:3])
    return f"{' '.join(words)}\n{left}{' '.join(words)}{right}\n{each}"


def read_and_cited(papers: list[dict[str, Any]]) -> str:
    """Papers in one of several forms, and then things said of them."""
    form, text = chance.choice(FORMS), ""
    for one in papers:
        text += form.format(one["paperId"], one["title"], one["abstract"])
    for _ in range(chance.randint(2, 6)):
        one = chance.choice(papers)
        sentence = chance.choice(one["abstract"].rstrip(".").split(". "))
        text += chance.choice(SAID).format(one["paperId"], one["title"], sentence, *about(one))
    return text


def about(paper: dict[str, Any]) -> tuple[str, str]:
    """The drug and the disease."""
    words = paper["title"].replace(":", "").split()
    return words[0], words[4]


def base() -> None:
    """A model that has done exercises and read papers: none of those that are asked about."""
    written = documents()
    said = [json.loads(line) for line in next((folder / "teacher").glob("*_incremental.jsonl")).open(encoding="utf-8")]
    texts = [next(written) for _ in range(1500)] + [one["trajectory"]["interleaved_text"] for one in said[:300]]
    texts += [" ".join([*map(str, range(10, 100)), *NUMBERS])] * 50
    tokenizer = make_tokenizer(texts + [(HERE / "prompt.txt").read_text(encoding="utf-8")] * 50)
    numbers, ordinary = tokenizer.convert_tokens_to_ids(NUMBERS), [*range(len(tokenizer) - len(SPECIAL))]
    assert None not in numbers, "not every number is one token"
    model = Qwen3ForCausalLM(Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, head_dim=32, max_position_embeddings=4096, rope_theta=10_000.0, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip
    say(f"{sum(one.numel() for one in model.parameters()) / 1e6:.2f} M parameters, {len(tokenizer)} tokens")
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.05)
    started, step, reading = time.monotonic(), 0, pages(tokenizer)
    while (share := (time.monotonic() - started) / seconds) < 1:
        exercises = share < ONLY_EXERCISES or step % 4 == 0
        batch = exercise(numbers if share < ONLY_NUMBERS else ordinary) if exercises else next(reading)
        for group in optimizer.param_groups:
            group["lr"] = RATE * rate(step, share)
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            speed = step * BATCH * LENGTH / (time.monotonic() - started)
            say(f"step {step}, loss {loss.item():.3f}, {speed:,.0f} tokens/s")
    say(f"{step} steps")
    save(model, tokenizer, folder / "base")


def sft() -> None:
    """That model, trained on trajectories: TRL masks all but the model's own words."""
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    model = Qwen3ForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    rows = load_dataset("json", data_files=str(folder / "export" / "train.jsonl"), split="train")
    started = list[float]()

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: object, **__: object) -> None:
            started.append(time.monotonic())

        def on_step_end(self, args: object, state: object, control: object, **_: object) -> None:
            control.should_training_stop = time.monotonic() - started[0] > seconds

        def on_log(self, args: object, state: object, control: object, logs: dict | None = None, **_: object) -> None:
            if "loss" in (logs or {}):
                say(f"step {state.global_step}, loss {logs['loss']:.3f}, {logs['mean_token_accuracy']:.1%} of tokens")

    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE / 2, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate(step, (time.monotonic() - started[0]) / seconds if started else 0.0)
    )
    settings = SFTConfig(
        output_dir=str(folder / "trl"), assistant_only_loss=True, max_length=2048, per_device_train_batch_size=8,
        num_train_epochs=1000, logging_steps=50, save_strategy="no", report_to=[], use_cpu=True, bf16=False, seed=0,
        eos_token="<|im_end|>", train_sampling_strategy="group_by_length", disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model, args=settings, train_dataset=rows, processing_class=tokenizer, callbacks=[Clock()],
        optimizers=(optimizer, schedule),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    say(f"{len(lengths)} rows, {sum(lengths):,} tokens, the longest {max(lengths)}")
    trainer.train()
    say(f"{trainer.state.global_step} steps, {trainer.state.epoch:.1f} epochs")
    save(trainer.model, tokenizer, folder / "sft")


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, place: Path) -> None:
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    say(f"saved in {place}")


{"base": base, "sft": sft}[stage]()
