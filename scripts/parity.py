"""Writes tests/fixtures/parity-*.safetensors: what PyTorch computes, in float64, for models kinglet must agree with.

    pip install torch numpy safetensors
    python scripts/parity.py [NAME...]

Weights and tokens come from a formula (SplitMix64) that tests/parity.rs repeats, so a fixture holds results only:
the loss and a sample of the logits, norm, projection and a sample of every gradient tensor, and the losses of ten
AdamW steps.
"""

import math
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.numpy import save_file

CONFIGS = {
    # The published models, without dropout: its masks cannot be the same.
    "big-0.2m": dict(v=65, t=32, layers=4, heads=4, c=64, act="relu", biases="proj mlp head norm", tied=False,
                     scale="n_embd", betas=(0.9, 0.999), decay=0.01, decay_all=True, clip=0.0),
    "big-2.7m": dict(v=65, t=32, layers=6, heads=6, c=192, act="relu", biases="proj mlp head norm", tied=False,
                     scale="n_embd", betas=(0.9, 0.999), decay=0.01, decay_all=True, clip=0.0),
    # GPT-2's shape, small: GELU (tanh), biases, tied head, decay on matrices, clipping.
    "gpt2-tiny": dict(v=97, t=24, layers=2, heads=4, c=48, act="gelu_tanh", biases="qkv proj mlp norm", tied=True,
                      scale="head_size", betas=(0.9, 0.95), decay=0.1, decay_all=False, clip=0.5),
    # nanoGPT's character models: exact GELU, no bias anywhere.
    "char-tiny": dict(v=40, t=16, layers=2, heads=2, c=32, act="gelu", biases="", tied=True,
                      scale="head_size", betas=(0.9, 0.99), decay=0.1, decay_all=False, clip=1.0),
    # Muon on the matrices inside the blocks; query, key and value apart.
    "muon-tiny": dict(v=40, t=16, layers=2, heads=2, c=32, act="relu", biases="proj mlp head norm", tied=False,
                      scale="n_embd", betas=(0.9, 0.95), decay=0.1, decay_all=True, clip=0.0, muon=0.02),
    # RMSNorm and SwiGLU, of a width that 8/3 c is rounded to.
    "rms-swiglu-tiny": dict(v=40, t=16, layers=2, heads=2, c=32, act="swiglu", inner=88, biases="proj mlp", tied=False,
                            scale="head_size", betas=(0.9, 0.999), decay=0.01, decay_all=True, clip=0.0,
                            norm="rmsnorm"),
    # ReLU squared, a narrow MLP, capped logits whose log-sum-exp is held to 0.
    "squared-capped-tiny": dict(v=40, t=16, layers=2, heads=2, c=32, act="relu_squared", inner=72, biases="head norm",
                                tied=False, scale="head_size", betas=(0.9, 0.999), decay=0.01, decay_all=True,
                                clip=0.0, softcap=1.5, z_loss=0.01),
    # Today's attention: rotary positions, two heads for each key and value, norms of queries and keys.
    "rotary-gqa": dict(v=51, t=20, layers=2, heads=4, kv_heads=2, c=48, act="gelu", biases="qkv proj", tied=True,
                       scale="head_size", rotary=10000.0, qk_norm=True, betas=(0.9, 0.99), decay=0.1, decay_all=False,
                       clip=1.0),
    # Rotary positions alone, heads of another size, frequencies closer together.
    "rotary-tiny": dict(v=30, t=17, layers=3, heads=2, c=28, act="relu", biases="mlp head norm", tied=False,
                        scale="n_embd", rotary=500.0, betas=(0.9, 0.999), decay=0.01, decay_all=True, clip=0.0),
    # Heads wider together than the residual stream, and an epsilon that can be seen, in both kinds of norm.
    "wide-heads": dict(v=37, t=18, layers=2, heads=4, kv_heads=2, hs=14, c=24, act="swiglu", inner=64, biases="",
                       tied=False, scale="head_size", rotary=10000.0, qk_norm=True, norm="rmsnorm", eps=0.02,
                       betas=(0.9, 0.95), decay=0.1, decay_all=False, clip=1.0),
    # Heads narrower than that, of which there are as many as do not divide it.
    "narrow-heads": dict(v=33, t=16, layers=2, heads=3, hs=6, c=32, act="gelu", biases="qkv proj norm", tied=True,
                         scale="head_size", eps=0.05, betas=(0.9, 0.95), decay=0.1, decay_all=True, clip=0.0,
                         muon=0.02),
    # Convolutions of queries, keys and values, of which there are fewer heads.
    "conv-gqa": dict(v=40, t=16, layers=2, heads=4, kv_heads=2, c=32, act="relu", biases="qkv proj", tied=False,
                     scale="head_size", rotary=10000.0, conv=3, res_conv=2, betas=(0.9, 0.95), decay=0.1, decay_all=False, clip=1.0),
}
BATCH, STEPS, LR, SAMPLE = 4, 10, 1e-3, 64


def uniform(key, n):
    """The first n numbers in [0, 1) of SplitMix64's stream `key`, 53 random bits each."""
    with np.errstate(over="ignore"):
        z = np.uint64(key) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) / 2.0**53


