"""What cannot be trained on, and what cannot be a setting: each says what is wrong, and nothing is written."""

import io
import os
import pathlib

import numpy
import pytest

import kinglet
from conftest import SMALL
from kinglet import _settings

TEXT = "the kinglet weighs no more than a coin.\n" * 50

#: Arguments that are wrong, the exception, and what its message says.
WRONG = [
    (dict(data=b"bytes"), TypeError, "a text is a str"),
    (dict(data=bytearray(b"bytes")), TypeError, "a text is a str"),
    (dict(text=b"bytes"), TypeError, "a text is a str"),
    (dict(data=3), TypeError, "data cannot be int"),
    (dict(text=3.5), TypeError, "text cannot be float"),
    (dict(text=pathlib.Path("my.txt")), TypeError, "use data= for a path"),
    (dict(data=[]), kinglet.DataError, "an empty list"),
    (dict(data=()), kinglet.DataError, "an empty list"),
    (dict(data=[1, 2, 3]), TypeError, r"data\[0\] is int.*token ids are a numpy array"),
    (dict(data=["my.txt", None]), TypeError, r"data\[1\] is NoneType"),
    (dict(data={"text": TEXT}), TypeError, "data is a dict"),
    (dict(data={TEXT}), TypeError, "no order"),
    (dict(text={TEXT}), TypeError, "no order"),
    (dict(data=io.StringIO(TEXT)), TypeError, "an open file"),
    (dict(data=(each for each in [TEXT, 3])), TypeError, "document 1 of data is int"),
    (dict(text=[TEXT, None]), TypeError, "document 1 of text is NoneType.*dropna"),
    (dict(text=[TEXT, {"text": TEXT}]), TypeError, "document 1 of text is dict"),
    (dict(text=[]), kinglet.DataError, "no documents"),
    (dict(text=""), kinglet.DataError, "text is empty"),
    (dict(text="a\ud800b"), kinglet.DataError, "not valid Unicode"),
    (dict(text=["a\ud800b"]), kinglet.DataError, "document 0 of text is not valid Unicode"),
    (dict(text="a\0b" * 1000), kinglet.DataError, "zero"),
    (dict(text="ab"), kinglet.DataError, "a sequence needs block_size"),
    (dict(data="no-such-file.txt"), kinglet.DataError, "there is no file no-such-file.txt.*text=..."),
    (dict(data=["my words", "are these"]), kinglet.DataError, "there is no file my words.*text=..."),
    (dict(data=TEXT), kinglet.DataError, "this is a text.*text=..."),
    (dict(data=""), ValueError, "an empty path"),
    (dict(data="a\0b"), ValueError, "zero character"),
    (dict(data="my.txt", text=TEXT), TypeError, "use only one of them"),
    (dict(data=[{"text": TEXT, "when": object()}]), TypeError, "nothing that JSON can hold"),
    (dict(data=numpy.zeros(100)), TypeError, "float64"),
    (dict(data=numpy.zeros((10, 10), int)), TypeError, "one dimension"),
    (dict(data=numpy.array([], int)), kinglet.DataError, "an empty array"),
    (dict(data=numpy.array([3, -1, 2])), kinglet.DataError, "id -1 at position 1"),
    (dict(data=numpy.array([3, 1 << 40])), kinglet.DataError, "at position 1"),
    (dict(data=numpy.array([3, 1 << 30] * 50)), kinglet.DataError, "a vocabulary of 1073741825"),
    (dict(data=numpy.arange(999) % 9, tokenizer="bpe:300"), kinglet.ConfigError, "they stay numbers"),
    (dict(text=TEXT, n_layers=3), kinglet.ConfigError, "did you mean n_layer"),
    (dict(text=TEXT, n_layer="three"), kinglet.ConfigError, "n_layer"),
    (dict(text=TEXT, n_layer=-1), kinglet.ConfigError, "n_layer = -1: must be"),
    (dict(text=TEXT, n_layer=2.5), kinglet.ConfigError, "n_layer"),
    (dict(text=TEXT, n_layer=True), kinglet.ConfigError, "n_layer"),
    (dict(text=TEXT, n_layer=None), TypeError, "leave it out"),
    (dict(text=TEXT, n_layer=object()), TypeError, "n_layer must be a number"),
    (dict(text=TEXT, n_layer=1 << 80), kinglet.ConfigError, "n_layer"),
    (dict(text=TEXT, n_embd=15), kinglet.ConfigError, "n_head|divisor"),
    (dict(text=TEXT, learning_rate=float("nan")), kinglet.ConfigError, "learning_rate"),
    (dict(text=TEXT, preset="big"), kinglet.ConfigError, "preset"),
    (dict(text=TEXT, preset=3), TypeError, "preset must be a str"),
    (dict(text=TEXT, preset="big-0.2m", config="c.toml"), kinglet.ConfigError, "only one of them"),
    (dict(text=TEXT, config="no-such.toml"), kinglet.Error, "no-such.toml"),
    (dict(text=TEXT, out=3), TypeError, "out must be a path"),
    (dict(text=TEXT, out="x", name="y"), kinglet.ConfigError, "only one of them"),
    (dict(text=TEXT, name="a/b"), kinglet.ConfigError, "a name cannot contain"),
    (dict(text=TEXT, threads=-1), ValueError, "threads = -1"),
    (dict(text=TEXT, threads=5000), ValueError, "threads = 5000"),
    (dict(text=TEXT, threads="two"), TypeError, "threads must be a whole number"),
    (dict(text=TEXT, on_event="print"), TypeError, "on_event must be callable"),
    (dict(text=TEXT, progress="yes"), TypeError, "progress must be"),
]


