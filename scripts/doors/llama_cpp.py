"""llama.cpp as a library, called through ctypes: the logits of every position, ids and text, greedy text.

    python3 scripts/doors/llama_cpp.py MODEL.gguf [PROMPT]    # what the model says, and what its special tokens are

The library is the prebuilt one of npm's `@node-llama-cpp/linux-x64`, in $LLAMA_CPP or where `library()` puts it. The structures
below are those of that version, which is why it is pinned; their defaults are checked before they are used.
"""

import ctypes as C
import os
import subprocess
import sys
from pathlib import Path

PACKAGE = "@node-llama-cpp/linux-x64@3.21.1"
ROOT = Path(__file__).resolve().parent.parent.parent
F32 = 0


def library():
    """The folder with the library, which npm fetches once (29 MB)."""
    if "LLAMA_CPP" in os.environ:
        return Path(os.environ["LLAMA_CPP"])
    home = ROOT / "target" / "llama_cpp"
    folder = home / "node_modules/@node-llama-cpp/linux-x64/bins/linux-x64"
    if not folder.exists():
        home.mkdir(parents=True, exist_ok=True)
        print(f"fetching {PACKAGE} to {home}", file=sys.stderr)
        subprocess.run(["npm", "install", "--prefix", home, "--no-save", "--ignore-scripts", "--force", PACKAGE], check=True, stdout=sys.stderr)
    return folder


def fields(*kinds):
    """Fields of a structure, from pairs of a type and names."""
    return [(name, kind) for kind, names in kinds for name in names.split()]


class ModelParams(C.Structure):
    _fields_ = fields(
        (C.c_void_p, "devices tensor_buft_overrides"),
        (C.c_int32, "n_gpu_layers split_mode load_mode lazy main_gpu"),
        (C.c_void_p, "tensor_split progress_callback progress_user_data kv_overrides"),
        (C.c_bool, "vocab_only check_tensors use_extra_bufts no_host no_alloc load_mtp"),
    )


class ContextParams(C.Structure):
    _fields_ = fields(
        (C.c_uint32, "n_ctx n_batch n_ubatch n_seq_max n_rs_seq n_outputs_max n_outputs_max_per_seq"),
        (C.c_int32, "n_threads n_threads_batch"),
        (C.c_int, "ctx_type rope_scaling_type pooling_type attention_type flash_attn_type"),
        (C.c_float, "rope_freq_base rope_freq_scale yarn_ext_factor yarn_attn_factor yarn_beta_fast yarn_beta_slow"),
        (C.c_uint32, "yarn_orig_ctx"),
        (C.c_float, "defrag_thold"),
        (C.c_void_p, "cb_eval cb_eval_user_data"),
        (C.c_int, "type_k type_v"),
        (C.c_void_p, "abort_callback abort_callback_data"),
        (C.c_bool, "embeddings offload_kqv no_perf op_offload swa_full kv_unified"),
        (C.c_void_p, "samplers"),
        (C.c_size_t, "n_samplers"),
        (C.c_void_p, "ctx_other"),
    )


class Batch(C.Structure):
    _fields_ = [
        ("n_tokens", C.c_int32),
        ("token", C.POINTER(C.c_int32)),
        ("embd", C.c_void_p),
        ("pos", C.POINTER(C.c_int32)),
        ("n_seq_id", C.POINTER(C.c_int32)),
        ("seq_id", C.POINTER(C.POINTER(C.c_int32))),
        ("logits", C.POINTER(C.c_int8)),
    ]


LOG = C.CFUNCTYPE(None, C.c_int, C.c_char_p, C.c_void_p)
SIGNATURES = {
    "llama_log_set": (None, [LOG, C.c_void_p]),
    "llama_model_default_params": (ModelParams, []),
    "llama_context_default_params": (ContextParams, []),
    "llama_model_load_from_file": (C.c_void_p, [C.c_char_p, ModelParams]),
    "llama_init_from_model": (C.c_void_p, [C.c_void_p, ContextParams]),
    "llama_model_get_vocab": (C.c_void_p, [C.c_void_p]),
    "llama_vocab_n_tokens": (C.c_int32, [C.c_void_p]),
    "llama_vocab_is_eog": (C.c_bool, [C.c_void_p, C.c_int32]),
    "llama_vocab_bos": (C.c_int32, [C.c_void_p]),
    "llama_vocab_eos": (C.c_int32, [C.c_void_p]),
    "llama_vocab_get_add_bos": (C.c_bool, [C.c_void_p]),
    "llama_tokenize": (C.c_int32, [C.c_void_p, C.c_char_p, C.c_int32, C.POINTER(C.c_int32), C.c_int32, C.c_bool, C.c_bool]),
    "llama_token_to_piece": (C.c_int32, [C.c_void_p, C.c_int32, C.c_char_p, C.c_int32, C.c_int32, C.c_bool]),
    "llama_batch_init": (Batch, [C.c_int32, C.c_int32, C.c_int32]),
    "llama_batch_free": (None, [Batch]),
    "llama_decode": (C.c_int32, [C.c_void_p, Batch]),
    "llama_get_logits": (C.POINTER(C.c_float), [C.c_void_p]),
    "llama_get_memory": (C.c_void_p, [C.c_void_p]),
    "llama_memory_clear": (None, [C.c_void_p, C.c_bool]),
    "llama_free": (None, [C.c_void_p]),
    "llama_model_free": (None, [C.c_void_p]),
    "llama_n_ctx": (C.c_uint32, [C.c_void_p]),
}


