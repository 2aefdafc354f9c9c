"""Checks kinglet's tokenizers against Python's packages, and measures `kinglet data prepare` beside them.

    cargo build --release
    python3 scripts/tokenizers.py             # makes its own environment; a minute or two
    python3 scripts/tokenizers.py --bench     # 1 GB of text, in the system's temporary folder; 10 to 20 minutes
    python3 scripts/tokenizers.py --bench --mb 100 --sample-mb 10 --rounds 5

It checks the tokenizer.json files that kinglet writes: `char` of one text, `char` of several documents (with `<|endoftext|>`),
`byte` and `bpe:2000`. Python's `tokenizers` loads each of them. Every random string must have the same ids in both, and decode
to the same text. Lists of random ids, which are seldom text, must decode to the same text, too. tiktoken, with the ranks of the
`bpe` file and GPT-2's pattern, must give the same ids.

The speed is measured on lines of the built-in corpora, and of Tiny Shakespeare if `$KINGLET_DATA_DIR` has it. They are in random
order, with random numbers and words between the words, so that caches of words do not know them all. All programs encode the
same pieces with both cores. kinglet also reads the text twice, and writes the ids and their checksums.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINGLET = ROOT / "target/release/kinglet"
END = "<|endoftext|>"
# GPT-2's, as tiktoken writes it.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
BLANKS = "\t\n\v\f\r \x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2007\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
# Where letters, digits, marks, signs and emoji of many scripts are, and where nothing is assigned.
BLOCKS = [
    *[(0x20, 0x7E)] * 6, (0xA1, 0x17F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0xDFF), (0xE00, 0xEFF),
    (0x1100, 0x11FF), (0x1D00, 0x1FFF), (0x2010, 0x2BFF), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
    (0xE000, 0xF8FF), (0xFB00, 0xFFFD), (0x10000, 0x10FFF), (0x1D400, 0x1D7FF), (0x1F1E6, 0x1FAFF), (0x20000, 0x2FA1F),
    (0xE0000, 0xE01EF), (0xF0000, 0x10FFFF),
]  # fmt: skip


def any_char(rng):
    """Of any plane but the surrogates, which no UTF-8 has."""
    if rng.random() < 0.1:
        c = rng.randrange(1, 0x110000 - 0x800)
        return chr(c if c < 0xD800 else c + 0x800)
    return chr(rng.randint(*rng.choice(BLOCKS)))


def random_text(rng, char):
    """Words, blanks, line ends, contractions, digits, ends of text and parts of one."""
    parts = []
    for _ in range(rng.choice([0, 1, 1, 2, 3, 5, 8, 13, 40])):
        kind = rng.random()
        if kind < 0.35:
            parts.append("".join(char(rng) for _ in range(rng.randint(1, 8))))
        elif kind < 0.5:
            parts.append("".join(rng.choice(BLANKS) for _ in range(rng.randint(1, 4))))
        elif kind < 0.6:
            parts.append(rng.choice(["\r\n", "\n", "\r", "\n\n", "\r\n\r\n", "  ", " \n ", "\t\t"]))
        elif kind < 0.7:
            ends = [END, END + END, "<|endoftext", "endoftext|>", "<|", f" {END} ", f"{END}\n", "<|ENDOFTEXT|>"]
            parts.append(rng.choice(ends))
        elif kind < 0.8:
            parts.append(rng.choice(["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "’s", "''", "don't", "I'll"]))
        elif kind < 0.9:
            words = ["the kinglet", " weighs", "no more", " 2025", "3.14", "e\u0301", "👩‍👩‍👧", "🇩🇪", "ﬁ", "İ"]
            parts.append(rng.choice(words))
        else:
            parts.append(chr(rng.choice([0, 0x300, 0x301, 0x308, 0x323, 0x200D, 0xFE0F, 0xFEFF, 0x20E3, 0x1F3FD])))
    return "".join(parts)


def kinglet(*args, lines=None):
    """The lines that a command answers."""
    command = [KINGLET, *map(str, args), "--json"]
    text = None if lines is None else "".join(json.dumps(line) + "\n" for line in lines)
    done = subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")
    # Not splitlines: JSON leaves U+2028 and the like as they are.
    return [json.loads(line) for line in done.stdout.removesuffix("\n").split("\n")]


def tiktoken_of(path):
    """tiktoken's encoding with the vocabulary of a tokenizer.json of byte pair encoding."""
    import tiktoken

    visible = [b for b in range(256) if 0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or 0xAE <= b]
    hidden = [b for b in range(256) if b not in visible]
    byte = {chr(b): b for b in visible} | {chr(256 + i): b for i, b in enumerate(hidden)}
    vocab = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    ranks = {bytes(byte[c] for c in word): id for word, id in vocab.items() if word != END}
    return tiktoken.Encoding("kinglet", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END: vocab[END]})


def prepare(folder, text, tokenizer):
    out = folder / f"{text.stem}-{str(tokenizer).partition(':')[0]}"
    kinglet("data", "prepare", text, "--tokenizer", tokenizer, "--out", out)
    return out / "tokenizer.json"


