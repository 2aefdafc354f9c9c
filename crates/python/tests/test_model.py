"""Models: the texts, losses and weights are those of the command, bit by bit."""

import gc
import math
import os
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from trained import SONG, chat, folder, here, interrupted, printed, rss  # noqa: F401

import kinglet

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize("name", ["tied", "untied", "lora", "few"])
def test_texts_are_those_of_the_command(folder, name):
    model = kinglet.load(name)
    for words, settings in [
        ([], {}),
        (["--seed", "7", "--temperature", "0.8", "--top-k", "5"], {"seed": 7, "temperature": 0.8, "top_k": 5}),
        (["--top-p", "0.9", "--min-p", "0.01", "--repetition-penalty", "1.1"],
         {"top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.1}),
        (["--temperature", "0"], {"temperature": 0}),
    ]:
        [line] = printed("sample", name, "--prompt", "A king", "-n", "60", *words, cwd=folder)
        text = model.generate("A king", max_tokens=60, **settings)
        pieces = list(text)
        assert "".join(pieces) == line["text"] == text.text()
        assert text.ids.tolist() == line["ids"] and text.ids.dtype == np.uint32
        assert text.finish == line["finish"] == "length"
    several = printed("sample", name, "--num", "3", "-n", "20", cwd=folder)
    assert [model.sample(max_tokens=20, index=i) for i in range(3)] == [line["text"] for line in several]


def test_a_text_ends_before_a_stop_text(folder):
    model = kinglet.load("tied")
    whole = model.sample("A", max_tokens=40)
    stop = whole[10:12]
    text = model.generate("A", max_tokens=40, stop=stop)
    assert text.text() == whole[: whole.index(stop)] and text.finish == "stop"
    assert model.sample("A", max_tokens=40, stop=["qqq", stop]) == text.text()
    assert next(model.generate("A", max_tokens=0), None) is None


def test_ids_are_a_prompt(folder):
    model = kinglet.load("tied")
    ids = model.tokenizer.encode("A king")
    want = model.sample("A king", max_tokens=20)
    assert model.sample(ids, max_tokens=20) == want
    assert model.sample(ids.tolist(), max_tokens=20) == want
    assert model.sample(ids.astype(np.int64), max_tokens=20) == want


@pytest.mark.parametrize("name", ["tied", "untied", "lora", "few"])
def test_losses_are_those_of_the_command(folder, name):
    model, text = kinglet.load(name), SONG[:333]
    for windows in ["half", "eval"]:
        *tokens, total = printed("score", name, "--text", text, "--windows", windows, cwd=folder)
        assert model.loss(text, windows=windows) == total["loss"]
        scores = model.score(text, windows=windows)
        assert scores.ids.tolist() == [token["id"] for token in tokens]
        want = [math.nan if token["logprob"] is None else token["logprob"] for token in tokens]
        assert np.array_equal(scores.logprobs, want, equal_nan=True)
        assert scores.ranks.tolist() == [token["rank"] or 0 for token in tokens]
        assert len(scores) == len(scores.entropies) == len(text)
    assert model.loss(model.tokenizer.encode(text)) == model.loss(text)
    assert math.isnan(model.loss(text[:1]))


@pytest.mark.parametrize("name", ["tied", "lora", "few"])
def test_evaluation_is_that_of_the_command(folder, name):
    [line] = printed("eval", name, cwd=folder)
    line.pop("baseline")
    seen = []
    assert kinglet.evaluate(name, progress=lambda *at: seen.append(at)) == line
    assert seen and seen[-1][1] == seen[-1][2] and seen[-1][0] == "measuring the loss"
    [line] = printed("eval", name, "song.txt", "--split", "all", cwd=folder)
    model = kinglet.load(name, threads=1)
    for data in ["song.txt", pathlib.Path("song.txt"), ["song.txt"]]:
        assert model.eval(data, part="all")["loss"] == line["loss"]
    for data in [{"text": SONG}, {"data": "song.txt"}]:
        assert model.eval(**data, part="all")["loss"] == line["loss"]
    documents = model.eval(document for document in [SONG, SONG])
    assert documents["split"] == "all" and documents["loss"] == model.eval(text=[SONG, SONG])["loss"]
    ids = model.tokenizer.encode(SONG)
    assert model.eval(ids, part="all")["loss"] == pytest.approx(line["loss"], abs=0.01)
    # The text that it was trained on: only the validation part is measured, and that is said.
    told = model.eval("song.txt")
    assert told["split"] == "val" and "only its validation part" in told["notes"][-1]


def test_logits_are_what_scores_and_texts_come_from(folder):
    model = kinglet.load("tied")
    ids = model.tokenizer.encode("A kinglet is")
    logits = model.logits(ids)
    assert logits.shape == (len(ids), model.vocab_size) and logits.dtype == np.float32
    assert np.array_equal(logits, model.logits("A kinglet is"))
    logprobs = logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True))
    of_next = logprobs[np.arange(len(ids) - 1), ids[1:]]
    assert np.allclose(of_next, model.score(ids).logprobs[1:], atol=1e-5)
    greedy = model.generate(ids, max_tokens=1, temperature=0)
    greedy.text()
    assert greedy.ids.tolist() == [logits[-1].argmax()]
    with pytest.raises(kinglet.DataError, match="sees at most 32 at once"):
        model.logits("a" * 33)


