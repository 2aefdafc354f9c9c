"""The models that people bring, written anew: the lecture's, nanoGPT's and minGPT's classes with the names and shapes of theirs.

Each is a few lines, because only what a checkpoint holds has to be the same: the names, the shapes and what is computed.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


def masked(scores):
    t = scores.shape[-1]
    return scores.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), -math.inf).softmax(-1)


class Lecture(nn.Module):
    """The lecture's language model: a module for each head, ReLU, an untied head with a bias."""

    def __init__(self, vocab, block, layers, heads, width, scale="head_size"):
        super().__init__()
        self.block = block
        self.token_embedding_table = nn.Embedding(vocab, width)
        self.position_embedding_table = nn.Embedding(block, width)
        self.blocks = nn.Sequential(*(LectureBlock(block, heads, width, scale) for _ in range(layers)))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocab)

    def forward(self, ids):
        x = self.token_embedding_table(ids) + self.position_embedding_table.weight[: ids.shape[1]]
        return self.lm_head(self.ln_f(self.blocks(x)))


class LectureBlock(nn.Module):
    def __init__(self, block, heads, width, scale):
        super().__init__()
        self.sa = LectureAttention(block, heads, width, scale)
        self.ffwd = LectureMlp(width)
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x):
        x = x + self.sa(self.ln1(x))
        return x + self.ffwd(self.ln2(x))


class LectureAttention(nn.Module):
    def __init__(self, block, heads, width, scale):
        super().__init__()
        self.heads = nn.ModuleList(LectureHead(block, width, width // heads, scale) for _ in range(heads))
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        return self.proj(torch.cat([head(x) for head in self.heads], dim=-1))


class LectureHead(nn.Module):
    def __init__(self, block, width, size, scale):
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(width, size, bias=False) for _ in range(3))
        self.register_buffer("tril", torch.ones(block, block).tril())
        # The recorded lecture divides by the root of all channels; its text by that of the head's.
        self.divisor = math.sqrt(width if scale == "n_embd" else size)

    def forward(self, x):
        return masked(self.query(x) @ self.key(x).mT / self.divisor) @ self.value(x)


class LectureMlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, x):
        return self.net(x)


class NanoGpt(nn.Module):
    """nanoGPT's model: one matrix for query, key and value, exact GELU, a tied head, biases everywhere or nowhere."""

    approximate = "none"

    def __init__(self, vocab, block, layers, heads, width, bias=False, tied=True):
        super().__init__()
        self.arguments = dict(n_layer=layers, n_head=heads, n_embd=width, block_size=block, bias=bias, vocab_size=vocab, dropout=0.0)
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(vocab, width),
            "wpe": nn.Embedding(block, width),
            "h": nn.ModuleList(self.block(block, heads, width, bias) for _ in range(layers)),
            "ln_f": nn.LayerNorm(width, bias=bias),
        })  # fmt: skip
        self.lm_head = nn.Linear(width, vocab, bias=False)
        if tied:
            self.lm_head.weight = self.transformer["wte"].weight

    def block(self, block, heads, width, bias):
        return NanoBlock(heads, width, bias, self.approximate)

    def forward(self, ids):
        parts = self.transformer
        x = parts["wte"](ids) + parts["wpe"].weight[: ids.shape[1]]
        for block in parts["h"]:
            x = block(x)
        return self.lm_head(parts["ln_f"](x))


class NanoBlock(nn.Module):
    def __init__(self, heads, width, bias, approximate):
        super().__init__()
        self.approximate = approximate
        self.ln_1, self.ln_2 = nn.LayerNorm(width, bias=bias), nn.LayerNorm(width, bias=bias)
        self.attn = NanoAttention(heads, width, bias)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width, bias=bias), "c_proj": nn.Linear(4 * width, width, bias=bias)})

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate=self.approximate))


class NanoAttention(nn.Module):
    def __init__(self, heads, width, bias):
        super().__init__()
        self.heads = heads
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width, bias=bias), nn.Linear(width, width, bias=bias)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (part.view(b, t, self.heads, -1).transpose(1, 2) for part in self.c_attn(x).chunk(3, dim=-1))
        mixed = masked(q @ k.mT / math.sqrt(q.shape[-1])) @ v
        return self.c_proj(mixed.transpose(1, 2).reshape(b, t, c))


class MinGpt(NanoGpt):
    """minGPT's: nanoGPT's names with biases, GELU by tanh, an untied head, and the causal mask as a buffer."""

    approximate = "tanh"

    def __init__(self, vocab, block, layers, heads, width):
        super().__init__(vocab, block, layers, heads, width, bias=True, tied=False)

    def block(self, block, heads, width, bias):
        made = super().block(block, heads, width, bias)
        made.attn.register_buffer("bias", torch.ones(block, block).tril().view(1, 1, block, block))
        return made


def stir(model, seed):
    """Weights of every size and sign, so that no bias is zero and no norm is one; of what f32 holds."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.dim() < 2:
                tensor.copy_((0.0 if name.endswith("bias") else 1.0) + 0.2 * noise)
            elif "emb" in name or "wte" in name or "wpe" in name:
                tensor.copy_(0.5 * noise)
            else:
                tensor.copy_(noise / math.sqrt(tensor.shape[-1]))
    return model.eval()
