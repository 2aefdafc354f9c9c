"""Writes tests/formats: small files of every kind that Python's csv, json, gzip, zstandard and pandas write, and index.json,
which says what kinglet reads in each: the texts, the conversations, or why it refuses.

    python3 -m venv /tmp/formats && /tmp/formats/bin/pip install pandas zstandard
    /tmp/formats/bin/python scripts/formats.py

`tests/it/formats.rs` compares. The files are committed, so that the test needs no Python; written again with the same
versions they are the same.
"""

import csv
import gzip
import io
import json
import math
import pathlib
import shutil
import zipfile

import pandas
import zstandard

OUT = pathlib.Path(__file__).parent.parent / "tests/formats"

# Separators, quotes and line ends inside; scripts with and without spaces; what others take for a missing value.
DOCS = [
    'a, "b"; c | d',
    "two\nlines\n\nand\r\nmore",
    "a\ttab",
    '"quoted"',
    '""',
    " blanks ",
    "NA",
    "3.50",
    "ข้อความ",
    "نص، عربي",
    "🐦é\u2028",
    "back\\slash 'n'",
]
# For what has no quoting: neither tabs nor line ends, nor anything that only CSV would write.
FLAT = [doc for doc in DOCS if not set(doc) & set("\t\r\n") and doc != '""'] + ['"opens with a quote', 'ends with one"']
PLAIN = "".join(doc + "\n" for doc in DOCS)
PAIRS = [("What is 2 + 2?", "4"), ("Say \"hi\", please", "hi, 🐦"), ("แปล", "translate\nthis")]

# Texts of many files, which the index has once.
SHARED = {"docs": DOCS, "flat": FLAT, "plain": [PLAIN]}

index = []


def case(name, data, texts=None, **want):
    """A file, and what is to be read in it: texts, conversations or refused; settings and notes where there are any."""
    (OUT / name).write_bytes(data.encode() if isinstance(data, str) else data)
    shared = [known for known, value in SHARED.items() if value == texts]
    if texts is not None:
        want["texts"] = shared[0] if shared else texts
    index.append({"file": name, **want})


def table(rows, header=("id", "text"), bom=False, **dialect):
    out = io.StringIO()
    writer = csv.writer(out, **dialect)
    writer.writerow(header)
    writer.writerows(rows)
    return ("\ufeff" if bom else "") + out.getvalue()


def numbered(docs):
    return [(i, doc) for i, doc in enumerate(docs)]


def gz(data, name="", mtime=0, level=9):
    out = io.BytesIO()
    with gzip.GzipFile(filename=name, mode="wb", fileobj=out, mtime=mtime, compresslevel=level) as file:
        file.write(data)
    return out.getvalue()


def lines(records, end="\n", **options):
    return "".join(json.dumps(record, **options) + end for record in records)


