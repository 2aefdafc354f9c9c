"""Tokenizers: text to ids and back."""

import copy
import json
import os
import pickle

import numpy as np
import pytest
from trained import SONG, SMALL, folder, here, train  # noqa: F401

import kinglet

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture(scope="session")
def bpe(folder):
    train(folder, "bpe", "--tokenizer", "bpe:300")
    return folder / "runs/bpe"


@pytest.fixture(scope="session")
def bytewise(folder):
    train(folder, "bytes", "--tokenizer", "byte")
    return folder / "runs/bytes"


def test_text_goes_to_ids_and_back(folder):
    tokenizer = kinglet.load("tied").tokenizer
    ids = tokenizer.encode(SONG)
    assert ids.dtype == np.uint32 and ids.ndim == 1 and len(ids) == len(SONG)
    assert tokenizer.decode(ids) == tokenizer.decode(ids.tolist()) == tokenizer.decode(ids.astype(np.int16)) == SONG
    assert tokenizer.vocab_size == len(tokenizer) == len(set(SONG)) == kinglet.load("tied").vocab_size
    assert tokenizer.encode("").size == 0 and tokenizer.decode([]) == "" == tokenizer.decode(np.array([]))
    assert ids.max() < tokenizer.vocab_size
    assert "characters" in repr(tokenizer)


def test_a_run_and_a_file_have_it(folder, bpe):
    want = kinglet.load(bpe).tokenizer
    for name in ["bpe", bpe, bpe / "tokenizer.json", "bpe@last"]:
        tokenizer = kinglet.Tokenizer.load(name)
        assert tokenizer == want and hash(tokenizer) == hash(want)
    assert want != kinglet.Tokenizer.load("tied")
    assert kinglet.Tokenizer.from_json(want.to_json()) == want
    assert json.loads(want.to_json())["model"]["type"] == "BPE"


def test_copies_are_the_same(folder, bpe):
    for tokenizer in [kinglet.Tokenizer.load("bpe"), kinglet.load("tied").tokenizer]:
        for other in [pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer), copy.copy(tokenizer)]:
            assert other == tokenizer and other.encode("A bird").tolist() == tokenizer.encode("A bird").tolist()
            assert other.special_tokens == tokenizer.special_tokens and other.end_of_text == tokenizer.end_of_text


def test_special_tokens_are_meant_or_not(folder, bpe):
    tokenizer = kinglet.Tokenizer.load("bpe")
    end = "<|endoftext|>"
    assert tokenizer.special_tokens == {end: tokenizer.end_of_text} and tokenizer.begin_of_text is None
    assert tokenizer.encode(end).tolist() == [tokenizer.end_of_text]
    as_text = tokenizer.encode(end, special=False)
    assert tokenizer.end_of_text not in as_text and tokenizer.decode(as_text) == end
    assert kinglet.Tokenizer.load("tied").special_tokens == {} and kinglet.Tokenizer.load("tied").end_of_text is None


def test_hugging_faces_tokenizers_encode_the_same(folder, bpe):
    tokenizers = pytest.importorskip("tokenizers")
    ours = kinglet.Tokenizer.load("bpe")
    theirs = tokenizers.Tokenizer.from_str(ours.to_json())
    for text in [SONG, "ж 🐦  \n\n'tis"]:
        assert theirs.encode(text).ids == ours.encode(text).tolist()


def test_what_cannot_be_is_said(folder):
    tokenizer = kinglet.Tokenizer.load("tied")
    with pytest.raises(kinglet.DataError, match="ж"):
        tokenizer.encode("ж")
    for error, bad in [
        (TypeError, lambda: tokenizer.encode(b"A")),
        (TypeError, lambda: tokenizer.encode(None)),
        (UnicodeEncodeError, lambda: tokenizer.encode("\ud800")),
        (TypeError, lambda: tokenizer.decode("A")),
        (TypeError, lambda: tokenizer.decode([0.5])),
        (kinglet.DataError, lambda: tokenizer.decode([-1])),
        (kinglet.DataError, lambda: tokenizer.decode([2**32])),
        (kinglet.DataError, lambda: tokenizer.decode([[1]])),
        (kinglet.NotFoundError, lambda: kinglet.Tokenizer.load("nothing")),
        (kinglet.Error, lambda: kinglet.Tokenizer.load("song.txt")),
        (kinglet.DataError, lambda: kinglet.Tokenizer.from_json("{}")),
        (TypeError, lambda: kinglet.Tokenizer("tied")),
        (TypeError, lambda: kinglet.Tokenizer.load(7)),
    ]:
        with pytest.raises(error):
            bad()
    assert tokenizer.decode([9999]) == "\ufffd"


def test_any_text_goes_to_ids_and_back(folder, bpe, bytewise):
    hypothesis = pytest.importorskip("hypothesis")
    from hypothesis import strategies as st

    all_of_them = [kinglet.Tokenizer.load(name) for name in ["tied", "bpe", "bytes"]]

    @hypothesis.settings(max_examples=int(os.environ.get("KINGLET_EXAMPLES", "300")), deadline=None)
    @hypothesis.given(st.text(), st.lists(st.integers(-5, 2**33)))
    def check(text, ids):
        for tokenizer in all_of_them:
            try:
                encoded = tokenizer.encode(text)
            except kinglet.DataError:
                assert tokenizer is all_of_them[0] and set(text) - set(SONG)
            else:
                assert tokenizer.decode(encoded) == text
            try:
                assert isinstance(tokenizer.decode(ids), str)
            except kinglet.DataError:
                assert ids and (min(ids) < 0 or max(ids) >= 2**32)

    check()
