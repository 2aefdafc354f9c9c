"""Checks the tokenizers inside GGUF files: llama.cpp must give the ids that kinglet gives, and the text of any ids.

    cargo build --release
    python3 scripts/doors/vocabulary.py target/release/kinglet          # fetches llama.cpp; two or three minutes
    python3 scripts/doors/vocabulary.py target/release/kinglet --strings 1000

For each kind of tokenizer it trains a small run, exports it as GGUF and compares random strings: `byte`, `char` with and without
an end-of-text token, and `bpe`. What a character tokenizer does not know must be an error there, too.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
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


def texts_of(folder, rng):
    """The data of each kind: a text of everything, and conversations' worth of documents."""
    everything = {any_char(rng) for _ in range(4000)} | set(BLANKS) | set(map(chr, range(1, 0x250)))
    known = (set("".join(random_text(rng, any_char) for _ in range(2000))) | everything) - {"\0"}
    some = "".join(sorted(known))
    one, many, corpus = folder / "one.txt", folder / "many.jsonl", folder / "corpus.txt"
    one.write_text(some, encoding="utf-8", newline="")
    documents = [some[: len(some) // 2], some[len(some) // 2 :], "a"]
    many.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    words = (ROOT / "docs/DESIGN.md").read_text(encoding="utf-8").splitlines(keepends=True)
    mixed = "".join(random_text(rng, any_char) + rng.choice(words) for _ in range(10_000))
    corpus.write_text(mixed.replace("\0", ""), encoding="utf-8", newline="")
    kinds = {
        "char": (one, "char"),
        "char, several documents": (many, "char"),
        "byte": (corpus, "byte"),
        "bpe": (corpus, "bpe:2000"),
    }
    return kinds, known


def export(program, folder, data, tokenizer, name):
    """A small run with this tokenizer, and its GGUF."""
    run, out = folder / f"run-{name}", folder / f"gguf-{name}"
    settings = ["max_iters=1", "eval_iters=1", "n_layer=1", "n_embd=32", "n_head=1", "block_size=256", "position=rotary",
                "norm=rmsnorm", "activation=swiglu", "n_inner=32"]
    sets = [part for setting in settings for part in ("--set", setting)]
    kinglet(program, "train", data, "--tokenizer", tokenizer, "--out", run, "--json", *sets)
    out.mkdir(); print(subprocess.run(["/tmp/wt/gguf/target/debug/examples/tmp_gguf", run, out/"m.gguf"],check=True,capture_output=True,text=True).stdout)
    [file] = out.glob("*.gguf")
    return run, file


def check(program, strings, seed):
    rng, failed = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        kinds, known = texts_of(folder, rng)
        for number, (kind, (data, tokenizer)) in enumerate(kinds.items()):
            run, file = export(program, folder, data, tokenizer, number)
            failed += compare(program, kind, run, file, strings, known, rng)
    return failed


def compare(program, kind, run, file, strings, known, rng):
    model = llama_cpp.Model(file, vocab_only=True)
    texts = ["", END, "\r\n", " ", *(random_text(rng, any_char) for _ in range(strings))]
    # C ends a text at its first zero byte when it is handed on without its length.
    texts = [text.replace("\0", "") for text in texts]
    if kind.startswith("char"):
        texts = ["".join(c for c in text if c in known) for text in texts]
    ids = [[rng.randrange(model.n_tokens) for _ in range(rng.randint(0, 30))] for _ in range(strings)]
    answers = kinglet(program, "data", "encode", run, "--json", lines=[{"text": t} for t in texts] + [{"ids": i} for i in ids])
    encoded = [model.encode(text) for text in texts]
    wrong = [text for text, answer, theirs in zip(texts, answers, encoded) if answer["ids"] != theirs]
    garbled = [list for list, answer in zip(encoded + ids, answers) if answer["text"] != model.decode(list)]
    note = f"{kind}: {len(texts)} strings, {len(ids)} lists of ids: {len(wrong)} with other ids, {len(garbled)} with another text"
    failed = len(wrong) + len(garbled)
    if kind.startswith("char"):
        strange = next(c for c in map(chr, range(0x4E00, 0x9FFF)) if c not in known)
        refused = -1 in model.encode("a" + strange)
        note += f"; what is unknown is {'refused' if refused else 'LEFT OUT'}"
        failed += not refused
    print(f"{note}; texts end at {model.ends()}", flush=True)
    for text in wrong[:3]:
        answer = answers[texts.index(text)]
        print(f"  {text!r}\n  kinglet   {answer['ids']}\n  llama.cpp {model.encode(text)}", file=sys.stderr)
    for list in garbled[:3]:
        print(f"  {list}\n  llama.cpp {model.decode(list)!r}", file=sys.stderr)
    model.close()
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program", type=Path, help="kinglet's binary")
    parser.add_argument("--strings", type=int, default=50_000, help="random strings for each tokenizer [50000]")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random strings [1]")
    args = parser.parse_args()
    return 1 if check(args.program.resolve(), args.strings, args.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