def tables():
    rows = numbered(DOCS)
    for name, dialect in {
        "excel": {"dialect": "excel"},
        "unix": {"dialect": "unix"},
        "lf": {"lineterminator": "\n"},
        "quote_all": {"quoting": csv.QUOTE_ALL},
        "quote_nonnumeric": {"quoting": csv.QUOTE_NONNUMERIC},
    }.items():
        case(f"{name}.csv", table(rows, **dialect), texts=DOCS)
    case("no_final_newline.csv", table(rows).rstrip("\r\n"), texts=DOCS)
    case("bom.csv", table(rows, bom=True).encode(), texts=DOCS)
    case("utf16.csv", table(rows).encode("utf-16"), texts=DOCS)
    case("utf16be.csv", ("\ufeff" + table(rows)).encode("utf-16-be"), texts=DOCS)
    case("blank_lines.csv", table(rows).replace("\r\n0,", "\r\n\r\n0,"), texts=DOCS)
    case("text_first.csv", table([(doc, i) for i, doc in rows], header=("text", "id")), texts=DOCS)
    case("one_column.csv", table([(doc,) for doc in DOCS], header=("text",)), texts=DOCS)
    for name, separator in [("semicolons", ";"), ("pipes", "|"), ("tabs", "\t")]:
        shown = {"\t": "\\t"}.get(separator, separator)
        case(f"{name}.csv", table(rows, delimiter=separator), texts=DOCS, notes=[f'separated by "{shown}"'])
    case("excel_quotes_all_semicolons.csv", table(rows, delimiter=";", quoting=csv.QUOTE_ALL), texts=DOCS)
    for name, column in [("thai", "ข้อความ"), ("arabic", "نص"), ("emoji", "🐦 text"), ("newline", "two\nlines")]:
        want = {"settings": [f"data_field={column}"], "texts": DOCS}
        case(f"column_{name}.csv", table(rows, header=("id", column)), **want)
    case("column_missing.csv", table(rows, header=("ลำดับ", "ข้อความ")), refused='choose a column with --field: "ลำดับ", "ข้อความ"')
    case("twice.csv", table([(1, "a", "b")], header=("id", "text", "text")), refused='two columns named "text"')
    case("twice_unread.csv", table([(1, 2, "a")], header=("id", "id", "text")), texts=["a"])
    escaped = table(rows, doublequote=False, escapechar="\\")
    case("escaped.csv", escaped, refused="text follows a closing quote")
    case("empty_texts.csv", table([(1, "a"), (2, ""), (3, "b")]), texts=["a", "b"], notes=["skipped 1 empty text"])
    case("pairs.csv", table(PAIRS, header=("prompt", "response")), conversations=[talk(*pair) for pair in PAIRS])
    alpaca = [("Add", "1 2", "3"), ("Greet", "", "Hello")]
    want = {"conversations": [talk("Add\n1 2", "3"), talk("Greet", "Hello")]}
    case("alpaca.csv", table(alpaca, header=("instruction", "input", "output")), **want)

    flat = numbered(FLAT)
    none = {"quoting": csv.QUOTE_NONE, "quotechar": None}
    case("plain.tsv", table(flat, delimiter="\t", **none), texts=FLAT)
    case("lf.tsv", table(flat, delimiter="\t", lineterminator="\n", **none), texts=FLAT)
    case("bom.tsv", table(flat, bom=True, delimiter="\t", **none), texts=FLAT)
    quoting = "a field is quoted as in CSV"
    case("excel_tab.tsv", table(rows, dialect="excel-tab"), refused=quoting)
    case("quote_all.tsv", table(flat, delimiter="\t", quoting=csv.QUOTE_ALL), refused=quoting)
    case("broken_over_lines.tsv", table(numbered(["a\nb"]), delimiter="\t"), refused=quoting)


def talk(*said, system=None, learned=True):
    """A conversation as role, content, and whether it is learned."""
    messages = [["user" if i % 2 == 0 else "assistant", text, learned] for i, text in enumerate(said)]
    messages = [[role, text, learned or role == "user"] for role, text, learned in messages]
    return ([["system", system, True]] if system else []) + messages


def of_pandas():
    frame = pandas.DataFrame({"id": range(len(DOCS)), "text": DOCS, "score": [math.nan] * len(DOCS)})
    case("pandas_index.csv", frame.to_csv(), texts=DOCS)
    case("pandas.csv", frame.to_csv(index=False), texts=DOCS)
    case("pandas_semicolons.csv", frame.to_csv(index=False, sep=";"), texts=DOCS)
    case("pandas_na.csv", frame.to_csv(index=False, na_rep="NaN"), texts=DOCS)
    case("pandas_bom.csv", frame.to_csv(index=False).encode("utf-8-sig"), texts=DOCS)
    case("pandas_crlf.csv", frame.to_csv(index=False, lineterminator="\r\n"), texts=DOCS)
    case("pandas.tsv", frame.to_csv(index=False, sep="\t"), refused="a field is quoted as in CSV")
    flat = pandas.DataFrame({"id": range(4), "text": ["a", "b c", "ข้อความ", "d, e; f"]})
    case("pandas_flat.tsv", flat.to_csv(sep="\t"), texts=list(flat["text"]))
    gap = pandas.DataFrame({"text": ["a", None, ""], "id": [1, 2, 3]})
    case("pandas_gap.csv", gap.to_csv(index=False), texts=["a"], notes=["skipped 2 empty texts"])
    case("pandas_gap.jsonl", gap.to_json(orient="records", lines=True), refused='line 2: "text" is null')
    settings = {"settings": ["skip_bad=true"]}
    notes = ["skipped 1 empty text", "skipped 1 bad record"]
    case("pandas_gap_skipped.jsonl", gap.to_json(orient="records", lines=True), texts=["a"], notes=notes, **settings)
    case("pandas.jsonl", frame.to_json(orient="records", lines=True), texts=DOCS, notes=['not read: "id"'])
    case("pandas_utf8.jsonl", frame.to_json(orient="records", lines=True, force_ascii=False), texts=DOCS)
    case("pandas.json", frame.to_json(orient="records"), texts=DOCS)
    case("pandas_indent.json", frame.to_json(orient="records", indent=2), texts=DOCS)
    case("pandas_lines.json", frame.to_json(orient="records", lines=True), texts=DOCS, notes=["recognised as JSON lines"])
    for orient in ["columns", "split", "index", "table"]:
        small = flat.to_json(orient=orient)
        case(f"pandas_{orient}.json", small, refused='orient="records"')
    case("pandas_values.json", flat.to_json(orient="values"), refused="it is a list, not a JSON object")


