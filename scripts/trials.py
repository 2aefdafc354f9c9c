"""Tries ideas for small models in PyTorch, before they are written in Rust: the recipe of `kinglet-0.2m`, and changes of it.

    pip install torch numpy
    python scripts/trials.py --data tinyshakespeare.txt --out trials.jsonl '' 'conv=qkv' 'conv=qkv gate=head'

An idea is a list of `option=value`; OPTIONS says what there is. Each run appends a line of JSON to --out: the idea, the seed, the
number of parameters, the exact validation loss, and the milliseconds of processor time that a step took. A run that is in the
file already is not repeated. With --against IDEA, an idea whose first seed is worse by more than --drop than the same seed of
that IDEA gets no more seeds.

A small model can also learn from a larger one that kinglet has trained. --teach writes a table of the larger model's
log-probabilities, and distill=FILE uses it:

    python scripts/trials.py --data tinyshakespeare.txt --out table.pt --teach RUN/last/model.safetensors \
        'c=160 heads=5 context=256 conv=qkv'
    python scripts/trials.py --data tinyshakespeare.txt --out trials.jsonl 'conv=qkv distill=table.pt distill_weight=1.0'

The recipe is kinglet's in everything but its random numbers: initial weights and the order of sequences have the same
distributions, but other values. So a run agrees with kinglet's within the spread between seeds.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time

import torch
import torch.nn.functional as F

# Options and what they are without a word. Lists of parts are joined by "+".
OPTIONS = dict(
    # Shape.
    layers=4, heads=4, kv=0, c=64, hs=0, inner=0, context=32, act="swiglu", norm="layer",
    order="",          # blocks in the order in which they are applied, as digits: "01230123" applies each of four twice
    theta=10000.0,     # base of the rotary frequencies
    rotated=1.0,       # share of the channels of a head that are rotated
    scale="n_embd",    # attention scores are divided by the square root of this: n_embd or head
    qknorm=0, tied=0, wpe=0, embnorm=0,
    # A token and its predecessors.
    conv="",           # causal depthwise convolutions on: q, k, v, qkv, res, norm1, norm2, mlp, emb, out
    taps=3,
    smear=0,           # the embedding of the predecessor is added through a learned gate
    prev=0,            # tables of embeddings for this many predecessors
    ngram="",          # rows:dim[:n]: hashed n-grams (n = 2 if not given), with a projection to c
    # Values, residuals, attention.
    vres=0,            # values are mixed with the first block's
    ve="",             # a table of values for each token: all, ends, last, shared
    x0="",             # the embedding is added again before each block: scalar, channel
    ls=0,              # learned scales of each branch's channels
    unet=0,            # learned skips from the first half of the blocks to the second
    sink=0,            # a learned logit in each head's softmax
    gate="",           # a gate of attention's output from its input: head, channel
    relbias=0,         # a learned bias of the scores for each head and distance
    # Initial weights.
    zero_proj=0, zero_head=0, emb_std=1.0, init=1.0,
    # Training.
    tokens=2_560_000, batch=16, batch_end=0, dropout=0.0, zloss=0.0, smooth=0.0,
    mtp=0.0,           # weight of the loss of a second head, for the token after the next; it falls to 0 at 70 % of the tokens
    distill="", distill_weight=0.5,   # a file of log-probabilities of every token of the training part (float16, (n, v))
    lr=0.02, muon_lr=0.024, beta1=0.9, beta2=0.95, mom=0.9, mom_end=-1.0, wd=0.01, warm=50, sched="linear", cooldown=0.5,
    lr_emb=1.0, lr_head=1.0, lr_conv=1.0, lr_vec=1.0,
    ns=5, pe=0, every=1, normuon=0.0, cautious="", cwd=0, muon_emb=0, muon_head=0, ema=0.0,
    opt="muon",        # of the matrices in the blocks: muon, soap
    soap_beta=0.95, soap_every=10,
)


# What options that are words may be, joined by "+".
WORDS = dict(
    act="swiglu geglu reglu relu relu2 gelu", norm="layer rms", scale="n_embd head", ve="all ends last shared", x0="scalar channel",
    conv="qkv q k v res norm1 norm2 mlp emb out", gate="head channel", cautious="adam muon", opt="muon soap",
    sched="linear cosine wsd square root bend",
)


def parse(idea):
    o = dict(OPTIONS)
    for part in idea.split():
        key, _, value = part.partition("=")
        if key not in OPTIONS:
            sys.exit(f"{key}: no such option; there are {' '.join(OPTIONS)}")
        for word in set(value.split("+")) - {""} if key in WORDS else ():
            if word not in WORDS[key].split():
                sys.exit(f"{part}: must be of {WORDS[key]}")
        o[key] = type(OPTIONS[key])(value)
    if o["pe"] and o["ns"] > 5:
        sys.exit("pe=1: there are coefficients for at most 5 steps")
    o["hs"] = o["hs"] or o["c"] // o["heads"]
    o["kv"] = o["kv"] or o["heads"]
    swiglu = o["act"] in ("swiglu", "geglu", "reglu")
    o["inner"] = o["inner"] or (round(o["c"] / 3) * 8 if swiglu else 4 * o["c"])
    o["order"] = [int(x) for x in o["order"]] or list(range(o["layers"]))
    o["conv"] = set(o["conv"].split("+")) - {""}
    return o


class Shift(torch.autograd.Function):
    """A causal depthwise convolution: y[b, t, c] = sum over k of w[k, c] x[b, t - k, c]."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        y = x * w[0]
        for k in range(1, min(len(w), x.shape[1])):
            y[:, k:].addcmul_(x[:, :-k], w[k])
        return y

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        dx, dw = g * w[0], torch.zeros_like(w)
        dw[0] = (g * x).sum((0, 1))
        for k in range(1, min(len(w), x.shape[1])):
            dx[:, :-k].addcmul_(g[:, k:], w[k])
            dw[k] = (g[:, k:] * x[:, :-k]).sum((0, 1))
        return dx, dw