def key_of(name):
    key = 0
    for byte in name.encode():
        key = (key * 31 + byte) % 2**64
    return key


def weights(name, shape):
    """Weights of a plausible size, rounded to float32 as kinglet holds them."""
    u = 2.0 * uniform(key_of(name), math.prod(shape)) - 1.0
    if name.endswith(".bias"):
        w = 0.1 * u
    elif len(shape) == 1:
        w = 1.0 + 0.2 * u
    elif ".wte." in name or ".wpe." in name:
        w = 0.5 * u
    else:
        w = u / math.sqrt(shape[1])
    return torch.tensor(w.astype(np.float32).astype(np.float64).reshape(shape))


def batch(step, cfg):
    n = BATCH * (cfg["t"] + 1)
    tokens = (uniform(1_000_000 + step, n) * cfg["v"]).astype(np.int64).reshape(BATCH, cfg["t"] + 1)
    return torch.tensor(tokens[:, :-1]), torch.tensor(tokens[:, 1:])


def rotate(x, theta):
    """RoFormer's rotation of (b, heads, t, hs): channel i turns against channel i + hs / 2, as complex numbers."""
    t, half = x.shape[-2], x.shape[-1] // 2
    angles = torch.outer(torch.arange(t, dtype=x.dtype), theta ** (-torch.arange(half, dtype=x.dtype) / half))
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag), dim=-1)


class Attention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        c = cfg["c"]
        self.heads, self.kv_heads, self.theta = cfg["heads"], cfg.get("kv_heads", cfg["heads"]), cfg.get("rotary")
        self.hs, eps = cfg.get("hs", c // self.heads), cfg.get("eps", 1e-5)
        self.q, self.kv = self.heads * self.hs, self.kv_heads * self.hs
        self.scale = 1.0 / math.sqrt(c if cfg["scale"] == "n_embd" else self.hs)
        self.c_attn = nn.Linear(c, self.q + 2 * self.kv, bias="qkv" in cfg["biases"])
        self.c_proj = nn.Linear(self.q, c, bias="proj" in cfg["biases"])
        if cfg.get("conv"):
            width, self.before = self.q + 2 * self.kv, cfg["conv"] - 1
            self.conv = nn.Conv1d(width, width, cfg["conv"], groups=width, bias=False)
        if cfg.get("qk_norm"):
            self.q_norm, self.k_norm = nn.RMSNorm(self.hs, eps=eps), nn.RMSNorm(self.hs, eps=eps)

    def forward(self, x):
        b, t, _ = x.shape
        qkv = self.c_attn(x)
        if hasattr(self, "conv"):
            qkv = self.conv(F.pad(qkv.transpose(1, 2), (self.before, 0))).transpose(1, 2)
        parts = qkv.split((self.q, self.kv, self.kv), dim=-1)
        q, k, v = (z.view(b, t, -1, self.hs).transpose(1, 2) for z in parts)
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        if self.theta:
            q, k = rotate(q, self.theta), rotate(k, self.theta)
        k, v = (z.repeat_interleave(self.heads // self.kv_heads, dim=1) for z in (k, v))
        scores = self.scale * q @ k.transpose(-2, -1)
        scores = scores.masked_fill(torch.ones(t, t).tril() == 0, -torch.inf)
        return self.c_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, self.q))


class Mlp(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        c, bias = cfg["c"], "mlp" in cfg["biases"]
        inner = cfg.get("inner", 4 * c)
        self.c_fc = nn.Linear(c, 2 * inner if cfg["act"] == "swiglu" else inner, bias=bias)
        self.c_proj = nn.Linear(inner, c, bias=bias)
        self.act = {
            "relu": F.relu,
            "relu_squared": lambda x: F.relu(x).square(),
            "gelu": F.gelu,
            "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
            "swiglu": lambda x: F.silu(x[..., :inner]) * x[..., inner:],
        }[cfg["act"]]

    def forward(self, x):
        return self.c_proj(self.act(self.c_fc(x)))


def norm(cfg):
    if cfg.get("norm") == "rmsnorm":
        return nn.RMSNorm(cfg["c"], eps=cfg.get("eps", 1e-5))
    return nn.LayerNorm(cfg["c"], eps=cfg.get("eps", 1e-5), bias="norm" in cfg["biases"])


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = norm(cfg), Attention(cfg), norm(cfg), Mlp(cfg)
        c, taps = cfg["c"], cfg.get("res_conv", 0)
        self.conv = nn.Conv1d(c, c, taps, groups=c, bias=False, padding=taps - 1) if taps else None

    def forward(self, x):
        if self.conv is not None:
            x = self.conv(x.transpose(1, 2))[:, :, :x.shape[1]].transpose(1, 2)
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(cfg["v"], cfg["c"]),
            **({} if "rotary" in cfg else {"wpe": nn.Embedding(cfg["t"], cfg["c"])}),
            h=nn.ModuleList(Block(cfg) for _ in range(cfg["layers"])),
            ln_f=norm(cfg),
        ))
        self.lm_head = nn.Linear(cfg["c"], cfg["v"], bias="head" in cfg["biases"])
        self.softcap = cfg.get("softcap", 0.0)
        if cfg["tied"]:
            self.lm_head.weight = self.transformer.wte.weight

    def forward(self, ids):
        x = self.transformer.wte(ids)
        if "wpe" in self.transformer:
            x = x + self.transformer.wpe(torch.arange(ids.shape[1]))
        for block in self.transformer.h:
            x = block(x)
        z = self.lm_head(self.transformer.ln_f(x))
        return self.softcap * torch.tanh(z / self.softcap) if self.softcap > 0.0 else z