def of_json():
    records = [{"id": i, "text": doc, "x": {"text": 1}} for i, doc in enumerate(DOCS)]
    case("ascii.jsonl", lines(records), texts=DOCS)
    case("utf8.jsonl", lines(records, ensure_ascii=False), texts=DOCS)
    case("crlf.jsonl", lines(records, end="\r\n"), texts=DOCS)
    case("blank_lines.jsonl", lines(records, end="\n\n"), texts=DOCS)
    case("no_final_newline.jsonl", lines(records).rstrip(), texts=DOCS)
    case("compact.ndjson", lines(records, separators=(",", ":")), texts=DOCS)
    case("bom.jsonl", lines(records).encode("utf-8-sig"), texts=DOCS)
    case("two_boms.jsonl", lines(records[:3]).encode("utf-8-sig") + lines(records[3:]).encode("utf-8-sig"), texts=DOCS)
    case("utf16.jsonl", lines(records, ensure_ascii=False).encode("utf-16"), texts=DOCS)
    case("array.jsonl", json.dumps(records), texts=DOCS, notes=["recognised as a JSON array"])
    case("ascii.json", json.dumps(records), texts=DOCS)
    case("indent.json", json.dumps(records, indent=1, ensure_ascii=False), texts=DOCS)
    case("utf16.json", json.dumps(records, ensure_ascii=False).encode("utf-16"), texts=DOCS)
    case("bom.json", json.dumps(records).encode("utf-8-sig"), texts=DOCS)
    case("indent.jsonl", json.dumps(records[0], indent=1), refused="each object must be on one line")
    case("object.json", json.dumps(records[0]), refused="not a JSON array of objects: it is an object")
    case("strings.json", json.dumps(DOCS), refused="element 1): it is a string, not a JSON object")
    odd = [{"text": "a", "loss": math.nan, "more": [math.inf, -math.inf]}]
    case("nan_elsewhere.jsonl", lines(odd), texts=["a"], notes=['not read: "loss", "more"'])
    case("nan_elsewhere.json", json.dumps(odd), texts=["a"])
    case("nan.jsonl", lines([{"text": "a"}, {"text": math.nan}]), refused='line 2: "text" is NaN, not a string')
    case("half_a_pair.jsonl", lines([{"text": "\ud83d"}]), refused="line 1: not JSON: an unpaired surrogate")
    case("half_a_pair_replaced.jsonl", lines([{"text": "\ud83d!"}]), texts=["\ufffd!"], settings=["invalid_utf8=replace"])
    case("field.jsonl", lines([{"ข้อความ": "a", "text": "b"}]), settings=["data_field=ข้อความ"], texts=["a"])
    broken = lines([{"text": "a"}]) + '{"text": "b"\n' + lines([{"body": "c"}, {"text": "d"}])
    case("broken.jsonl", broken, refused="line 2: not JSON: it ends too early, at column 13")
    notes = ["skipped 2 bad records, the first: ", "line 2: not JSON"]
    case("broken_skipped.jsonl", broken, settings=["skip_bad=true"], texts=["a", "d"], notes=notes)