class Rotate(torch.autograd.Function):
    """Rotary positions of x (b, t, heads x hs): channels of a head's first half turn against those of its second half."""

    @staticmethod
    def forward(ctx, x, cos, sin, heads):
        ctx.save_for_backward(cos, sin)
        ctx.heads = heads
        return Rotate.turn(x, cos, sin, heads, 1)

    @staticmethod
    def turn(x, cos, sin, heads, sign):
        half = x.shape[-1] // (2 * heads)
        other = torch.empty_like(x).view(*x.shape[:-1], heads, 2, half)
        halves = x.unflatten(-1, (heads, 2, half))
        other[..., 0, :], other[..., 1, :] = halves[..., 1, :], halves[..., 0, :]
        other = other.view(x.shape)
        return (x * cos).addcmul_(other, sin, value=sign)

    @staticmethod
    def backward(ctx, g):
        return Rotate.turn(g, *ctx.saved_tensors, ctx.heads, -1), None, None, None


class SwiGlu(torch.autograd.Function):
    """silu(a) b, of h = (a, b)."""

    @staticmethod
    def forward(ctx, h):
        a, b = h.chunk(2, -1)
        s = F.silu(a)
        ctx.save_for_backward(h, s)
        return s * b

    @staticmethod
    def backward(ctx, g):
        h, s = ctx.saved_tensors
        (a, b), d = h.chunk(2, -1), torch.empty_like(h)
        da, db = d.chunk(2, -1)
        da.copy_(torch.ops.aten.silu_backward(g * b, a))
        torch.mul(g, s, out=db)
        return d