@pytest.mark.parametrize("given, error, message", WRONG, ids=[f"{i}" for i in range(len(WRONG))])
def test_what_is_wrong_is_said(given, error, message):
    with pytest.raises(error, match=message):
        kinglet.train(**(SMALL | given))
    assert not os.listdir(), "nothing is written"


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        (lambda: kinglet.Run("nothing"), kinglet.NotFoundError, "no such run"),
        (lambda: kinglet.Run(3), TypeError, "run must be a path"),
        (lambda: kinglet.Run(""), ValueError, "an empty path"),
        (lambda: kinglet.Run("big-0.2m"), kinglet.NotFoundError, "this is a preset"),
        (lambda: kinglet.resume("nothing"), kinglet.NotFoundError, "no such run"),
        (lambda: kinglet.finetune("nothing", text=TEXT), kinglet.NotFoundError, "no such run"),
        (lambda: kinglet.finetune("nothing", text=TEXT, checkpoint=2.5), TypeError, "checkpoint must be"),
        (lambda: kinglet.finetune("nothing", text=TEXT, checkpoint="worst"), kinglet.ConfigError, "must be best, last"),
        (lambda: kinglet.compare(), ValueError, "no runs to compare"),
        (lambda: kinglet.compare("nothing"), kinglet.NotFoundError, "no such run"),
        (lambda: kinglet.tune(text=TEXT, minutes=-1), ValueError, "minutes = -1"),
        (lambda: kinglet.tune(text=TEXT, minutes="ten"), TypeError, "minutes must be a number"),
        (lambda: kinglet.tune(text=TEXT, trials=1), ValueError, "trials = 1"),
        (lambda: kinglet.tune(text=TEXT, sweep={"dropout": 3}), TypeError, "sweep: dropout"),
        (lambda: kinglet.tune(text=TEXT, sweep=["no_such=1..2"]), kinglet.ConfigError, "no_such"),
        (lambda: kinglet.tune(text=TEXT, resume="nothing"), kinglet.RunError, "not the folder of a tuning"),
        (lambda: kinglet.plan(text=TEXT, seconds=-1), ValueError, "seconds = -1"),
        (lambda: kinglet.prepare(text=TEXT), TypeError, "out=..."),
        (lambda: kinglet.runs(3), TypeError, "folder must be a path"),
    ],
)
def test_what_else_is_wrong_is_said(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()
    assert not os.listdir(), "nothing is written"


def test_errors_are_what_python_calls_them():
    assert issubclass(kinglet.ConfigError, ValueError) and issubclass(kinglet.DataError, ValueError)
    assert issubclass(kinglet.NotFoundError, FileNotFoundError) and issubclass(kinglet.RunError, OSError)
    assert not kinglet.runs("no-such-folder")


def test_settings_are_written_as_in_files():
    for value, written in [
        (True, "true"),
        (numpy.bool_(False), "false"),
        (3, "3"),
        (numpy.int64(-3), "-3"),
        (1e-05, "1e-05"),
        (numpy.float32(0.5), "0.5"),
        (float("inf"), "inf"),
        ('a "quoted" \\ text\n', '"a \\"quoted\\" \\\\ text\\u000a"'),
        (pathlib.Path("a/b"), '"a/b"'),
        (["a", 1], '["a", 1]'),
        ((), "[]"),
        ({"a b": 1}, '{"a b" = 1}'),
    ]:
        assert _settings.written("key", value) == written


def test_arrow_and_polars(folder):
    documents = TEXT.splitlines()
    want = kinglet.train(text=documents, out="want", **SMALL)
    for name, column in [("pyarrow", lambda it: it.chunked_array([documents])), ("polars", lambda it: it.Series(documents))]:
        try:
            given = column(__import__(name))
        except ImportError:
            continue
        assert kinglet.compare_bits(want, kinglet.train(given, out=name, **SMALL))["same"]
