"""Whatever is given, a run is trained or an exception says why not. KINGLET_HYPOTHESIS=long takes ten minutes."""

import math
import os
import pathlib
import shutil

import numpy
import pytest

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings, strategies as st  # noqa: E402

import kinglet  # noqa: E402
from conftest import SMALL  # noqa: E402

common = dict(deadline=None, suppress_health_check=list(HealthCheck), derandomize=False)
settings.register_profile("short", max_examples=25, **common)
settings.register_profile("long", max_examples=4000, **common)
settings.load_profile(os.environ.get("KINGLET_HYPOTHESIS", "short"))

TINY = SMALL | dict(max_iters=2, eval_interval=2, eval_iters=1, n_embd=8, block_size=4)
#: What a Python user expects where something is wrong.
EXPECTED = (kinglet.Error, TypeError, ValueError, OverflowError)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
documents = st.lists(st.text(max_size=200), max_size=30)
keys = sorted(kinglet.keys())


def train(**given):
    """Trains on it, if it can be trained on."""
    shutil.rmtree("run", ignore_errors=True)
    try:
        run = kinglet.train(out="run", progress=False, threads=1, **given)
    except EXPECTED as error:
        assert str(error) and "fault of kinglet" not in str(error), repr(error)
        assert not pathlib.Path("run").exists() or "iverge" in str(error)
        return None
    assert run.loss is None or math.isfinite(run.loss) or math.isnan(run.loss)
    return run


@given(documents)
@pytest.mark.filterwarnings("ignore::kinglet.KingletWarning")
def test_documents(documents):
    train(text=documents, tokenizer="byte", **TINY)
    train(text="".join(documents), **TINY)


@given(st.lists(st.dictionaries(st.sampled_from(["text", "prompt", "response", "messages", "system"]), anything, max_size=3), max_size=5))
@pytest.mark.filterwarnings("ignore::kinglet.KingletWarning")
def test_records(records):
    train(data=records, **TINY)


@given(
    st.lists(st.integers(-2, 70_000), max_size=60).map(lambda ids: numpy.array(ids * 3)),
    st.sampled_from(["int64", "uint16", "int8", "float64", "object"]),
    st.none() | st.integers(0, 100_000),
)
@pytest.mark.filterwarnings("ignore::kinglet.KingletWarning")
def test_ids(ids, dtype, vocab_size):
    more = {} if vocab_size is None else dict(vocab_size=vocab_size)
    with numpy.errstate(all="ignore"):
        train(data=ids.astype(dtype), **TINY, **more)


@given(anything)
@pytest.mark.filterwarnings("ignore::kinglet.KingletWarning")
def test_data_of_any_kind(data):
    # A name of data may be one that is there, such as "/" or ".".
    if not isinstance(data, str) and not (isinstance(data, list) and all(isinstance(each, str) for each in data)):
        train(data=data, **TINY)


@given(st.dictionaries(st.sampled_from(keys), st.integers(-5, 40) | st.floats() | anything, max_size=4))
@pytest.mark.filterwarnings("ignore::kinglet.KingletWarning")
def test_settings(some):
    # What takes long or much is not tried.
    large = {"max_iters", "n_layer", "n_embd", "batch_size", "gradient_accumulation_steps", "eval_iters", "shards", "sample_tokens"}
    if not any(key in large and isinstance(value, (int, float)) and not -100 < value < 100 for key, value in some.items()):
        train(text="abcdefgh" * 40, **(TINY | {key: value for key, value in some.items() if key != "data"}))


@given(st.text(max_size=30), anything)
@pytest.mark.filterwarnings("ignore::kinglet.KingletWarning")
def test_keys_of_any_name(key, value):
    if key not in ("text", "data", "out", "threads", "progress", "on_event", "name", "config", "preset") and key not in keys:
        assert train(text="abcdefgh" * 40, **(TINY | {key: value})) is None