def test_runs_are_found_as_by_the_command(folder):
    class Run:
        def __fspath__(self):
            return str(folder / "runs/tied")

    for name in ["tied", "runs/tied", folder / "runs/tied", Run(), "tied@best", "tied@last"]:
        assert kinglet.load(name).step == 20
    assert kinglet.load("tied", checkpoint="last").step == kinglet.load("tied", checkpoint=20).step == 20
    assert kinglet.load("tied@20").run == os.path.join("runs", "tied")
    for error, match, bad in [
        (kinglet.NotFoundError, "did you mean tied?", lambda: kinglet.load("tide")),
        (kinglet.NotFoundError, "kinglet train --preset", lambda: kinglet.load("big-0.2m")),
        (FileNotFoundError, "there is no such run", lambda: kinglet.load("/nowhere")),
        (kinglet.RunError, "a folder of", lambda: kinglet.load("runs")),
        (kinglet.RunError, "this is a file", lambda: kinglet.load("song.txt")),
        (kinglet.Error, "step", lambda: kinglet.load("tied", checkpoint=7)),
        (kinglet.ConfigError, "must be best, last or the step", lambda: kinglet.load("tied", checkpoint="newest")),
        (kinglet.ConfigError, "both select a checkpoint", lambda: kinglet.load("tied@20", checkpoint="last")),
        (ValueError, "threads = -1", lambda: kinglet.load("tied", threads=-1)),
        (TypeError, None, lambda: kinglet.load(7)),
        (TypeError, None, lambda: kinglet.load(None)),
        (TypeError, None, lambda: kinglet.load(b"tied")),
        (TypeError, None, lambda: kinglet.load("tied", checkpoint=1.5)),
        (TypeError, "kinglet.load", lambda: kinglet.Model("tied")),
    ]:
        with pytest.raises(error, match=match):
            bad()


def test_bad_arguments_say_what_is_wrong(folder):
    model = kinglet.load("tied")
    for error, match, bad in [
        (kinglet.DataError, None, lambda: model.generate("ж")),
        (kinglet.DataError, "no token with id 9999", lambda: model.generate([9999])),
        (kinglet.DataError, "no token id", lambda: model.generate([-1])),
        (kinglet.DataError, "one dimension", lambda: model.generate([[1, 2]])),
        (TypeError, "float", lambda: model.generate([1.5])),
        (TypeError, "bytes", lambda: model.generate(b"abc")),
        (TypeError, "NoneType", lambda: model.generate(None)),
        (TypeError, None, lambda: model.generate("A", max_tokens=1.5)),
        (TypeError, None, lambda: model.generate("A", stop=7)),
        (TypeError, None, lambda: model.generate("A", unknown=7)),
        (TypeError, None, lambda: model.generate("A", stop=[7])),
        (kinglet.ConfigError, "temperature = -1: must be 0 to 1000", lambda: model.generate("A", temperature=-1)),
        (kinglet.ConfigError, "temperature", lambda: model.generate("A", temperature=math.nan)),
        (kinglet.ConfigError, "top_p", lambda: model.generate("A", top_p=1.5)),
        (ValueError, "max_tokens = -1", lambda: model.generate("A", max_tokens=-1)),
        (ValueError, "seed = -1", lambda: model.generate("A", seed=-1)),
        (kinglet.DataError, None, lambda: model.logits("")),
        (kinglet.DataError, None, lambda: model.loss("")),
        (kinglet.ConfigError, "windows", lambda: model.loss("A bird", windows="whole")),
        (kinglet.ConfigError, "part", lambda: model.eval(part="test")),
        (kinglet.Error, "nothing.txt", lambda: model.eval("nothing.txt")),
        (TypeError, None, lambda: model.eval(7)),
    ]:
        with pytest.raises(error, match=match):
            bad()
    assert model.sample("A", max_tokens=3)


def test_an_answer_is_that_of_a_conversation(chat, folder):
    model = kinglet.load(chat)
    answer = model.answer("who sings?", max_tokens=20, temperature=0)
    same = model.answer([{"role": "user", "content": "who sings?"}], max_tokens=20, temperature=0)
    assert answer.text() == same.text() and answer.finish in ("end", "length", "context")
    done = subprocess.run(
        [sys.executable, "-m", "kinglet", "--json", "chat", "chat", "--temperature", "0"],
        input="who sings?\n", cwd=folder, capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == 0, done.stderr
    if answer.finish != "length":
        assert answer.text() in done.stdout
    with pytest.raises(KeyError):
        model.answer([{"role": "user"}])


def test_threads_generate_the_same_texts(folder):
    model = kinglet.load("untied")
    want = [model.sample(seed=seed, max_tokens=100) for seed in range(4)]
    found = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: [model.sample(seed=seed, max_tokens=100) for seed in range(4)]}))
        for i in range(4)
    ]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert found == {i: want for i in range(4)}