class Model:
    """The model's parameters, in flat buffers by optimizer, and its forward pass."""

    def __init__(self, o, v, seed):
        self.o, self.v = o, v
        self.rng = torch.Generator().manual_seed(seed)
        self.p, self.kind, self.extra = {}, {}, set()
        c, hs, t = o["c"], o["hs"], o["context"]
        self.q, self.kvc = o["heads"] * hs, o["kv"] * hs
        add, constant = self.add, lambda x, *shape: torch.full(shape, float(x))
        add("wte", self.normal(v, c) * o["emb_std"], "emb")
        if o["wpe"]:
            add("wpe", self.normal(t, c) * 0.1, "emb")
        for k in range(o["prev"]):
            add(f"prev{k}", self.normal(v, c) * 0.1, "emb")
        if o["ngram"]:
            parts = [int(x) for x in o["ngram"].split(":")]
            self.rows, dim, self.n = parts[0], parts[1], (parts + [2])[2]
            add("ngram", self.normal(self.rows, dim) * 0.1, "emb")
            if dim != c:
                add("ngram.proj", self.uniform(c, dim), "emb")
        if o["smear"]:
            add("smear.w", constant(0, 1, c), "vec")
            add("smear.s", constant(0, c), "vec")
        if "emb" in o["conv"]:
            self.taps("emb.conv", c)
        if o["ve"] == "shared":
            add("ve", self.normal(v, self.kvc) * 0.1, "emb")
        gated = o["act"] in ("swiglu", "geglu", "reglu")
        for i in range(o["layers"]):
            self.norm(f"{i}.ln1", c)
            self.norm(f"{i}.ln2", c)
            if o["kv"] == o["heads"]:
                add(f"{i}.qkv", self.uniform(3 * self.q, c), "muon", 3)
            else:
                add(f"{i}.q", self.uniform(self.q, c), "muon")
                add(f"{i}.kv", self.uniform(2 * self.kvc, c), "muon", 2)
            proj, mlp = self.uniform(c, self.q), self.uniform(c, o["inner"])
            if o["zero_proj"]:
                proj, mlp = proj * 0, mlp * 0
            add(f"{i}.o", proj, "muon")
            add(f"{i}.o.b", self.uniform(c, self.q, bias=True), "vec")
            fc = (2 if gated else 1) * o["inner"]
            add(f"{i}.fc", self.uniform(fc, c), "muon", 2 if gated else 1)
            add(f"{i}.fc.b", self.uniform(fc, c, bias=True), "vec")
            add(f"{i}.down", mlp, "muon")
            add(f"{i}.down.b", self.uniform(c, o["inner"], bias=True), "vec")
            places = dict(qkv=self.q + 2 * self.kvc, q=self.q, k=self.kvc, v=self.kvc, res=c, norm1=c, norm2=c,
                          mlp=o["inner"], out=self.q)
            for place, n in places.items():
                if place in o["conv"]:
                    self.taps(f"{i}.{place}.conv", n)
            if o["qknorm"]:
                add(f"{i}.qn", constant(1, hs), "vec")
                add(f"{i}.kn", constant(1, hs), "vec")
            if o["vres"] and i > 0:
                add(f"{i}.vres", torch.tensor([0.5, 0.5]), "vec")
            ends = i < 1 or i == o["layers"] - 1
            if o["ve"] == "all" or o["ve"] == "ends" and ends or o["ve"] == "last" and i == o["layers"] - 1:
                add(f"{i}.ve", constant(0, v, self.kvc), "emb")
            if o["ve"] == "shared":
                add(f"{i}.ves", constant(0.5, self.kvc), "vec")
            if o["ls"]:
                add(f"{i}.ls", constant(1, 2, c), "vec")
            if o["sink"]:
                add(f"{i}.sink", constant(0, o["heads"]), "vec")
            if o["gate"]:
                add(f"{i}.gate", constant(0, self.q if o["gate"] == "channel" else o["heads"], c), "vec")
            if o["relbias"]:
                add(f"{i}.rel", constant(0, o["heads"], t), "vec")
        for j in range(len(o["order"])):
            if o["x0"]:
                start = torch.tensor([1.0, 0.0])
                add(f"x0.{j}", start[:, None].repeat(1, c) if o["x0"] == "channel" else start, "vec")
            if o["unet"] and j >= (len(o["order"]) + 1) // 2:
                add(f"unet.{j}", constant(0, c), "vec")
        self.norm("lnf", c)
        if not o["tied"]:
            add("head", self.uniform(v, c) * (0.0 if o["zero_head"] else 1.0), "head")
        add("head.b", self.uniform(v, c, bias=True), "vec")
        if o["mtp"]:
            add("mtp", self.uniform(v, c), "head")
            self.extra.add("mtp")
        self.params = sum(w.numel() for name, (w, _) in self.p.items() if name not in self.extra)
        self.flatten()
        # Angles of position t and channel pair i; pairs that are not rotated have angle 0.
        half = hs // 2
        rate = o["theta"] ** (-torch.arange(half) / max(1.0, half * o["rotated"]))
        rate[round(half * o["rotated"]):] = 0.0
        self.angle, self.tables = torch.outer(torch.arange(t).float(), rate), {}
        self.mask = torch.full((t, t), -torch.inf).triu(1)
        self.distance = (torch.arange(t)[:, None] - torch.arange(t)[None, :]).clamp(min=0)

    def normal(self, *shape):
        return torch.randn(shape, generator=self.rng)

    def uniform(self, o, i, bias=False):
        """PyTorch's initial weights of a linear layer with `i` inputs, or its bias."""
        shape = (o,) if bias else (o, i)
        return (2 * torch.rand(shape, generator=self.rng) - 1) * self.o["init"] / math.sqrt(i)

    def add(self, name, w, kind, parts=1):
        self.p[name], self.kind[name] = (w, parts), kind

    def norm(self, name, c):
        self.add(f"{name}.w", torch.ones(c), "vec")
        if self.o["norm"] == "layer":
            self.add(f"{name}.b", torch.zeros(c), "vec")

    def taps(self, name, c):
        w = torch.zeros(self.o["taps"], c)
        w[0] = 1.0
        self.add(name, w, "conv")

    def flatten(self):
        """Lays matrices of one shape side by side for Muon, and everything else in one vector for AdamW."""
        def is_muon(name):
            kind = self.kind[name]
            wide = kind == "emb" and self.o["muon_emb"] or kind == "head" and self.o["muon_head"]
            return kind == "muon" or wide and self.p[name][0].dim() == 2
        groups = {}
        for name, (w, parts) in self.p.items():
            shape = (w.shape[0] // parts, w.shape[1]) if is_muon(name) else ()
            groups.setdefault(shape, []).append(name)
        self.groups, self.w = {}, {}
        for shape, names in groups.items():
            flat = torch.cat([self.p[name][0].reshape(-1) for name in names])
            grad = torch.zeros_like(flat)
            at = 0
            for name in names:
                w = self.p[name][0]
                leaf = flat[at:at + w.numel()].view_as(w).detach().requires_grad_()
                leaf.grad = grad[at:at + w.numel()].view_as(w)
                self.w[name], at = leaf, at + w.numel()
            self.groups[shape] = (flat, grad, names)

    def normed(self, x, name):
        w = self.w
        if self.o["norm"] == "layer":
            return F.layer_norm(x, x.shape[-1:], w[f"{name}.w"], w[f"{name}.b"], 1e-5)
        return F.rms_norm(x, x.shape[-1:], w[f"{name}.w"], 1e-5)

    def shift(self, x, name):
        return Shift.apply(x, self.w[name]) if name in self.w else x

    def rotate(self, x, heads):
        if heads not in self.tables:
            cos, sin = self.angle.cos(), self.angle.sin()
            self.tables[heads] = torch.cat((cos, cos) * heads, 1), torch.cat((-sin, sin) * heads, 1)
        cos, sin = (z[:x.shape[1]] for z in self.tables[heads])
        return Rotate.apply(x.contiguous(), cos, sin, heads)

    def head_norm(self, x, heads, w):
        return F.rms_norm(x.unflatten(-1, (heads, -1)), (self.o["hs"],), w, 1e-5).flatten(2)

    def attention(self, x, i, ids):
        o, w = self.o, self.w
        b, t, c = x.shape
        h = self.shift(self.normed(x, f"{i}.ln1"), f"{i}.norm1.conv")
        together = f"{i}.qkv" in w
        qkv = F.linear(h, w[f"{i}.qkv"]) if together else torch.cat((F.linear(h, w[f"{i}.q"]), F.linear(h, w[f"{i}.kv"])), -1)
        qkv = self.shift(qkv, f"{i}.qkv.conv")
        v = self.shift(qkv[..., self.q + self.kvc:], f"{i}.v.conv")
        if f"{i}.ve" in w:
            v = v + F.embedding(ids, w[f"{i}.ve"])
        if o["ve"] == "shared":
            v = v + F.embedding(ids, w["ve"]) * w[f"{i}.ves"]
        if o["vres"]:
            if self.first is None:
                self.first = v
            elif f"{i}.vres" in w:
                v = v * w[f"{i}.vres"][0] + self.first * w[f"{i}.vres"][1]
        heads, kv, hs = o["heads"], o["kv"], o["hs"]
        if together and not o["qknorm"] and not o["conv"] & {"q", "k"}:
            q, k = self.rotate(qkv[..., :2 * self.q], 2 * heads).chunk(2, -1)
        else:
            q, k = qkv[..., :self.q], qkv[..., self.q:self.q + self.kvc]
            q, k = self.shift(q, f"{i}.q.conv"), self.shift(k, f"{i}.k.conv")
            if o["qknorm"]:
                q, k = self.head_norm(q, heads, w[f"{i}.qn"]), self.head_norm(k, kv, w[f"{i}.kn"])
            q, k = self.rotate(q, heads), self.rotate(k, kv)
        scale = 1 / math.sqrt(c if o["scale"] == "n_embd" else hs)
        q, k, v = (z.unflatten(-1, (-1, hs)).transpose(1, 2) for z in (q, k, v))
        if kv < heads:
            k, v = (z.repeat_interleave(heads // kv, 1) for z in (k, v))
        if o["sink"] or o["relbias"] or o["dropout"]:
            s = q @ k.mT * scale + self.mask[:t, :t]
            if o["relbias"]:
                s = s + w[f"{i}.rel"][:, self.distance[:t, :t]]
            if o["sink"]:
                s = torch.cat((s, w[f"{i}.sink"][None, :, None, None].expand(b, -1, t, 1)), -1)
            s = s.softmax(-1)[..., :t]
            if o["dropout"] and self.training:
                s = F.dropout(s, o["dropout"])
            y = s @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        y = y.transpose(1, 2)
        if o["gate"] == "head":
            y = y * (2 * torch.sigmoid(F.linear(h, w[f"{i}.gate"]))).unsqueeze(-1)
        y = y.reshape(b, t, self.q)
        if o["gate"] == "channel":
            y = y * (2 * torch.sigmoid(F.linear(h, w[f"{i}.gate"])))
        return F.linear(self.shift(y, f"{i}.out.conv"), w[f"{i}.o"], w[f"{i}.o.b"])

    def mlp(self, x, i):
        w, act = self.w, self.o["act"]
        h = self.shift(self.normed(x, f"{i}.ln2"), f"{i}.norm2.conv")
        h = F.linear(h, w[f"{i}.fc"], w[f"{i}.fc.b"])
        if act == "swiglu":
            h = SwiGlu.apply(h)
        elif act in ("geglu", "reglu"):
            a, b = h.chunk(2, -1)
            h = dict(geglu=F.gelu, reglu=F.relu)[act](a) * b
        else:
            h = dict(relu=F.relu, gelu=F.gelu, relu2=lambda z: F.relu(z).square())[act](h)
        return F.linear(self.shift(h, f"{i}.mlp.conv"), w[f"{i}.down"], w[f"{i}.down.b"])

    def before(self, z, k):
        """What stands k places earlier; zeros before the beginning."""
        return F.pad(z, (0, 0, k, 0))[:, :z.shape[1]]

    def hidden(self, ids):
        o, w = self.o, self.w
        x = F.embedding(ids, w["wte"])
        earlier = [ids] + [F.pad(ids, (k, 0), value=0)[:, :ids.shape[1]] for k in range(1, 8)]
        for k in range(o["prev"]):
            x = x + self.before(F.embedding(ids, w[f"prev{k}"]), k + 1)
        if o["ngram"]:
            row = ids.clone()
            for k in range(1, self.n):
                row = row * self.v + earlier[k]
            if self.rows < self.v ** self.n:
                row = (row * 2654435761 >> 7) % self.rows
            e = F.embedding(row, w["ngram"])
            x = x + (F.linear(e, w["ngram.proj"]) if "ngram.proj" in w else e)
        if o["wpe"]:
            x = x + w["wpe"][:ids.shape[1]]
        if o["smear"]:
            x = x + w["smear.s"] * torch.sigmoid(F.linear(x, w["smear.w"])) * self.before(x, 1)
        x = self.shift(x, "emb.conv")
        if o["embnorm"]:
            x = F.rms_norm(x, x.shape[-1:])
        first, skips, self.first = x, [], None
        for j, i in enumerate(o["order"]):
            if o["x0"]:
                x = x * w[f"x0.{j}"][0] + first * w[f"x0.{j}"][1]
            if f"unet.{j}" in w:
                x = x + skips[len(o["order"]) - 1 - j] * w[f"unet.{j}"]
            skips.append(x)
            x = self.shift(x, f"{i}.res.conv")
            a = self.attention(x, i, ids)
            x = x + self.drop(a * w[f"{i}.ls"][0] if o["ls"] else a)
            m = self.mlp(x, i)
            x = x + self.drop(m * w[f"{i}.ls"][1] if o["ls"] else m)
        return self.normed(x, "lnf")

    def drop(self, x):
        return F.dropout(x, self.o["dropout"]) if self.o["dropout"] and self.training else x

    def logits(self, x):
        return F.linear(x, self.w["wte" if self.o["tied"] else "head"], self.w["head.b"])


def polynomials(o):
    """Coefficients of each step of Muon's iteration."""
    if o["pe"]:  # The Polar Express (Amsel et al. 2025), for singular values above 1e-3, with its margin of 2 %.
        found = [(8.28721201814563, -23.595886519098837, 17.300387312530933),
                 (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
                 (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
                 (3.3184196573706015, -2.488488024314874, 0.51004894012372),
                 (2.300652019954817, -1.6689039845747493, 0.4188073119525673)]
        return [(a / 1.01, b / 1.01 ** 3, c / 1.01 ** 5) for a, b, c in found[:o["ns"]]]
    return [(3.4445, -4.7750, 2.0315)] * o["ns"]


def orthogonal(x, steps):
    """Muon's iteration on a stack of matrices (n, r, c)."""
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    r = x.shape[1]
    if x.shape[2] > 2 * r:
        # Wide: the iteration on X X^T, and one product with X at the end, are less work.
        g, whole, one = x @ x.mT, None, torch.eye(r)
        for a, b, c in steps:
            p = torch.baddbmm(g, g, g, beta=b, alpha=c) + a * one
            whole = p if whole is None else p @ whole
            g = p @ g @ p
        x = whole @ x
    else:
        for a, b, c in steps:
            g = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(g, g, g, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Optimizer:
    def __init__(self, model):
        self.o, self.model, self.steps = model.o, model, 0
        self.poly = polynomials(self.o)
        self.state = {}
        for shape, (p, _, names) in model.groups.items():
            s = dict(m=torch.zeros_like(p))
            if shape:
                s["factor"] = math.sqrt(max(1.0, shape[0] / shape[1]))
            else:
                s["v"] = torch.zeros_like(p)
                by = dict(emb=self.o["lr_emb"], head=self.o["lr_head"], conv=self.o["lr_conv"], vec=self.o["lr_vec"])
                s["lr"] = torch.cat([torch.full((model.w[n].numel(),), float(by[model.kind[n]])) for n in names])
            self.state[shape] = s

    @torch.no_grad()
    def step(self, left, done):
        """One update; `left` is the schedule's share of the rate, `done` the share of the tokens that were seen."""
        o = self.o
        self.steps += 1
        for shape, (p, g, _) in self.model.groups.items():
            s = self.state[shape]
            if not shape:
                self.adamw(p, g, s, left * o["lr"])
            elif o["opt"] == "soap":
                self.soap(p, g, s, shape, left * o["muon_lr"])
            elif self.steps % o["every"] == 0 or o["every"] == 1:
                self.muon(p, g, s, shape, left * o["muon_lr"], done)
            else:
                s["m"].lerp_(g, 1 - o["mom"])
            g.zero_()

    def adamw(self, p, g, s, lr):
        o = self.o
        s["m"].lerp_(g, 1 - o["beta1"])
        s["v"].mul_(o["beta2"]).addcmul_(g, g, value=1 - o["beta2"])
        u = (s["m"] / (1 - o["beta1"] ** self.steps)) / ((s["v"] / (1 - o["beta2"] ** self.steps)).sqrt_().add_(1e-8))
        if "adam" in o["cautious"]:
            keep = (u * g > 0).float()
            u = u * keep / keep.mean().clamp(min=1e-3)
        rate = lr * s["lr"]
        p.sub_(rate * o["wd"] * (p * (u * p > 0) if o["cwd"] else p))
        p.sub_(rate * u)

    def muon(self, p, g, s, shape, lr, done):
        o = self.o
        mom = o["mom"] if o["mom_end"] < 0 else o["mom"] + (o["mom_end"] - o["mom"]) * done
        s["m"].lerp_(g, 1 - mom)
        x = g.lerp(s["m"], mom).view(-1, *shape)
        u = orthogonal(x, self.poly) * s["factor"]
        if o["normuon"]:  # NorMuon (Li et al. 2025): each row is divided by the root of its mean square over time.
            v = s.setdefault("v", torch.zeros(len(u), shape[0], 1))
            v.lerp_(u.square().mean(-1, keepdim=True), 1 - o["normuon"])
            before = u.norm(dim=(1, 2), keepdim=True)
            u = u / (v / (1 - o["normuon"] ** self.steps)).sqrt().add(1e-8)
            u = u * (before / u.norm(dim=(1, 2), keepdim=True))
        u = u.reshape(-1)
        if "muon" in o["cautious"]:
            keep = (u * g > 0).float()
            u = u * keep / keep.mean().clamp(min=1e-3)
        p.sub_(lr * o["wd"] * (p * (u * p > 0) if o["cwd"] else p))
        p.sub_(u, alpha=lr)

    def soap(self, p, g, s, shape, lr):
        """SOAP (Vyas et al. 2024): Adam in the eigenbasis of Shampoo's two statistics, refreshed by a step of QR."""
        o, beta = self.o, self.o["soap_beta"]
        x = g.view(-1, *shape)
        if "l" not in s:
            s.update(l=x @ x.mT, r=x.mT @ x, v=torch.zeros_like(x), m=torch.zeros_like(x))
            s["ql"], s["qr"] = torch.linalg.eigh(s["l"])[1], torch.linalg.eigh(s["r"])[1]
            return  # As in SOAP's own code, the first gradient only begins the statistics.
        t = self.steps - 1
        s["m"].lerp_(x, 1 - o["mom"])
        turned = s["ql"].mT @ x @ s["qr"]
        s["v"].lerp_(turned.square(), 1 - beta)
        m = s["ql"].mT @ s["m"] @ s["qr"]
        u = (m / (1 - o["mom"] ** t)) / ((s["v"] / (1 - beta ** t)).sqrt() + 1e-8)
        u = s["ql"] @ u @ s["qr"].mT
        p.mul_(1 - lr * o["wd"])
        p.sub_(u.reshape(-1), alpha=lr)
        s["l"].lerp_(x @ x.mT, 1 - beta)
        s["r"].lerp_(x.mT @ x, 1 - beta)
        if t % o["soap_every"] == 0:
            for q, a, dim in (("ql", "l", 1), ("qr", "r", 2)):
                # The second moments follow their directions.
                order = torch.einsum("nij,nik,nkj->nj", s[q], s[a], s[q]).argsort(descending=True)
                s[q] = torch.gather(s[q], 2, order[:, None, :].expand_as(s[q]))
                index = order[:, :, None] if dim == 1 else order[:, None, :]
                s["v"] = torch.gather(s["v"], dim, index.expand_as(s["v"]))
                s[q] = torch.linalg.qr(s[a] @ s[q])[0]


def epochs(n, t, rng):
    """Windows of `t` tokens without end, as kinglet's `replacement = false`: each epoch has every token once, in random order,
    and cuts the text at other places. Gives the first position and the length of each."""
    while True:
        for cut in torch.randperm(t, generator=rng).tolist():
            ends = torch.arange(1, math.ceil((cut + n - 1) / t) + 1) * t - cut
            starts, ends = (ends - t).clamp(min=0), ends.clamp(max=n - 1)
            for i in torch.randperm(len(ends), generator=rng).tolist():
                yield starts[i].item(), (ends[i] - starts[i]).item()


def left_of(o, done, step, total):
    """The share of the peak rate at an update."""
    if step < o["warm"]:
        return (step + 1) / (o["warm"] + 1)
    begin = o["warm"] / total
    x = min(1.0, max(0.0, (done - begin) / (1 - begin)))
    return dict(linear=1 - x, cosine=0.5 + 0.5 * math.cos(math.pi * x), wsd=min(1.0, (1 - x) / o["cooldown"]),
                square=(1 - x) ** 2, root=1 - math.sqrt(x), bend=(1 - x) * (1 + x / 2))[o["sched"]]


@torch.no_grad()
def exact(model, ids, t):
    """The exact loss: each token but the first is predicted once, in consecutive windows."""
    total, n = 0.0, len(ids) - 1
    whole = n // t * t
    parts = list(zip(ids[:whole].view(-1, t).split(128), ids[1:whole + 1].view(-1, t).split(128)))
    if whole < n:
        parts.append((ids[None, whole:n], ids[None, whole + 1:]))
    for x, y in parts:
        z = model.logits(model.hidden(x))
        total += F.cross_entropy(z.reshape(-1, model.v), y.reshape(-1), reduction="sum").item()
    return total / n


def load(model, path):
    """Fills the model with the weights of a kinglet checkpoint (safetensors) of the same shape."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    names = {"transformer.wte.weight": "wte", "lm_head.weight": "head", "lm_head.bias": "head.b",
             "transformer.ln_f.weight": "lnf.w", "transformer.ln_f.bias": "lnf.b"}
    parts = {"ln_1.weight": "ln1.w", "ln_1.bias": "ln1.b", "ln_2.weight": "ln2.w", "ln_2.bias": "ln2.b",
             "attn.c_attn.weight": "qkv", "attn.c_proj.weight": "o", "attn.c_proj.bias": "o.b", "mlp.c_fc.weight": "fc",
             "mlp.c_fc.bias": "fc.b", "mlp.c_proj.weight": "down", "mlp.c_proj.bias": "down.b"}
    for i in range(model.o["layers"]):
        names |= {f"transformer.h.{i}.{theirs}": f"{i}.{ours}" for theirs, ours in parts.items()}
        if "qkv" in model.o["conv"]:
            names[f"transformer.h.{i}.attn.conv.weight"] = f"{i}.qkv.conv"
        if "res" in model.o["conv"]:
            names[f"transformer.h.{i}.conv.weight"] = f"{i}.res.conv"
    header.pop("__metadata__", None)
    if header.keys() != names.keys() or set(names.values()) != model.w.keys():
        sys.exit(f"{path}: other tensors than expected: {sorted(header.keys() ^ names.keys())}")
    with torch.no_grad():
        for name, tensor in header.items():
            begin, end = tensor["data_offsets"]
            w = torch.frombuffer(bytearray(data[begin:end]), dtype=torch.float32).view(tensor["shape"])
            if name.endswith("conv.weight"):
                w = w[:, 0].flip(1).t()  # PyTorch's order: the token itself is last
            model.w[names[name]].copy_(w)


@torch.no_grad()
def teach(args, train, val, v):
    """Writes the log-probabilities that a trained model gives each token of the training part, as it follows at least half a
    window; row i is for the token at position i, and the first row is empty."""
    o = parse(args.ideas[0])
    model = Model(o, v, 0)
    load(model, args.teach)
    model.training = False
    t, n = o["context"], len(train)
    print(f"exact validation loss {exact(model, val, t):.4f}", flush=True)
    table, loss = torch.full((n, v), -math.log(v), dtype=torch.float16), 0.0
    starts = torch.tensor(list(range(0, n - t - 1, t // 2)) + [n - 1 - t])
    for some in starts.split(64):
        z = model.logits(model.hidden(train[some[:, None] + torch.arange(t)])).log_softmax(-1).half()
        for start, rows in zip(some.tolist(), z):
            keep = 0 if start == 0 else t // 2
            table[start + 1 + keep:start + 1 + t] = rows[keep:]
    for rows, y in zip(table[1:].split(10_000), train[1:].split(10_000)):
        loss -= rows.float().gather(1, y[:, None]).sum().item()
    print(f"loss on the training part, with at least {t // 2} tokens before: {loss / (n - 1):.4f}")
    torch.save(table, args.out)


def pause(path):
    """Waits while the file exists; returns the seconds waited."""
    begin = time.perf_counter()
    while path and os.path.exists(path):
        time.sleep(2)
    return time.perf_counter() - begin


def run(idea, seed, train, val, v, args):
    o = parse(idea)
    model = Model(o, v, seed)
    if args.limit and model.params > args.limit:
        sys.exit(f"{idea}: {model.params} parameters are more than {args.limit}")
    optimizer = Optimizer(model)
    t, rng = o["context"], torch.Generator().manual_seed(1000 + seed)
    torch.manual_seed(seed)
    windows = epochs(len(train), t, rng)
    table = torch.load(o["distill"], mmap=True) if o["distill"] else None
    seen, step, total = 0, 0, max(1, o["tokens"] // (o["batch"] * t))
    average = {k: f.clone() for k, (f, _, _) in model.groups.items()} if o["ema"] else None
    span, spent, curve, ahead = torch.arange(t), 0.0, [], torch.cat((train, torch.full((t + 1,), -100)))
    while seen < o["tokens"]:
        if step % 100 == 0:
            pause(args.wait)
        begin = time.process_time()  # of the processor: other programs may be busy
        done = seen / o["tokens"]
        b = round(o["batch"] + (o["batch_end"] - o["batch"]) * done) if o["batch_end"] else o["batch"]
        start, length = (torch.tensor(z) for z in zip(*(next(windows) for _ in range(b))))
        at = start[:, None] + span
        x, y = ahead[at], ahead[at + 1]
        if length.min() < t:
            y = y.masked_fill(span >= length[:, None], -100)
            x = x.clamp(min=0)
        model.training = True
        h = model.hidden(x)
        z = model.logits(h)
        objective = loss = F.cross_entropy(z.view(-1, v), y.view(-1), label_smoothing=o["smooth"])
        if table is not None:
            soft = table[(at + 1).clamp(max=len(train) - 1).view(-1)].float()
            mask = (y.view(-1) >= 0).float()
            kl = F.kl_div(z.log_softmax(-1).view(-1, v), soft, reduction="none", log_target=True).sum(-1)
            kl = (kl * mask).sum() / mask.sum()
            objective = (1 - o["distill_weight"]) * objective + o["distill_weight"] * kl
        if o["zloss"]:
            objective = objective + o["zloss"] * z.logsumexp(-1).square().mean()
        if o["mtp"] and done < 0.7:
            second = F.linear(h[:, :-1], model.w["mtp"]).reshape(-1, v)
            objective = objective + o["mtp"] * (1 - done / 0.7) * F.cross_entropy(second, y[:, 1:].reshape(-1))
        objective.backward()
        optimizer.step(left_of(o, done, step, total), done)
        if average is not None:
            for k, f in average.items():
                f.lerp_(model.groups[k][0], 1 - o["ema"])
        spent += time.process_time() - begin
        seen, step = seen + b * t, step + 1
        if step % 500 == 0:
            curve.append(round(loss.item(), 3))
            if not math.isfinite(curve[-1]):
                break
    model.training = False
    result = dict(idea=idea, seed=seed, params=model.params, val_loss_exact=round(exact(model, val, t), 5),
                  ms_per_step=round(1000 * spent / step, 2), steps=step, curve=curve)
    if average is not None:
        for k, f in average.items():
            model.groups[k][0].copy_(f)
        result["val_loss_averaged"] = round(exact(model, val, t), 5)
    return result


def read(path):
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return [json.loads(line) for line in file]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ideas", nargs="+", help="lists of option=value; '' is the recipe as it is")
    parser.add_argument("--data", required=True, help="a text; its first 90 %% of characters are for training")
    parser.add_argument("--out", required=True, help="results are appended to this file")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--limit", type=int, default=209_729, help="most parameters; 0 is no limit")
    parser.add_argument("--against", help="the idea to compare with")
    parser.add_argument("--drop", type=float, default=0.003)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--teach", metavar="MODEL.safetensors",
                        help="write a table for distill=FILE to --out, from a kinglet model whose shape the idea gives")
    parser.add_argument("--wait", default="", help="pause while this file exists")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with open(args.data, encoding="utf-8") as file:
        text = file.read()
    letters = sorted(set(text))
    code = {letter: i for i, letter in enumerate(letters)}
    ids = torch.tensor([code[letter] for letter in text])
    train, val = ids[:int(0.9 * len(ids))], ids[int(0.9 * len(ids)):]
    if args.teach:
        return teach(args, train, val, len(letters))
    for idea in args.ideas:
        for k, seed in enumerate(args.seeds.split(",")):
            found = {(r["idea"], r["seed"]): r["val_loss_exact"] for r in read(args.out)}
            if (idea, int(seed)) not in found:
                pause(args.wait)
                result = run(idea, int(seed), train, val, len(letters), args)
                with open(args.out, "a") as file:
                    file.write(json.dumps(result) + "\n")
                print(json.dumps(result), flush=True)
                found[idea, int(seed)] = result["val_loss_exact"]
            base = found.get((args.against, int(seed)))
            if base is not None and k == 0 and not found[idea, int(seed)] - base <= args.drop:
                print(f"{idea!r}: {found[idea, int(seed)] - base:+.4f} in the first seed, dropped", flush=True)
                break
        losses = [loss for (name, _), loss in {**found}.items() if name == idea]
        if len(losses) > 1:
            print(f"{idea!r}: {statistics.mean(losses):.4f} +- {statistics.stdev(losses):.4f}", flush=True)


if __name__ == "__main__":
    main()
