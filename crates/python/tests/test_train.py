"""Training gives the bits of the command, whatever the data come as, and a run says how it went."""

import json
import math
import os
import pathlib
import threading

import numpy
import pytest

import kinglet
from conftest import SMALL, command, same, weights, words


def trained(data=None, **more):
    return kinglet.train(data, **(SMALL | more))


def test_bits_of_the_command(text):
    pathlib.Path("my.txt").write_text(text)
    command("train", "my.txt", "--out", "a", *words(SMALL), "--set", "dropout=0.1", "--set", "learning_rate=0.003")
    run = trained("my.txt", out="b", dropout=0.1, learning_rate=0.003, threads=1)
    assert os.fspath(run.path) == "b"
    same("a", run)
    assert kinglet.compare_bits("a", "b")["same"]
    # A configuration file and other ways to say the same.
    (pathlib.Path("c.toml")).write_text("\n".join(f"{key} = {value}" for key, value in SMALL.items()))
    command("train", "my.txt", "--config", "c.toml", "--out", "of-file", "--set", "dropout=0.1")
    same("of-file", kinglet.train(pathlib.Path("my.txt"), config="c.toml", out="c", dropout=numpy.float64(0.1)))
    same("a", trained(text=text, out="d", dropout=0.1, learning_rate=0.003))
    # Another seed is another run.
    assert weights(trained("my.txt", out="e", dropout=0.1, learning_rate=0.003, seed=7)) != weights(run)