def conversations():
    chats = [talk(*pair) for pair in PAIRS]
    case("prompts.jsonl", lines([{"prompt": a, "response": b} for a, b in PAIRS]), conversations=chats)
    case("completions.json", json.dumps([{"prompt": a, "completion": b} for a, b in PAIRS]), conversations=chats)
    messages = lambda chat: [{"role": role, "content": text} for role, text, _ in chat]
    case("messages.jsonl", lines([{"messages": messages(chat)} for chat in chats]), conversations=chats)
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    of_gpt = lambda chat: [{"from": names[role], "value": text} for role, text, _ in chat]
    longer = talk("a", "b", "c", "d", system="Be brief.")
    share = [{"id": "x1", "conversations": of_gpt(chat)} for chat in [longer, *chats]]
    case("sharegpt.json", json.dumps(share, indent=2), conversations=[longer, *chats], notes=['not read: "id"'])
    parts = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in messages(longer)]
    case("parts.jsonl", lines([{"messages": parts}]), conversations=[longer])
    image = [{"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": "x"}}]}]
    case("image.jsonl", lines([{"messages": image}]), refused='message 1: part 2 of "content" has the type "image_url"')
    weighted = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]
    weighted += [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "weight": 1}]
    want = [["user", "a", True], ["assistant", "b", False], ["user", "c", True], ["assistant", "d", True]]
    case("weights.jsonl", lines([{"messages": weighted}]), conversations=[want])
    alpaca = [{"instruction": "Double it", "input": 21, "output": 42.50}, {"instruction": "Yes?", "input": "", "output": True}]
    want = [talk("Double it\n21", "42.5"), talk("Yes?", "true")]
    case("alpaca.json", json.dumps(alpaca), conversations=want)
    history = {"system": "s", "instruction": "c", "input": None, "output": "d", "history": [["a", "b"]]}
    case("history.json", json.dumps([history]), conversations=[talk("a", "b", "c", "d", system="s")])
    both = [{"instruction": "a", "prompt": "b", "response": "c"}]
    case("both.jsonl", lines(both), refused='line 1: it has both "prompt" and "instruction"')
    text = [{"instruction": "a", "output": "b", "text": "### a\n### b"}]
    case("text_beside.jsonl", lines(text), texts=["### a\n### b"], notes=['reads "text"; not read: "instruction", "output"'])
    notes = ['reads "instruction", "output"; not read: "text"']
    case("text_beside_tuned.jsonl", lines(text), settings=["base=run"], conversations=[talk("a", "b")], notes=notes)
    null = [{"text": None, "prompt": "a", "response": "b", "chosen": None}]
    case("nulls.jsonl", lines(null), conversations=[talk("a", "b")])


def of_chats():
    """Conversations as people have them: ShareGPT as lines, questions and answers, a ChatGPT export."""
    said = lambda *turns: [{"from": who, "value": text} for who, text in turns]
    share = [said(("human", "a"), ("gpt", "b")), said(("system", "s"), ("user", "a"), ("chatgpt", "b"), ("Human", "c"), ("AI", "d"))]
    want = [talk("a", "b"), talk("a", "b", "c", "d", system="s")]
    case("sharegpt.jsonl", lines([{"conversations": turns} for turns in share]), conversations=want)
    case("sharegpt_utf16.jsonl", lines([{"conversations": turns} for turns in share]).encode("utf-16"), conversations=want)
    odd = [{"conversations": said(("human", "a"), ("narrator", "b"), ("gpt", "c"))}, {"conversations": share[0]}]
    case("speaker.jsonl", lines(odd), refused='line 1: message 2: "from" is "narrator", which is not a known speaker')
    notes = ["skipped 1 bad record"]
    case("speaker_skipped.jsonl", lines(odd), settings=["skip_bad=true"], conversations=[talk("a", "b")], notes=notes)
    qa = [{"question": a, "answer": b} for a, b in PAIRS]
    case("questions.jsonl", lines(qa), conversations=[talk(*pair) for pair in PAIRS])
    case("questions.csv", table(PAIRS, header=("question", "answer")), conversations=[talk(*pair) for pair in PAIRS])
    about = [{"question": "Who?", "context": "It was Ann.", "answer": "Ann"}, {"question": "Why?", "context": "", "answer": "-"}]
    case("context.json", json.dumps(about), conversations=[talk("Who?\nIt was Ann.", "Ann"), talk("Why?", "-")])
    dolly = [{"instruction": "a", "context": "c", "response": "b", "category": "open_qa"}]
    case("dolly.jsonl", lines(dolly), conversations=[talk("a\nc", "b")], notes=['not read: "category"'])
    case("conversations.json", json.dumps(export(), indent=1), conversations=EXPORTED, notes=[
        "skipped 1 conversation without an answer, 2 hidden or system messages, 2 messages to or from tools, "
        "1 reasoning or other message, 1 empty message, 1 message part that is not text, "
        "2 messages on abandoned branches",
        "1 message is joined to the previous one, which has the same speaker",
    ])
    case("export.jsonl", lines(export()), conversations=EXPORTED)
    cut = export()[:1]
    del cut[0]["mapping"]["m2"]
    case("export_cut.json", json.dumps(cut), refused='element 1): "mapping" has no message "m2"')
    case("export_unanswered.json", json.dumps(export()[2:]), refused="1 conversation, but no answer to learn from")