def test_python_goes_on_meanwhile(folder):
    model, ticks, done = kinglet.load("untied"), [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    model.eval("song.txt", part="all")
    model.sample(max_tokens=500)
    done.set()
    thread.join()
    assert max(b - a for a, b in zip(ticks, ticks[1:])) < 0.5


def test_a_text_that_two_threads_want_is_refused_not_mixed(folder):
    text = kinglet.load("untied").generate(max_tokens=20_000)
    errors = []

    def take():
        try:
            for _ in text:
                pass
        except ValueError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=take) for _ in range(2)]
    [thread.start() for thread in threads]
    time.sleep(0.1)
    assert isinstance(repr(kinglet.load("untied")), str)
    [thread.join(60) for thread in threads]
    assert set(errors) <= {"another thread is generating this text already"}
    assert len(text.ids) == 20_000


FORK = """
import os, signal, sys, kinglet
model = kinglet.load("untied")
half = model.generate(max_tokens=50)
first = next(half)
want, loss = model.sample(max_tokens=50), model.loss("A kinglet is")
child = os.fork()
if child == 0:
    signal.alarm(20)
    same = model.sample(max_tokens=50) == want == half.text() and model.loss("A kinglet is") == loss
    same = same and model.eval("song.txt", part="all")["loss"] > 0 and kinglet.load("tied").step == 20
    os._exit(0 if same else 3)
_, status = os.waitpid(child, 0)
sys.exit(status != 0 or model.sample(max_tokens=50) != want or half.text() != want)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_can_go_on(folder):
    done = subprocess.run([sys.executable, "-c", FORK], cwd=folder, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("call", [
    "model.sample(max_tokens=10**9)",
    "sum(1 for _ in model.generate(max_tokens=10**9))",
    "model.loss('A kinglet is. ' * 200_000)",
    "model.eval('long.txt', part='all')",
])
def test_ctrl_c_ends_it(folder, call):
    (folder / "long.txt").write_text(SONG * 300)
    script = f"import kinglet; model = kinglet.load('untied'); print('ready'); {call}"
    status, _, err, seconds = interrupted(script, folder)
    assert status != 0 and "KeyboardInterrupt" in err and seconds < 3, (status, err, seconds)


def test_an_exception_in_a_callback_ends_it(folder):
    class Enough(Exception):
        pass

    def progress(*_):
        raise Enough

    with pytest.raises(Enough):
        kinglet.load("untied").eval("song.txt", part="all", progress=progress)


def test_a_thousand_texts_leave_nothing_behind(folder):
    model = kinglet.load("tied")
    for seed in range(100):
        model.sample(max_tokens=30, seed=seed)
    gc.collect()
    before = rss()
    for seed in range(1000):
        model.sample(max_tokens=30, seed=seed)
        model.generate(max_tokens=30)
        if seed % 20 == 0:
            model.logits("A bird"), model.loss("A bird"), model.state_dict(), model.tokenizer, model.config
            kinglet.load("tied")
    gc.collect()
    assert rss() - before < 4, "MiB"


def test_any_arguments_give_a_text_or_an_error(folder):
    hypothesis = pytest.importorskip("hypothesis")
    from hypothesis import strategies as st

    model = kinglet.load("tied")
    anything = st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=9), st.booleans(), st.binary(max_size=3))
    prompts = st.one_of(st.text(max_size=40), st.lists(st.integers(-2, 40), max_size=40), st.lists(anything, max_size=3), anything)
    settings = st.fixed_dictionaries({}, optional={
        "temperature": st.one_of(st.floats(), st.floats(0, 3), anything),
        "top_k": st.one_of(st.integers(-1, 50), anything),
        "top_p": st.one_of(st.floats(0, 1), anything),
        "min_p": st.one_of(st.floats(0, 1), anything),
        "repetition_penalty": st.one_of(st.floats(0, 3), anything),
        "seed": st.one_of(st.integers(0, 2**64), anything),
        "index": st.one_of(st.integers(0, 5), anything),
        "stop": st.one_of(st.text(max_size=3), st.lists(st.text(max_size=3), max_size=3), anything),
    })

    @hypothesis.settings(max_examples=int(os.environ.get("KINGLET_EXAMPLES", "200")), deadline=None)
    @hypothesis.given(prompts, settings, st.integers(0, 20))
    @hypothesis.example(["", b"\x80"], {}, 1)
    def check(prompt, settings, max_tokens):
        try:
            text = model.generate(prompt, max_tokens=max_tokens, **settings).text()
        except (kinglet.Error, TypeError, ValueError, OverflowError) as error:
            assert not isinstance(error, UnicodeDecodeError)
            return
        assert isinstance(text, str)
        assert model.sample(prompt, max_tokens=max_tokens, **settings) == text
        if isinstance(prompt, str) and 0 < len(prompt) <= 32:
            assert np.isfinite(model.logits(prompt)).all()

    check()