def test_documents_are_those_of_lines(text):
    documents = text.splitlines()
    pathlib.Path("d.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in documents))
    command("train", "d.jsonl", "--out", "a", *words(SMALL))
    for i, given in enumerate([dict(text=documents), dict(data=iter(documents)), dict(data=numpy.array(documents))]):
        same("a", trained(out=f"b{i}", **given))
    assert trained(text=documents[:1] * 1 + ["".join(documents)], out="c").config["data"] == ["(memory)"]


def test_conversations_are_those_of_lines():
    records = [{"prompt": f"{i}+1", "response": str(i + 1)} for i in range(200)]
    pathlib.Path("d.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    settings = SMALL | dict(block_size=32)
    command("train", "d.jsonl", "--out", "a", *words(settings))
    events = []
    run = kinglet.train(records, out="b", on_event=events.append, **settings)
    same("a", run)
    assert any("chat" in event.get("note", "") for event in events), "the preset is for conversations"
    same("a", kinglet.train((each for each in records), out="c", **settings))


def test_names_and_places(text):
    pathlib.Path("my.txt").write_text(text)
    assert [os.fspath(trained("my.txt")) for _ in range(2)] == ["runs/my-big-0.2m", "runs/my-big-0.2m-2"]
    assert os.fspath(trained(text=text, name="first")) == "runs/first"
    assert os.fspath(trained(text=text)) == "runs/memory-big-0.2m"
    assert sorted(os.fspath(run) for run in kinglet.runs())[0] == "runs/first"
    assert kinglet.Run("first") == kinglet.Run("runs/first")
    with pytest.raises(kinglet.RunError, match="already"):
        trained("my.txt", out="runs/first")
    with pytest.raises(kinglet.NotFoundError, match="did you mean first"):
        kinglet.Run("frist")


def test_token_ids():
    ids = numpy.arange(4000) ** 2 % 251
    ids.astype("<u2").tofile("ids.bin")
    command("train", "ids.bin", "--out", "a", "--tokenizer", "byte", *words(SMALL))
    for dtype in ["uint8", "int32", "uint16", "int64", ">i4"]:
        same("a", trained(ids.astype(dtype), out=f"b-{dtype[1:]}", tokenizer="byte"))
    run = trained(ids, out="c")
    assert run.config["vocab_size"] == ids.max() + 1
    assert all(0 <= int(word) < 251 for word in run.sample.split()), "numbers are written as numbers"
    assert trained(ids, out="d", vocab_size=256).config["vocab_size"] == 256
    with pytest.raises(kinglet.DataError, match="id 100 at position 10 is not in the vocabulary of 100"):
        trained(ids, out="e", vocab_size=100)
    decay = dict(lr_decay_iters=30)
    longer = kinglet.resume(trained(ids, out="f", **decay), data=ids, max_iters=30)
    assert weights(longer) == weights(trained(ids, out="g", max_iters=30, **decay))
    with pytest.raises(kinglet.DataError, match="not the text that this run was started with"):
        kinglet.resume(run, data=ids[::-1], max_iters=40)


def test_resume(text):
    pathlib.Path("my.txt").write_text(text)
    decay = dict(lr_decay_iters=40)
    command("train", "my.txt", "--out", "a", *words(SMALL | decay | dict(max_iters=40)))
    for given, again in [(dict(data="my.txt"), {}), (dict(text=text), dict(text=text)), (dict(text=[text, text]), dict(text=[text, text]))]:
        run = trained(out=f"b{len(os.listdir())}", **given, **decay)
        longer = kinglet.resume(run, max_iters=40, **again)
        assert longer == run and run.summary["step"] == 40
        if "data" in given or isinstance(again["text"], str):
            assert weights(run) == weights("a")
    with pytest.raises(kinglet.DataError, match="kinglet.resume"):
        kinglet.resume(run, max_iters=50)
    with pytest.raises(kinglet.RunError, match="complete"):
        kinglet.resume(run, text=[text, text])
    with pytest.raises(kinglet.ConfigError, match="n_layer"):
        kinglet.resume(run, text=[text, text], n_layer=3)


def test_finetune(text):
    pathlib.Path("my.txt").write_text(text)
    pathlib.Path("new.txt").write_text(text.upper())
    base = trained("my.txt", out="base")
    few = dict(max_iters=10, eval_interval=5, eval_iters=2)
    command("finetune", "base", "new.txt", "--out", "a", *words(few))
    same("a", kinglet.finetune(base, "new.txt", out="b", **few))
    same("a", kinglet.finetune("base", text=text.upper(), out="c", **few))
    command("finetune", "base@10", "new.txt", "--out", "d", "--lora", "2", *words(few))
    same("d", kinglet.finetune("base", "new.txt", checkpoint=10, out="e", lora_rank=2, **few))
    command("finetune", "base", "--out", "f", "--qat", "w8", *words(few))
    same("f", kinglet.finetune(base, out="g", quantization="w8", **few))
    assert os.fspath(kinglet.finetune(base, text=text, **few)) == "base-memory"
    assert "old_val_loss" in kinglet.Run("b").metrics
    with pytest.raises(TypeError, match="something to train on"):
        kinglet.finetune(base)
    with pytest.raises(kinglet.ConfigError, match="n_layer cannot change"):
        kinglet.finetune(base, "new.txt", n_layer=7)
    # A run on a text in memory cannot be measured on it again, but can be gone on from.
    memory = trained(text=text, out="memory")
    assert "old_val_loss" not in kinglet.finetune(memory, "new.txt", out="h", **few).metrics


def test_events_and_metrics(text):
    events = []
    run = trained(text=text, on_event=events.append)
    kinds = [event["event"] for event in events]
    assert kinds[0] == "start" and kinds[-1] == "done"
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(1, 21)), "each, in order"
    assert all(kind in kinds for kind in ["estimate", "measuring"])
    metrics = run.metrics
    assert list(metrics) == ["step", "train_loss", "val_loss", "bits_per_byte", "tokens", "train_s"]
    assert metrics["step"].tolist() == [0, 10, 20] and metrics["val_loss"].dtype == numpy.float64
    assert metrics["val_loss"].tolist() == [event["val_loss"] for event in events if event["event"] == "estimate"]
    assert run.steps["step"].tolist() == [5, 10, 15, 20]
    assert run.loss == events[-1]["val_loss_exact"]
    assert run.config["n_embd"] == 16 and run.config["data"] == ["(memory)"]
    assert len(run.sample) >= 500
    assert run.summary["state"] == "done"
    assert "<svg" in run.plot().svg and run.plot().svg in run._repr_html_()
    run.plot().save("loss.svg")
    assert pathlib.Path("loss.svg").read_text() == (run.path / "loss.svg").read_text(), "as the run itself has drawn it"
    assert repr(run).startswith("<Run 'runs/memory-big-0.2m': done, step 20 of 20, validation loss ")


def test_a_data_frame(text):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": text.splitlines(), "n": range(400)})
    run = trained(frame["text"], out="a")
    same(run, trained(text=text.splitlines(), out="b"))
    assert len(pandas.DataFrame(run.metrics)) == 3
    for bad, message in [
        (frame, "choose its column"),
        (frame["n"], "token ids are a numpy array"),
        (pandas.Series(["a", None, "b"]), "dropna"),
    ]:
        with pytest.raises(TypeError, match=message):
            trained(bad)


def test_warnings_reach_python(text):
    with pytest.warns(kinglet.KingletWarning, match="small for this model") as caught:
        trained(text=text[:2000], max_iters=60, batch_size=32)
    assert caught[0].filename == __file__


def test_a_run_that_diverges(text):
    with pytest.raises(kinglet.DivergedError, match="diverged"):
        trained(text=text, out="a", max_iters=500, learning_rate=10, grad_clip=0, spike_zscore=0.01, on_divergence="stop")
    assert kinglet.Run("a").summary["state"] == "diverged"


def test_two_threads_train_two_runs(text):
    alone = trained(text=text, out="alone", seed=3)
    ended = {}

    def work(name, seed):
        ended[name] = trained(text=text, out=name, seed=seed, threads=1)

    threads = [threading.Thread(target=work, args=(f"t{seed}", seed)) for seed in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same(alone, ended["t3"])
    assert weights(ended["t4"]) != weights(alone)


def test_compare(text):
    a, b = trained(text=text, out="a"), trained(text=text, out="b", learning_rate=0.01)
    found = kinglet.compare(a, "b")
    assert sorted(found.columns["run"]) == ["a", "b"] and len(found.columns["val_loss_exact"]) == 2
    assert set(found.differences) >= {"learning_rate"}
    assert found.estimates["a"]["step"].tolist() == [0, 10, 20]
    assert found.found["ranking"] == command("compare", "a", "b")[0]["ranking"]
    assert "<svg" in found.plot(by="tokens", log=True, train=True).svg and "<table>" in found._repr_html_()
    assert "2 runs" in repr(found)
    bits = kinglet.compare_bits(a, b)
    assert not bits["same"] and [key for key, *_ in bits["config"]] == ["learning_rate"]
    assert kinglet.compare(trained(text=text), trained(text=text)).columns["params"].tolist()[0] > 0
    with pytest.raises(kinglet.ConfigError, match="by = 'day'|by = \"day\""):
        found.plot(by="day")


def test_what_there_is():
    presets = kinglet.presets()
    assert presets["big-0.2m"]["params"] == 209_729
    assert list(presets.values()) == command("presets")
    assert list(kinglet.keys("dropout").values()) == command("keys", "dropout")
    assert len(kinglet.keys()) > 50
    with pytest.raises(kinglet.ConfigError, match="no configuration key"):
        kinglet.keys("learning-speed")


def test_plan(text):
    planned = kinglet.plan(text=text, seconds=0.1, threads=1, **SMALL)
    assert planned["steps"] == 20 and planned["wall_s"] > 0 and planned["memory_mib"] > 0
    # The command tells its notes beside the report.
    assert planned.keys() == command("plan", "--seconds", "0.1", *words(SMALL))[0].keys() | {"notes"}
    run = trained(text=text)
    assert kinglet.plan(text=text, run=run, seconds=0.1)["steps"] == 1000
    assert kinglet.runs() == [run], "nothing is written"


def test_prepare(text):
    pathlib.Path("my.txt").write_text(text)
    written = kinglet.prepare("my.txt", "ids", tokenizer="byte")
    assert written["vocab_size"] == 257 and pathlib.Path(written["out"]) == pathlib.Path("ids")
    same(trained("ids", out="a"), trained("my.txt", out="b", tokenizer="byte"))
    again = kinglet.prepare(text=text, out="again", tokenizer="byte")
    assert again["train"] == written["train"]
    with pytest.raises(kinglet.RunError, match="not empty"):
        kinglet.prepare("my.txt", "ids")


def test_tune(text):
    events = []
    search = dict(sweep={"learning_rate": [1e-3, 1e-2]}, minutes=2, trials=2)
    found = kinglet.tune(text=text, on_event=events.append, out="t", threads=2, **search, **SMALL)
    assert found.settings["learning_rate"] in (1e-3, 1e-2) and math.isfinite(found.loss)
    assert events[-1]["event"] == "done" and any(event["event"] == "training" for event in events)
    assert len(found.trials) >= 2 and "<svg" in found.plot().svg and "learning_rate" in repr(found)
    run = kinglet.train(text=text, config=found.config, out="best")
    assert run.config["learning_rate"] == found.settings["learning_rate"]
    again = kinglet.tune(text=text, resume="t")
    assert again.settings == found.settings
    with pytest.raises(kinglet.ConfigError, match="too short"):
        kinglet.tune(text=text, minutes=0.0001)

def test_a_plan_says_what_the_command_tells(tmp_path):
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"prompt": "hello", "response": "good day"}\n' * 200, encoding="utf-8")
    notes = kinglet.plan(chats, seconds=0)["notes"]
    assert any("these are conversations" in note for note in notes), notes