def check(folder, strings, seed):
    import tokenizers

    rng = random.Random(seed)
    # Characters of a text for `char`: whatever strings are made of, and as many besides.
    everything = {any_char(rng) for _ in range(4000)} | set(BLANKS) | set(map(chr, range(0x250)))
    known = (set("".join(random_text(rng, any_char) for _ in range(2000))) | everything) - {"\0"}
    some = "".join(sorted(known))
    one, many = folder / "one.txt", folder / "many.jsonl"
    one.write_text(some, encoding="utf-8", newline="")
    half = len(some) // 2
    many.write_text("".join(json.dumps({"text": t}) + "\n" for t in [some[:half], some[half:], "a"]), encoding="utf-8")
    corpus = folder / "corpus.txt"
    words = lines_of_text()
    mixed = "".join(random_text(rng, any_char) + rng.choice(words) for _ in range(20_000))
    corpus.write_text(mixed.replace("\0", ""), encoding="utf-8", newline="")
    kinds = {
        "char": prepare(folder, one, "char"),
        "char, several documents": prepare(folder, many, "char"),
        "byte": prepare(folder, one, "byte"),
        "bpe:2000": prepare(folder, corpus, "bpe:2000"),
    }
    print(versions())
    failed = 0
    for kind, path in kinds.items():
        theirs = tokenizers.Tokenizer.from_file(str(path))
        char = (lambda rng: rng.choice(some)) if kind.startswith("char") else any_char
        texts = ["", END, "\r\n", " ", *(random_text(rng, char) for _ in range(strings))]
        if kind.startswith("char"):
            texts = ["".join(c for c in text if c in known) for text in texts]
        ids = [[rng.randrange(theirs.get_vocab_size()) for _ in range(rng.randint(0, 30))] for _ in range(strings)]
        answers = kinglet("data", "encode", path, lines=[{"text": t} for t in texts] + [{"ids": i} for i in ids])
        encoded = [encoding.ids for encoding in theirs.encode_batch(texts, add_special_tokens=False)]
        decoded = theirs.decode_batch(encoded + ids, skip_special_tokens=False)
        ours = [(answer["ids"], answer["text"]) for answer in answers]
        wrong = sum(a != b for a, b in zip(ours, zip(encoded + ids, decoded), strict=True))
        round_trips = sum(text != answer["text"] for text, answer in zip(texts, answers))
        tried = f"{len(texts)} strings, {len(ids)} lists of ids"
        note = f"{kind}: {tried}: {wrong} differences, {round_trips} texts changed"
        if kind.startswith("bpe"):
            rank = tiktoken_of(path)
            differ = [t for t, a in zip(texts, answers) if rank.encode(t, allowed_special="all") != a["ids"]]
            note += f"; {len(differ)} differ from tiktoken"
            failed += len(differ)
            for text in differ[:3]:
                print(f"tiktoken: {text!r}", file=sys.stderr)
        print(note)
        for text, a, *b in zip(texts + ids, ours, encoded + ids, decoded):
            if list(a) != b:
                print(f"{kind}: {text!r}\n  kinglet {a}\n  theirs {b}", file=sys.stderr)
                break
        failed += wrong + round_trips
    return failed