def sample(tensor):
    """SAMPLE elements evenly spread over a tensor, or all of a small one."""
    flat = tensor.detach().reshape(-1).numpy()
    return flat[:: max(1, len(flat) // SAMPLE)].copy()


@contextmanager
def muon_in_double():
    """torch.optim.Muon rounds what it makes orthogonal to bfloat16; here it computes that in float64 too."""
    bfloat16, torch.bfloat16 = torch.bfloat16, torch.float64
    try:
        yield
    finally:
        torch.bfloat16 = bfloat16


class Muon:
    """torch.optim.Muon on parts of parameters: query, key and value stand in one, but each is a matrix."""

    def __init__(self, named, lr, decay):
        self.parts = []
        for name, p in named:
            for rows in torch.arange(len(p)).chunk(3 if "c_attn" in name else 1):
                part = nn.Parameter(p.data[rows[0] : rows[-1] + 1])
                self.parts.append((part, p, rows))
        self.muon = torch.optim.Muon([part for part, _, _ in self.parts], lr=lr, weight_decay=decay)

    def step(self):
        for part, p, rows in self.parts:
            part.grad = p.grad[rows]
        with muon_in_double():
            self.muon.step()


def muon_matrices():
    """Single matrices after each of three steps of torch.optim.Muon: as it is, in bfloat16, and in float64."""
    out = {}
    for rows, cols in [(24, 24), (16, 48), (48, 16), (1, 5), (33, 7)]:
        for double in [False, True]:
            name = f"{rows}x{cols}"
            p = nn.Parameter(weights(name, (rows, cols)))
            muon = torch.optim.Muon([p], lr=0.02, weight_decay=0.1, momentum=0.9)
            steps = []
            for step in range(3):
                p.grad = weights(f"{name}.{step}", (rows, cols))
                with muon_in_double() if double else nullcontext():
                    muon.step()
                steps.append(p.detach().numpy().reshape(-1).copy())
            out[f"{name}.{'float64' if double else 'bfloat16'}"] = np.concatenate(steps)
    return out


def fixture(cfg):
    model = Gpt(cfg).double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(weights(name, tuple(p.shape)))
    muon = None
    if "muon" in cfg:
        in_blocks = [(name, p) for name, p in model.named_parameters() if ".h." in name and p.dim() == 2]
        muon = Muon(in_blocks, cfg["muon"], cfg["decay"])
    of_adamw = [p for name, p in model.named_parameters() if muon is None or ".h." not in name or p.dim() != 2]
    matrices = [p for p in of_adamw if p.dim() == 2]
    vectors = [p for p in of_adamw if p.dim() != 2]
    vector_decay = cfg["decay"] if cfg["decay_all"] else 0.0
    groups = [dict(params=matrices, weight_decay=cfg["decay"]), dict(params=vectors, weight_decay=vector_decay)]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=LR, betas=cfg["betas"])
    out, losses = {}, []
    for step in range(STEPS):
        ids, targets = batch(step, cfg)
        logits = model(ids)
        loss = F.cross_entropy(logits.view(-1, cfg["v"]), targets.reshape(-1))
        model.zero_grad()
        objective = loss
        if cfg.get("z_loss", 0.0) > 0.0:
            objective = loss + cfg["z_loss"] * logits.logsumexp(-1).square().mean()
        objective.backward()
        if step == 0:
            out["logits"] = sample(logits)
            for name, p in model.named_parameters():
                flat = p.grad.reshape(-1).numpy()
                projection = flat @ (2.0 * uniform(key_of(name) + 1, len(flat)) - 1.0)
                out[f"grad.{name}"] = np.concatenate([[np.linalg.norm(flat), projection], sample(p.grad)])
        if cfg["clip"] > 0.0:
            nn.utils.clip_grad_norm_(model.parameters(), cfg["clip"])
        optimizer.step()
        if muon is not None:
            muon.step()
        losses.append(loss.item())
    out["losses"] = np.array(losses)
    return out


if __name__ == "__main__":
    torch.manual_seed(0)
    folder = Path(__file__).parent.parent / "tests" / "fixtures"
    for name in sys.argv[1:] or CONFIGS:
        out = fixture(CONFIGS[name])
        save_file(out, folder / f"parity-{name}.safetensors", metadata={"torch": torch.__version__})
        print(name, out["losses"])
    save_file(muon_matrices(), folder / "muon.safetensors", metadata={"torch": torch.__version__})
