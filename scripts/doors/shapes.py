"""The shapes of models that kinglet trains, and where each can go.

`hf` is the class that transformers must load a shape by, `gguf` the architecture of its GGUF; none where no form is exact and the
export must say which setting it is. `gelu` marks llama.cpp's table of that function, which has 16 bits.
"""

from dataclasses import dataclass, field

# The default preset is the published one, whose scale is another.
PLAIN = {"attention_scale": "head_size"}
ROTARY = PLAIN | {"position": "rotary"}
RMS = ROTARY | {"norm": "rmsnorm"}
PUBLISHED = {"bias": ["proj", "mlp", "head", "norm"], "attention_scale": "n_embd"}


@dataclass
class Shape:
    settings: dict = field(default_factory=dict)
    hf: str | None = None
    gguf: str | None = None
    gelu: bool = False
    # What the GGUF's export has to be told: llama.cpp's GPT-2 has the approximation of GELU only.
    leave: tuple = ()
    tokenizer: str = "char"
    # Documents bring the end-of-text token; a plain text does not.
    documents: bool = False
    preset: str | None = None
    # Part of the light checks.
    light: bool = False
    # The setting that an export must name where there is no form.
    because: str = ""


SHAPES = {
    # Learned positions.
    "published": Shape(PUBLISHED, "GPT2LMHeadModel", "gpt2", light=True),
    "published-ends": Shape(PUBLISHED, "GPT2LMHeadModel", "gpt2", documents=True),
    "gpt2": Shape(PLAIN | {"activation": "gelu_tanh", "bias": True, "tie_weights": True}, "GPT2LMHeadModel", "gpt2", gelu=True, tokenizer="byte", light=True),
    "nanogpt": Shape(PLAIN | {"activation": "gelu", "bias": False, "tie_weights": True}, "GPT2LMHeadModel", "gpt2", gelu=True, leave=("--max-difference", "1e-2")),
    "lecture-gqa": Shape(PUBLISHED | {"n_kv_head": 2}, "GPT2LMHeadModel", "gpt2"),
    "squared": Shape(PUBLISHED | {"activation": "relu_squared"}, "GPT2LMHeadModel", None, because="relu_squared"),
    "bpe-head-bias": Shape(PUBLISHED, "GPT2LMHeadModel", "gpt2", tokenizer="bpe:400", documents=True, light=True),
    # Rotary positions with LayerNorm.
    "starcoder2-relu": Shape(ROTARY | PUBLISHED, "Starcoder2ForCausalLM", "starcoder2"),
    "starcoder2-gelu": Shape(ROTARY | {"activation": "gelu_tanh", "bias": True, "n_kv_head": 2}, "Starcoder2ForCausalLM", "starcoder2", gelu=True),
    "nemotron": Shape(ROTARY | {"activation": "relu_squared", "bias": True}, "Starcoder2ForCausalLM", "nemotron"),
    "kinglet": Shape(ROTARY | PUBLISHED | {"activation": "swiglu"}, "StableLmForCausalLM", "stablelm", light=True),
    "stablelm": Shape(ROTARY | {"activation": "swiglu", "bias": ["qkv", "head", "norm"], "n_kv_head": 2}, "StableLmForCausalLM", "stablelm"),
    # Rotary positions with RMSNorm.
    "llama": Shape(RMS | {"activation": "swiglu", "bias": False}, "LlamaForCausalLM", "llama", tokenizer="bpe:400", documents=True, light=True),
    "llama-gqa-tied": Shape(RMS | {"activation": "swiglu", "bias": False, "n_kv_head": 2, "tie_weights": True, "init": "gpt2"}, "LlamaForCausalLM", "llama", tokenizer="byte"),
    "llama-biases": Shape(RMS | {"activation": "swiglu", "bias": ["qkv", "proj", "mlp"], "n_kv_head": 2}, "LlamaForCausalLM", "llama"),
    "llama-wide-heads": Shape(RMS | {"activation": "swiglu", "bias": False, "head_size": 24, "norm_eps": 1e-6}, "LlamaForCausalLM", "llama"),
    "qwen2": Shape(RMS | {"activation": "swiglu", "bias": ["qkv"], "n_kv_head": 2}, "LlamaForCausalLM", "qwen2", tokenizer="bpe:400", documents=True),
    "qwen2-head-bias": Shape(RMS | {"activation": "swiglu", "bias": ["qkv", "head"]}, None, "qwen2", because="head"),
    "qwen3": Shape(RMS | {"activation": "swiglu", "bias": False, "qk_norm": True, "n_kv_head": 2}, "Qwen3ForCausalLM", "qwen3", light=True),
    "qwen3-wide-heads": Shape(RMS | {"activation": "swiglu", "bias": False, "qk_norm": True, "head_size": 24}, "Qwen3ForCausalLM", "qwen3"),
    "qk-norm-layernorm": Shape(ROTARY | {"qk_norm": True, "activation": "swiglu", "bias": False}, "Qwen3ForCausalLM", "qwen3"),
    "arcee": Shape(RMS | {"activation": "relu_squared", "bias": False}, "ArceeForCausalLM", "arcee"),
    "rms-relu": Shape(RMS | {"activation": "relu", "bias": False}, "LlamaForCausalLM", "llama", light=True),
    # No exact form, except as a graph.
    "softcap": Shape(RMS | {"activation": "swiglu", "bias": False, "logit_softcap": 15.0}, because="logit_softcap"),
    "learned-rms": Shape(PLAIN | {"norm": "rmsnorm", "activation": "swiglu", "bias": False}, because="position"),
    "learned-swiglu": Shape(PLAIN | {"activation": "swiglu", "bias": False}, because="swiglu"),
    "qk-norm-biased": Shape(ROTARY | {"qk_norm": True, "activation": "swiglu", "bias": ["norm"]}, because="qk_norm", light=True),
    "rms-gelu": Shape(RMS | {"activation": "gelu", "bias": False}, because="gelu"),
}  # fmt: skip