def versions():
    import tiktoken
    import tokenizers

    ours = subprocess.run([KINGLET, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    return f"{ours}, tokenizers {tokenizers.__version__}, tiktoken {tiktoken.__version__}"


def lines_of_text():
    """Lines of the built-in corpora, and of Tiny Shakespeare if it is there."""
    lines = []
    with tempfile.TemporaryDirectory() as temp:
        for name in ["builtin", "tinyshakespeare"] if os.environ.get("KINGLET_DATA_DIR") else ["builtin"]:
            # The ids of bytes are the text; the end of one, 256, is the zero that no text has.
            out = Path(temp) / name
            kinglet("data", "prepare", name, "--tokenizer", "byte", "--out", out)
            ids = b"".join(path.read_bytes()[128::2] for path in sorted(out.glob("*.bin")))
            lines += ids.replace(b"\0", b"").decode().splitlines(keepends=True)
    return lines


def write_text(path, size, seed):
    """`size` bytes of shuffled lines; every fourth has a number and every eighth a made-up word in it."""
    rng, lines, written = random.Random(seed), lines_of_text(), 0
    syllables = [a + b for a in "bcdfghjklmnprstvw" for b in "aeiou"] + ["é", "ß", "ø", "я", "語"]
    with open(path, "w", encoding="utf-8", newline="") as file:
        while written < size:
            rng.shuffle(lines)
            for line in lines:
                if rng.random() < 0.25:
                    line = f"{rng.randrange(10 ** rng.randint(1, 9))} {line}"
                if rng.random() < 0.125:
                    line = "".join(rng.choices(syllables, k=rng.randint(2, 6))) + " " + line
                written += len(line.encode())
                file.write(line)
                if written >= size:
                    break


def pieces_of(path, size=1 << 20):
    """The text in pieces of whole lines."""
    text, pieces, start = path.read_text(encoding="utf-8"), [], 0
    while start < len(text):
        end = text.find("\n", start + size) + 1 or len(text)
        pieces.append(text[start:end])
        start = end
    return pieces


def measured(folder, text, tokenizer, *sets):
    """What `data prepare` says, and its wall time."""
    out = folder / "prepared"
    shutil.rmtree(out, ignore_errors=True)
    clock = time.perf_counter()
    [about] = kinglet("data", "prepare", text, "--tokenizer", tokenizer, "--out", out, *sets)
    return about | {"wall_s": time.perf_counter() - clock}


def bench(folder, mb, sample_mb, rounds, seed):
    import tokenizers

    part, sample, whole = folder / "part.txt", folder / "sample.txt", folder / "whole.txt"
    write_text(part, 20_000_000, seed)
    write_text(sample, sample_mb * 1_000_000, seed + 1)
    files = {"byte": "byte", "char": "char", "bpe:8000": folder / "bpe.json"}
    shutil.copy(prepare(folder, part, "bpe:8000"), files["bpe:8000"])
    theirs = {}
    for kind, file in files.items():
        path = prepare(folder, sample, kind) if file == kind else file
        theirs[kind] = tokenizers.Tokenizer.from_file(str(path))
    rank = tiktoken_of(files["bpe:8000"])
    pieces, size = pieces_of(sample), sample.stat().st_size

    def batches(kind):
        for i in range(0, len(pieces), 16):
            theirs[kind].encode_batch_fast(pieces[i : i + 16])

    variants = {}
    for kind, file in files.items():
        variants[f"kinglet, {kind}"] = lambda file=file: measured(folder, sample, file)
        variants[f"tokenizers, {kind}"] = lambda kind=kind: batches(kind)
    variants["tiktoken, bpe:8000"] = lambda: rank.encode_ordinary_batch(pieces, num_threads=os.cpu_count())
    speeds = {name: [] for name in variants}
    for number in range(rounds):
        for name, run in variants.items():
            clock = time.perf_counter()
            run()
            speeds[name].append(size / 1e6 / (time.perf_counter() - clock))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    print(f"{versions()}, {os.cpu_count()} threads\n")
    print(f"| {size / 1e6:.0f} MB, medians of {rounds} rounds in turn | MB/s | range |\n| --- | --- | --- |")
    for name, values in speeds.items():
        print(f"| {name} | {statistics.median(values):.1f} | {min(values):.1f}-{max(values):.1f} |", flush=True)

    write_text(whole, mb * 1_000_000, seed + 2)
    size = whole.stat().st_size
    head = ["tokens", "wall s", "first reading s", "encoding s", "MB/s", "peak MiB", "training starts s", "its MiB"]
    print(f"\n| {size / 1e6:.0f} MB | {' | '.join(head)} |\n{'| --- ' * (len(head) + 1)}|")
    for kind, file in files.items():
        # The exact loss at a run's end is over the whole validation part: a small one.
        about = measured(folder, whole, file, "--set", "train_split=0.999")
        start, peak = train(folder)
        speed = size / 1e6 / about["wall_s"]
        figures = [about["wall_s"], about["read_s"], about["encode_s"], speed, about["peak_memory_mib"], start, peak]
        tokens = about["train"]["tokens"] + about["val"]["tokens"]
        print(f"| {kind} | {tokens} | {' | '.join(f'{figure:.1f}' for figure in figures)} |", flush=True)


def train(folder):
    """A few steps on what was prepared: seconds until the first event, and the peak in MiB."""
    out = folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    sets = ["max_iters=20", "eval_iters=2"]
    command = [KINGLET, "train", folder / "prepared", "--json", "--out", out, *(p for s in sets for p in ("--set", s))]
    clock = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        process.stdout.readline()
        start = time.perf_counter() - clock
        return start, json.loads(process.stdout.read().splitlines()[-1])["peak_memory_mib"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--strings", type=int, default=20_000, help="random strings for each tokenizer [20000]")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random strings and texts [1]")
    parser.add_argument("--bench", action="store_true", help="measure instead of checking")
    parser.add_argument("--mb", type=int, default=1000, help="megabytes of text that are prepared once [1000]")
    parser.add_argument("--sample-mb", type=int, default=50, help="megabytes of text that are encoded in turn [50]")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of that [3]")
    parser.add_argument("--python", type=Path, help="a Python that has both packages, instead of making one")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.inside:
        from environment import environment

        # Isolated: in this folder `tokenizers` is this file.
        command = [args.python or environment("tokenizers", "tokenizers", "tiktoken"), "-I", __file__, "--inside", *sys.argv[1:]]
        return subprocess.run(command, check=False).returncode
    with tempfile.TemporaryDirectory() as temp:
        if args.bench:
            return bench(Path(temp), args.mb, args.sample_mb, args.rounds, args.seed)
        return 1 if check(Path(temp), args.strings, args.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
