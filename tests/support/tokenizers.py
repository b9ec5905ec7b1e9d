"""A tokenizer as small as can be: bytes, and pairs of them where that tests something."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ("<|im_start|>", "<|im_end|>")


def byte_tokenizer(folder: Path, template: str | None = None) -> Path:
    """A model's folder with a token a byte (`> ` and a few more are one), and its chat template, if there is one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("<", "/"), (">", "Ċ"), ("Ċ", "<"), (".", "<")]
    words = {word: at for at, word in enumerate([*alphabet, *("".join(pair) for pair in pairs)])}
    made = Tokenizer(models.BPE(words, pairs))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(word, special=True) for word in SPECIAL])
    made.add_tokens([AddedToken("</tool_response>", special=False)])
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    about = {"eos_token": "<|im_end|>", **({"chat_template": template} if template is not None else {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder
