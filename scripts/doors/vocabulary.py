"""Checks the tokenizers inside GGUF files: llama.cpp must give the ids that kinglet gives, and the text of any ids.

    cargo build --release
    python3 scripts/doors/vocabulary.py target/release/kinglet          # fetches llama.cpp; two or three minutes
    python3 scripts/doors/vocabulary.py target/release/kinglet --strings 1000

For each kind of tokenizer it trains a small run, exports it as GGUF and compares random strings: `byte`, `char` with and without
an end-of-text token, and `bpe`. It says what becomes of unknown characters: with ASCII alone they must be refused.

The strings for `bpe` have no characters that this Python's Unicode does not know. llama.cpp's table of letters is older than
kinglet's, so that words end elsewhere beside letters that are newer than it; `--all` has them, too.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "scripts" / "doors")]
# The script, not the package of that name.
from tokenizers import BLANKS, END, any_char, random_text  # noqa: E402

import llama_cpp  # noqa: E402


def kinglet(program, *args, lines=None, cwd=None):
    """The lines that a command answers."""
    text = None if lines is None else "".join(json.dumps(line) + "\n" for line in lines)
    command = [program, *map(str, args)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8", cwd=cwd)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")
    return [json.loads(line) for line in done.stdout.removesuffix("\n").split("\n") if line]


def write_texts(folder, known):
    """The characters as one text, and as several documents, which an end-of-text token separates."""
    # Enough for a block, and each character in the part that is learned.
    some = "".join(sorted(known)) * 8
    one, many = folder / "one.txt", folder / "many.jsonl"
    one.write_text(some, encoding="utf-8", newline="")
    documents = [some[: len(some) // 2], some[len(some) // 2 :], sorted(known)[-1]]
    many.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    return one, many


def kinds_of(folder, rng):
    """For each kind of tokenizer the data to train on, the tokenizer's name, and the characters that it knows, if not all."""
    everything = {any_char(rng) for _ in range(4000)} | set(BLANKS) | set(map(chr, range(1, 0x250)))
    everything |= set("".join(random_text(rng, any_char) for _ in range(2000))) - {"\0"}
    ascii = {c for c in everything if c.isascii()}
    corpus = folder / "corpus.txt"
    words = (ROOT / "docs/DESIGN.md").read_text(encoding="utf-8").splitlines(keepends=True)
    mixed = "".join(random_text(rng, any_char) + rng.choice(words) for _ in range(10_000))
    corpus.write_text(mixed.replace("\0", ""), encoding="utf-8", newline="")
    for name in ["ascii", "letters", "all"]:
        (folder / name).mkdir()
    letters = ascii - set("<>|\x01")
    one, many = write_texts(folder / "ascii", ascii)
    return {
        "char, ASCII": (one, "char", ascii),
        "char, ASCII, several documents": (many, "char", ascii),
        "char, ASCII without <, several documents": (write_texts(folder / "letters", letters)[1], "char", letters),
        "char, several documents": (write_texts(folder / "all", everything)[1], "char", everything),
        "byte": (corpus, "byte", None),
        "bpe": (corpus, "bpe:2000", None),
    }


def export(program, folder, data, tokenizer, name):
    """A small run with this tokenizer, and its GGUF."""
    run, out = folder / f"run-{name}", folder / f"gguf-{name}"
    settings = ["max_iters=1", "eval_iters=1", "n_layer=1", "n_embd=32", "n_head=1", "block_size=32", "position=rotary",
                "norm=rmsnorm", "activation=swiglu", "n_inner=32", "bias=false"]
    sets = [part for setting in settings for part in ("--set", setting)]
    kinglet(program, "train", data, "--tokenizer", tokenizer, "--out", run, "--json", *sets)
    kinglet(program, "export", run, "--format", "gguf", "-o", out, "--json")
    [file] = out.glob("*.gguf")
    return run, file


def check(program, strings, seed, newer):
    rng, failed = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        for number, (kind, (data, tokenizer, known)) in enumerate(kinds_of(folder, rng).items()):
            run, file = export(program, folder, data, tokenizer, number)
            failed += compare(program, kind, run, file, strings, known, rng, newer)
    return failed


def compare(program, kind, run, file, strings, known, rng, newer):
    model = llama_cpp.Model(file, vocab_only=True)
    texts = ["", END, "\r\n", " ", *(random_text(rng, any_char) for _ in range(strings))]
    # C ends a text at its first zero byte when it is handed on without its length.
    texts = [text.replace("\0", "") for text in texts]
    if kind == "bpe" and not newer:
        texts = ["".join(c for c in text if unicodedata.category(c) != "Cn") for text in texts]
    if known is not None:
        texts = ["".join(c for c in text if c in known) for text in texts]
        if not {"<", "|", ">"} <= known:
            texts = [text.replace(END, "") for text in texts]
    ids = [[rng.randrange(model.n_tokens) for _ in range(rng.randint(0, 30))] for _ in range(strings)]
    lines = [{"text": text} for text in texts] + [{"ids": list} for list in ids]
    answers = kinglet(program, "data", "encode", run, "--json", lines=lines)
    encoded = [model.encode(text) for text in texts]
    wrong = [i for i, theirs in enumerate(encoded) if answers[i]["ids"] != theirs]
    decoded = [model.decode(list) for list in encoded + ids]
    end = model.piece(model.lib.llama_vocab_eos(model.vocab)).decode() if model.ends() else END
    garbled = [i for i, text in enumerate(decoded) if answers[i]["text"] != text.replace(end, END)]
    note = f"{kind}: {len(texts)} strings, {len(ids)} lists of ids: {len(wrong)} with other ids, {len(garbled)} with another text"
    failed = len(wrong) + len(garbled)
    if known is not None:
        theirs = model.encode("a" + next(c for c in map(chr, range(0x4E00, 0x9FFF)) if c not in known))
        note += f"; what is unknown is {'refused' if -1 in theirs else 'left out'}"
        failed += "ASCII" in kind and -1 not in theirs
    print(f"{note}; texts end at {model.ends()}", flush=True)
    for i in wrong[:3]:
        print(f"  {texts[i]!r}\n  kinglet   {answers[i]['ids']}\n  llama.cpp {encoded[i]}", file=sys.stderr)
    for i in garbled[:3]:
        print(f"  {(encoded + ids)[i]}\n  kinglet   {answers[i]['text']!r}\n  llama.cpp {decoded[i]!r}", file=sys.stderr)
    model.close()
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program", type=Path, help="kinglet's binary")
    parser.add_argument("--strings", type=int, default=50_000, help="random strings for each tokenizer [50000]")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random strings [1]")
    parser.add_argument("--all", action="store_true", help="with characters that are newer than this Python")
    args = parser.parse_args()
    return 1 if check(args.program.resolve(), args.strings, args.seed, args.all) else 0


if __name__ == "__main__":
    sys.exit(main())