EXPORTED = [
    [["user", "Which bird is this?", True], ["assistant", "Let me look.\n\nA kinglet, \U0001f426.", True]],
    [["user", "a", True], ["assistant", "b, again", True]],
]


def export():
    """Three conversations as ChatGPT exports them."""
    def node(id, parent, role=None, parts=None, kind="text", **more):
        message = role and {"id": id, "author": {"role": role, "name": None, "metadata": {}}, "create_time": 1.5,
                            "content": {"content_type": kind, "parts": parts}, "status": "finished_successfully",
                            "weight": 1.0, "metadata": {}, "recipient": "all", **more}
        return id, {"id": id, "message": message, "parent": parent, "children": []}
    hidden = {"metadata": {"is_visually_hidden_from_conversation": True}}
    picture = {"content_type": "image_asset_pointer", "asset_pointer": "file-service://x"}
    first = dict([
        node("root", None),
        node("m1", "root", "system", [""], **hidden),
        node("m2", "m1", "user", ["I am Ann."], kind="user_editable_context", **hidden),
        node("m3", "m2", "user", [picture, "Which bird is this?"], kind="multimodal_text"),
        node("m4", "m3", "assistant", [""]),
        node("m5", "m4", "assistant", None, kind="thoughts"),
        node("m6", "m5", "assistant", ["Let me look."]),
        node("m7", "m6", "assistant", ["look()"], kind="code", recipient="python"),
        node("m8", "m7", "tool", ["kinglet"], kind="execution_output"),
        node("m9", "m8", "assistant", ["A kinglet, \U0001f426."]),
    ])
    second = dict([node("r", None), node("u1", "r", "user", ["a?"]), node("u2", "r", "user", ["a"]),
                   node("a1", "u2", "assistant", ["b"]), node("a2", "u2", "assistant", ["b, again"])])
    third = dict([node("r", None), node("u", "r", "user", ["Are you there?"])])
    trees = [(first, "m9"), (second, "a2"), (third, "u")]
    return [{"title": "A talk", "create_time": 1.0, "mapping": tree, "moderation_results": [], "current_node": at,
             "conversation_id": f"c{i}"} for i, (tree, at) in enumerate(trees)]


def texts():
    case("plain.txt", PLAIN, texts=[PLAIN])
    case("bom.txt", PLAIN.encode("utf-8-sig"), texts=[PLAIN], notes=["the byte order mark is removed"])
    case("utf16le.txt", ("\ufeff" + PLAIN).encode("utf-16-le"), texts=[PLAIN], notes=["read as UTF-16"])
    case("utf16be.txt", ("\ufeff" + PLAIN).encode("utf-16-be"), texts=[PLAIN])
    case("utf16_no_mark.txt", "Latin text".encode("utf-16-le"), refused="UTF-16 text without a byte order mark")
    case("utf32.txt", PLAIN.encode("utf-32"), refused="UTF-32 text")
    case("latin1.txt", "café".encode("latin-1"), refused="byte 0xe9 at offset 3 (line 1)")
    case("latin1_replaced.txt", "café".encode("latin-1"), settings=["invalid_utf8=replace"], texts=["caf\ufffd"],
         notes=["1 invalid byte is replaced with U+FFFD"])
    case("json_in.txt", lines([{"text": "a"}]), texts=[lines([{"text": "a"}])])
    case("no_final_newline.md", PLAIN.rstrip(), texts=[PLAIN.rstrip()])

    data = PLAIN.encode()
    case("gzip.txt.gz", gz(data), texts=[PLAIN])
    case("gzip_named.txt.gz", gz(data, name="another.txt", mtime=1_000_000_000, level=1), texts=[PLAIN])
    case("gzip_stored.txt.gz", gz(data, level=0), texts=[PLAIN])
    case("gzip_members.txt.gz", gz(data[:99]) + gz(b"") + gz(data[99:]), texts=[PLAIN])
    case("gzip_padded.txt.gz", gz(data) + bytes(512), texts=[PLAIN])
    case("gzip_garbage.txt.gz", gz(data) + b"garbage", refused="other data follows the end of the gzip stream")
    case("gzip_cut.txt.gz", gz(data)[:-9], refused="cannot read")
    case("gzip_twice.txt.gz", gz(gz(data)), refused="compressed twice (gzip)")
    case("gzip_unnamed.txt", gz(data), texts=[PLAIN])
    case("gzip_bom.txt.gz", gz(PLAIN.encode("utf-8-sig")), texts=[PLAIN])
    case("gzip_utf16.csv.gz", gz(table(numbered(DOCS)).encode("utf-16")), texts=DOCS)
    records = [{"text": doc} for doc in DOCS]
    case("gzip.jsonl.gz", gz(lines(records).encode()), texts=DOCS)
    for level in [1, 19]:
        case(f"zstd_{level}.txt.zst", zstandard.ZstdCompressor(level=level).compress(data), texts=[PLAIN])
    summed = zstandard.ZstdCompressor(write_checksum=True)
    case("zstd_summed.txt.zst", summed.compress(data), texts=[PLAIN])
    unsized = zstandard.ZstdCompressor(write_content_size=False)
    case("zstd_frames.txt.zst", unsized.compress(data[:99]) + summed.compress(data[99:]), texts=[PLAIN])
    damaged = bytearray(summed.compress(data))
    damaged[-1] ^= 1
    case("zstd_damaged.txt.zst", bytes(damaged), refused="cannot read")
    case("zstd.json.zst", summed.compress(json.dumps(records).encode()), texts=DOCS)
    case("zstd_named_gz.txt.gz", summed.compress(data), texts=[PLAIN])
    case("not_gzip.txt.gz", PLAIN, refused="cannot read")


