"""GGUF files as PyPI's `gguf` writes them, of models that transformers computes: for the import."""

import json

import gguf
import numpy as np
import torch
import transformers as t

from .torch_models import stir

KINDS = {"f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16, "q8_0": gguf.GGMLQuantizationType.Q8_0}
LLAMA = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
GPT2 = {"ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}


def check(cases, tokenizer, ids):
    """Models of 64 channels, so that rows are whole blocks of 32 numbers."""
    v, block = len(tokenizer), 64
    sizes = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 vocab_size=v, max_position_embeddings=block, bos_token_id=0, eos_token_id=0)  # fmt: skip
    made = {
        "llama": (t.LlamaForCausalLM, t.LlamaConfig(**sizes, rms_norm_eps=1e-6, rope_theta=5000.0)),
        "qwen2": (t.Qwen2ForCausalLM, t.Qwen2Config(**sizes)),
        "qwen3": (t.Qwen3ForCausalLM, t.Qwen3Config(**sizes, head_dim=32, tie_word_embeddings=True)),
        "gpt2": (t.GPT2LMHeadModel, t.GPT2Config(vocab_size=v, n_positions=block, n_layer=2, n_head=4, n_embd=64, bos_token_id=0, eos_token_id=0)),
    }
    for arch, (kind, config) in made.items():
        for dtype in ("f32", "f16", "q8_0") if arch == "llama" else ("f32",):
            model = stir(kind(config), 40)
            name = f"gguf-{arch}-{dtype}"
            write(cases.case(name) / "model.gguf", model, arch, dtype, tokenizer)
            cases.add(name, "model.gguf", model, [], ids=ids, block=block)


def write(path, model, arch, dtype, tokenizer):
    """Writes a model; its weights become what the file has of them."""
    writer, config = gguf.GGUFWriter(path, arch), model.config
    width, heads = config.hidden_size, config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(width)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(heads)
    if arch == "gpt2":
        writer.add_feed_forward_length(4 * width)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        size = getattr(config, "head_dim", None) or width // heads
        writer.add_rope_dimension_count(size)
        if size != width // heads:
            writer.add_key_length(size)
            writer.add_value_length(size)
    if tokenizer is None:
        words(writer, ["<|endoftext|>", "a", "b", "ab", "c"], ["a b"])
    else:
        vocabulary(writer, tokenizer)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            theirs = renamed(name, arch)
            if theirs is not None:
                stored, read = tensor_of(tensor, theirs, arch, dtype, width // heads)
                writer.add_tensor(theirs, stored, raw_dtype=KINDS[dtype] if stored.dtype == np.uint8 else None)
                tensor.copy_(read)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor_of(tensor, name, arch, dtype, size):
    """What is stored, and what that is read as, in the order of transformers."""
    turned = arch == "gpt2" and tensor.dim() == 2 and name.startswith("blk")
    ours = tensor.T if turned else tensor
    pairs = arch == "llama" and ("attn_q." in name or "attn_k." in name)
    if pairs:
        ours = ours.view(-1, 2, size // 2, ours.shape[1]).transpose(1, 2).reshape(ours.shape)
    numbers = ours.contiguous().float().numpy()
    kind = KINDS[dtype]
    if numbers.ndim < 2 or dtype == "f32":
        stored, read = numbers, numbers
    elif dtype == "f16":
        stored = numbers.astype(np.float16)
        read = stored.astype(np.float32)
    else:
        stored = gguf.quants.quantize(numbers, kind)
        read = gguf.quants.dequantize(stored, kind)
    back = torch.from_numpy(np.array(read, np.float32))
    if pairs:
        back = back.view(-1, size // 2, 2, back.shape[1]).transpose(1, 2).reshape(back.shape)
    return stored, back.T if turned else back


def renamed(name, arch):
    """llama.cpp's name of a parameter; none for a head that is the embedding."""
    whole = {
        "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight",
        "transformer.wte.weight": "token_embd.weight", "transformer.wpe.weight": "position_embd.weight",
        "transformer.ln_f.weight": "output_norm.weight", "transformer.ln_f.bias": "output_norm.bias",
    }  # fmt: skip
    if name in whole:
        return whole[name]
    _, _, layer, rest = name.split(".", 3)
    module, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{(GPT2 if arch == 'gpt2' else LLAMA)[module]}.{kind}"


def vocabulary(writer, tokenizer):
    inner = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in inner["model"]["merges"]]
    words(writer, tokens, merges)


def words(writer, tokens, merges):
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == "<|endoftext|>" else 1 for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