class LlamaCpp:
    """The library, loaded once."""

    def __init__(self):
        folder = library()
        for name in ["libggml-base.so", *sorted(path.name for path in folder.glob("libggml.v*.so"))]:
            base = C.CDLL(folder / name, mode=C.RTLD_GLOBAL)
        [llama] = folder.glob("libllama.v*.so")
        self.lib = C.CDLL(llama, mode=C.RTLD_GLOBAL)
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(self.lib, name)
            function.restype, function.argtypes = result, arguments
        self.said = []
        self.listener = LOG(lambda level, text, _: self.said.append((level, text.decode(errors="replace"))))
        self.lib.llama_log_set(self.listener, None)
        base.ggml_backend_load_all_from_path.argtypes = [C.c_char_p]
        base.ggml_backend_load_all_from_path(str(folder).encode())
        self.lib.llama_backend_init()
        defaults = self.lib.llama_context_default_params()
        if (defaults.n_ctx, defaults.n_batch) != (512, 2048):
            raise SystemExit(f"{llama}: the structures of another version than {PACKAGE}")

    def complaints(self):
        """What was said as a warning or an error since the last time."""
        said = "".join(text for level, text in self.said if level in (3, 4))
        self.said.clear()
        return said


_LOADED = []


class Model:
    """A model with a context, f32 keys and values, and no flash attention, so that only the arithmetic differs."""

    def __init__(self, path, n_ctx=0, threads=1, kv=F32, vocab_only=False):
        if not _LOADED:
            _LOADED.append(LlamaCpp())
        self.library = _LOADED[0]
        self.lib = lib = self.library.lib
        self.library.complaints()
        model = lib.llama_model_default_params()
        model.n_gpu_layers, model.vocab_only = 0, vocab_only
        self.model = lib.llama_model_load_from_file(str(path).encode(), model)
        if not self.model:
            raise RuntimeError(f"{path}: {self.library.complaints()[-2000:]}")
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.n_tokens = lib.llama_vocab_n_tokens(self.vocab)
        self.context = self.one = None
        if vocab_only:
            return
        context = lib.llama_context_default_params()
        context.n_ctx = n_ctx
        context.n_batch = context.n_ubatch = n_ctx or 512
        context.n_threads = context.n_threads_batch = threads
        context.type_k = context.type_v = kv
        context.flash_attn_type = 0
        self.context = lib.llama_init_from_model(self.model, context)
        if not self.context:
            raise RuntimeError(f"{path}: {self.library.complaints()[-2000:]}")
        self.said = self.library.complaints()

    def close(self):
        if self.one:
            self.lib.llama_batch_free(self.one)
        if self.context:
            self.lib.llama_free(self.context)
        self.lib.llama_model_free(self.model)

    def encode(self, text, special=True, add=False):
        """The ids of a text; `special`: tokens that are written out are meant."""
        data = text.encode()
        ids = (C.c_int32 * (len(data) + 8))()
        n = self.lib.llama_tokenize(self.vocab, data, len(data), ids, len(ids), add, special)
        return list(ids[:n])

    def piece(self, id, special=True):
        """The bytes of a token."""
        buffer = C.create_string_buffer(1024)
        n = self.lib.llama_token_to_piece(self.vocab, id, buffer, len(buffer), 0, special)
        return buffer.raw[:n]

    def decode(self, ids):
        """The text of ids, as a stream of it is read."""
        return b"".join(map(self.piece, ids)).decode(errors="replace")

    def ends(self):
        """The tokens that end a text."""
        return [id for id in range(self.n_tokens) if self.lib.llama_vocab_is_eog(self.vocab, id)]

    def forget(self):
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)

    def step(self, id, at):
        """The logits after one id, which stands behind `at` others, where they are: as fast as it goes."""
        if not self.one:
            self.one = self.lib.llama_batch_init(1, 0, 1)
            self.one.n_tokens, self.one.n_seq_id[0], self.one.seq_id[0][0], self.one.logits[0] = 1, 1, 0, 1
        self.one.token[0], self.one.pos[0] = id, at
        if self.lib.llama_decode(self.context, self.one):
            raise RuntimeError(f"llama_decode: {self.library.complaints()[-2000:]}")
        return self.lib.llama_get_logits(self.context)

    def feed(self, ids, at):
        """The logits after each of these ids, which stand behind `at` others."""
        import numpy as np

        batch = self.lib.llama_batch_init(len(ids), 0, 1)
        for i, id in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = id, at + i, 1, 1
            batch.seq_id[i][0] = 0
        batch.n_tokens = len(ids)
        failed = self.lib.llama_decode(self.context, batch)
        self.lib.llama_batch_free(batch)
        if failed:
            raise RuntimeError(f"llama_decode: {failed}: {self.library.complaints()[-2000:]}")
        logits = np.ctypeslib.as_array(self.lib.llama_get_logits(self.context), shape=(len(ids), self.n_tokens))
        return logits.astype(np.float64)

    def logits(self, ids):
        """The logits after each of these ids."""
        self.forget()
        return self.feed(ids, 0)

    def greedy(self, ids, tokens):
        """Continues ids by the likeliest token until one ends the text."""
        self.forget()
        ends, new, at = set(self.ends()), [], len(ids)
        logits = self.feed(ids, 0)[-1]
        while len(new) < tokens:
            id = int(logits.argmax())
            if id in ends:
                break
            new.append(id)
            logits, at = self.feed([id], at)[-1], at + 1
        return new


def main():
    model = Model(sys.argv[1], n_ctx=256)
    prompt = model.encode(sys.argv[2] if len(sys.argv) > 2 else "\n")
    print(model.decode(prompt + model.greedy(prompt, 200)))
    end, begin = model.lib.llama_vocab_eos(model.vocab), model.lib.llama_vocab_bos(model.vocab)
    print(f"\n{model.n_tokens} tokens; end {end}, begin {begin}; texts end at {model.ends()}", file=sys.stderr)
    print(model.said, file=sys.stderr)


if __name__ == "__main__":
    main()