def without_extensions():
    """What a stream is, whose name says nothing, by its first bytes."""
    records = [{"text": doc} for doc in DOCS]
    case("stream_text", PLAIN, texts=[PLAIN], stream=True)
    case("stream_lines", lines(records), texts=DOCS, stream=True, notes=["recognised as JSON lines"])
    case("stream_array", json.dumps(records, indent=1), texts=DOCS, stream=True, notes=["recognised as a JSON array"])
    case("stream_csv", table(numbered(DOCS)), texts=DOCS, stream=True, notes=["recognised as a table"])
    case("stream_semicolons", table(numbered(DOCS), delimiter=";"), texts=DOCS, stream=True)
    flat = table(numbered(FLAT), delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
    case("stream_tsv", flat, texts=FLAT, stream=True)
    case("stream_gzip_csv", gz(table(numbered(DOCS)).encode()), texts=DOCS, stream=True)
    case("stream_zstd_lines", zstandard.compress(lines(records).encode()), texts=DOCS, stream=True)
    case("stream_utf16_csv", table(numbered(DOCS)).encode("utf-16"), texts=DOCS, stream=True)
    case("stream_bom_lines", lines(records).encode("utf-8-sig"), texts=DOCS, stream=True)
    pairs = table(PAIRS, header=("prompt", "response"))
    case("stream_pairs", pairs, conversations=[talk(*pair) for pair in PAIRS], stream=True)
    for name, prose in {
        "braces": "{ int text; }\n{\"a\", \"b\"}\n",
        "brackets": "[Chapter 1]\n[{x}]\n",
        "commas": "The text, as it stands, is here.\nAnd more, of it, here.\n",
        "header": "text, prose\nwith a comma, too\n",
    }.items():
        case(f"stream_prose_{name}", prose, texts=[prose], stream=True)
    one = "text\nis all\n"
    case("stream_one_column", one, texts=[one], stream=True, notes=["looks like the header of a table"])


def other_files():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("a.txt"), "a")
    case("archive.zip", archive.getvalue(), refused="a ZIP archive")
    case("picture.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", refused="a picture (PNG)")
    case("table.parquet", b"PAR1\x15\x04\x15\x10", refused="a Parquet file")
    case("base.db", b"SQLite format 3\0\x10\0\1\1", refused="an SQLite database")
    case("sheet.csv", archive.getvalue(), refused="a ZIP archive")
    case("letter.docx", archive.getvalue(), refused="is not plain text but a formatted document: convert it to text first: pandoc")
    case("book.pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", refused="a PDF: convert it to text first: pdftotext")
    page = "<!DOCTYPE html>\n<p>a</p>\n"
    case("page.html", page, texts=[page], notes=["this is an HTML page"])


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    for write in [tables, of_pandas, of_json, conversations, of_chats, texts, without_extensions, other_files]:
        write()
    entries = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in index)
    shared = json.dumps(SHARED, ensure_ascii=False)
    (OUT / "index.json").write_text(f'{{"shared": {shared},\n"files": [\n{entries}\n]}}\n')
    files = list(OUT.iterdir())
    print(len(index), "files,", sum(file.stat().st_size for file in files), "bytes")
