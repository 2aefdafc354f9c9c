"""A process with llama.cpp: its prebuilt library, called through its C interface.

    NODE_MODULES=... python -m scripts.doors.llama_side JOBS.json ANSWERS.json

For each job {file, prompt, tokens, lists, strings, kv, out}: ids and text of strings, the logits over each list (to OUT), the
special tokens, and what it writes greedily, token by token, until its own end of generation. llama.cpp ends the process where an
assertion fails, so a caller asks one job of a process.
"""

import ctypes as c
import json
import os
import sys
from pathlib import Path

import numpy as np

LIBRARIES = Path(os.environ.get("NODE_MODULES", "")) / "@node-llama-cpp/linux-x64/bins/linux-x64"
KV = {"f32": 0, "f16": 1}


def fields(kind, *names):
    return [(name, kind) for name in names]


class ModelParams(c.Structure):
    _fields_ = [
        *fields(c.c_void_p, "devices", "buffer_overrides"), ("gpu_layers", c.c_int32), ("split", c.c_int), ("load_mode", c.c_int),
        ("lazy", c.c_int), ("main_gpu", c.c_int32), *fields(c.c_void_p, "tensor_split", "progress", "progress_data", "overrides"),
        *fields(c.c_bool, "vocab_only", "check_tensors", "extra_buffers", "no_host", "no_alloc", "load_mtp"),
    ]  # fmt: skip


class ContextParams(c.Structure):
    _fields_ = [
        *fields(c.c_uint32, "n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "outputs", "outputs_per_seq"),
        *fields(c.c_int32, "threads", "threads_batch"),
        *fields(c.c_int, "context_type", "rope_scaling", "pooling", "attention", "flash_attention"),
        *fields(c.c_float, "rope_base", "rope_scale", "yarn_ext", "yarn_attn", "yarn_fast", "yarn_slow"),
        ("yarn_original", c.c_uint32), ("defrag", c.c_float), *fields(c.c_void_p, "callback", "callback_data"),
        *fields(c.c_int, "type_k", "type_v"), *fields(c.c_void_p, "abort", "abort_data"),
        *fields(c.c_bool, "embeddings", "offload_kqv", "no_perf", "offload_ops", "swa_full", "kv_unified"),
        ("samplers", c.c_void_p), ("n_samplers", c.c_size_t), ("other", c.c_void_p),
    ]  # fmt: skip


class Batch(c.Structure):
    _fields_ = [
        ("n_tokens", c.c_int32), ("token", c.POINTER(c.c_int32)), ("embd", c.c_void_p), ("pos", c.POINTER(c.c_int32)),
        ("n_seq_id", c.POINTER(c.c_int32)), ("seq_id", c.POINTER(c.POINTER(c.c_int32))), ("logits", c.POINTER(c.c_int8)),
    ]  # fmt: skip


LOG = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)


class Library:
    """The functions of libllama, with the types that its header gives them."""

    def __init__(self):
        load = lambda name: c.CDLL(str(next(LIBRARIES.glob(name))), mode=c.RTLD_GLOBAL)  # noqa: E731
        load("libggml-base.so*")
        ggml, self.llama, self.said = load("libggml.v*.so"), load("libllama.v*.so"), []
        self.log = LOG(lambda level, text, _: self.said.append(text.decode(errors="replace")) if level >= 3 else None)
        pointer, integer, text = c.c_void_p, c.c_int32, c.c_char_p
        ids = c.POINTER(integer)
        for name, result, *arguments in [
            ("log_set", None, LOG, pointer),
            ("model_default_params", ModelParams),
            ("context_default_params", ContextParams),
            ("model_load_from_file", pointer, text, ModelParams),
            ("init_from_model", pointer, pointer, ContextParams),
            ("model_get_vocab", pointer, pointer),
            ("vocab_n_tokens", integer, pointer),
            ("tokenize", integer, pointer, text, integer, ids, integer, c.c_bool, c.c_bool),
            ("detokenize", integer, pointer, ids, integer, text, integer, c.c_bool, c.c_bool),
            ("vocab_is_eog", c.c_bool, pointer, integer),
            ("vocab_bos", integer, pointer),
            ("vocab_eos", integer, pointer),
            ("batch_init", Batch, integer, integer, integer),
            ("decode", integer, pointer, Batch),
            ("get_logits", c.POINTER(c.c_float), pointer),
            ("get_memory", pointer, pointer),
            ("memory_clear", None, pointer, c.c_bool),
            ("model_chat_template", text, pointer, text),
        ]:
            function = getattr(self.llama, f"llama_{name}")
            function.restype, function.argtypes = result, arguments
        self.llama.llama_log_set(self.log, None)
        ggml.ggml_backend_load_all_from_path.argtypes = [text]
        ggml.ggml_backend_load_all_from_path(str(LIBRARIES).encode())
        self.llama.llama_backend_init()
        # Another release has other structures: what is read from them would be noise.
        assert self.context_default_params().n_ctx == 512, "the structures are not those of this release"

    def __getattr__(self, name):
        return getattr(self.llama, f"llama_{name}")


