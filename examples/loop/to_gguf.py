"""A small Qwen3 model as a file that llama.cpp serves: to_gguf.py FOLDER FILE.gguf"""

import json
import sys
from pathlib import Path

import gguf
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

folder, target = map(Path, sys.argv[1:])
model, tokenizer = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)
config = model.config

writer = gguf.GGUFWriter(target, "qwen3")
writer.add_name(folder.name)
writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
writer.add_block_count(config.num_hidden_layers)
writer.add_context_length(config.max_position_embeddings)
writer.add_embedding_length(config.hidden_size)
writer.add_feed_forward_length(config.intermediate_size)
writer.add_head_count(config.num_attention_heads)
writer.add_head_count_kv(config.num_key_value_heads)
writer.add_key_length(config.head_dim)
writer.add_value_length(config.head_dim)
writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
writer.add_layer_norm_rms_eps(config.rms_norm_eps)

bpe = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
special = {one["content"] for one in bpe["added_tokens"]}
tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda one: one[1])]
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("dbrx")
writer.add_token_list(tokens)
writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
writer.add_token_merges([" ".join(pair) for pair in bpe["model"]["merges"]])
writer.add_eos_token_id(tokenizer.eos_token_id)
writer.add_pad_token_id(tokenizer.pad_token_id)
writer.add_add_bos_token(False)
writer.add_chat_template(tokenizer.chat_template)

names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers)
for name, weights in model.state_dict().items():
    if name != "lm_head.weight":  # the embeddings again
        values = weights.numpy()
        writer.add_tensor(names.get_name(name, (".weight",)), values if values.ndim == 1 else values.astype("float16"))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