class Model:
    def __init__(self, library, path, n_ctx, kv):
        self.library = library
        params = library.model_default_params()
        params.gpu_layers = 0
        self.model = library.model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise RuntimeError("".join(library.said)[-800:])
        self.vocab = library.model_get_vocab(self.model)
        self.tokens = library.vocab_n_tokens(self.vocab)
        params = library.context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = n_ctx
        params.threads = params.threads_batch = 1
        params.type_k = params.type_v = KV[kv]
        params.flash_attention = 0
        self.context = library.init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("".join(library.said)[-800:])

    def encode(self, text, special=False):
        data = text.encode()
        out = (c.c_int32 * (len(data) + 8))()
        count = self.library.tokenize(self.vocab, data, len(data), out, len(out), False, special)
        return list(out[:count]) if count >= 0 else None

    def decode(self, ids):
        given, out = (c.c_int32 * max(1, len(ids)))(*ids), c.create_string_buffer(64 * len(ids) + 64)
        count = self.library.detokenize(self.vocab, given, len(ids), out, len(out), False, False)
        return out.raw[: max(count, 0)].decode(errors="replace")

    def forget(self):
        self.library.memory_clear(self.library.get_memory(self.context), True)

    def extend(self, ids, position):
        """The logits after each of the ids, which begin at a position."""
        batch = self.library.batch_init(len(ids), 0, 1)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, position + i, 1, 0, 1
        batch.n_tokens = len(ids)
        status = self.library.decode(self.context, batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}: {''.join(self.library.said)[-400:]}")
        logits = self.library.get_logits(self.context)
        return np.ctypeslib.as_array(logits, shape=(len(ids), self.tokens)).astype(np.float64)

    def logits(self, ids):
        self.forget()
        return self.extend(ids, 0)

    def greedy(self, prompt, tokens):
        """What is written, and whether it ended by itself."""
        self.forget()
        made, ids, position = [], prompt, 0
        for _ in range(tokens):
            token = int(self.extend(ids, position)[-1].argmax())
            position += len(ids)
            if self.library.vocab_is_eog(self.vocab, token):
                return made, True
            made.append(token)
            ids = [token]
        return made, False


def answer(library, job):
    longest = max([len(ids) for ids in job["lists"]] + [len(job["prompt"].encode()) + job["tokens"]])
    model = Model(library, job["file"], max(64, longest), job.get("kv", "f32"))
    prompt = model.encode(job["prompt"])
    out = {
        "tokens": model.tokens, "prompt_ids": prompt,
        "bos": library.vocab_bos(model.vocab), "eos": library.vocab_eos(model.vocab),
        "ends": [i for i in range(model.tokens) if library.vocab_is_eog(model.vocab, i)],
    }  # fmt: skip
    if job["lists"]:
        np.savez(job["out"], *[model.logits(ids) for ids in job["lists"]])
    strings = job.get("strings", [])
    if isinstance(strings, str):
        strings = json.loads(Path(strings).read_text(encoding="utf-8"))
    encoded = [model.encode(text, job.get("special", False)) for text in strings]
    out["strings"] = [[ids, None if ids is None else model.decode(ids)] for ids in encoded]
    if prompt and job["tokens"]:
        made, out["ended"] = model.greedy(prompt, job["tokens"])
        out["ids"], out["text"] = made, job["prompt"] + model.decode(made)
    template = library.model_chat_template(model.model, None)
    out["template"] = template.decode() if template else None
    return out


def main():
    jobs, answers = sys.argv[1:]
    library, out = Library(), []
    for job in json.loads(Path(jobs).read_text(encoding="utf-8")):
        library.said.clear()
        try:
            out.append(answer(library, job))
        except Exception as error:
            out.append({"failed": f"{type(error).__name__}: {error}"})
    Path(answers).write_text(json.dumps(out), encoding="utf-8")


if __name__ == "__main__":
    main()
