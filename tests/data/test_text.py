"""TextVectorizer: against Keras's own numbers, scikit-learn, and a plain reading of the rules."""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxzoo.data._text import PUNCTUATION
from flaxzoo.data.stop_words import stop_words
from flaxzoo.data.text_vectorizer import TextVectorizer
from flaxzoo.errors import ArgumentError, DataError, UninitializedError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "text_keras.json").read_text("utf-8"))
TEXTS = ["the cat sat", "the dog sat on the cat", "a bird"]


def name(case):
    return ",".join(f"{k}={v}" for k, v in case["settings"].items()) or "defaults"


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=name)
def test_keras_s_vocabulary_and_arrays(case):
    vectorizer = TextVectorizer(**case["settings"]).adapt(GOLDEN["train"])
    assert vectorizer.get_vocabulary() == case["vocabulary"]
    assert vectorizer.vocabulary_size == len(case["vocabulary"])
    made = vectorizer(GOLDEN["test"])
    wanted = np.array(case["array"], made.dtype)
    assert made.dtype == (np.int32 if vectorizer.output == "int" else np.float32)
    # The mean of the weights is summed in another order; everything else is exact.
    np.testing.assert_allclose(made, wanted, rtol=3e-7 if vectorizer.output == "tf_idf" else 0)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text(alphabet="aB é\u00a0.,'!\t\n\x0b\x1c😀_", max_size=12), min_size=1),
    ngrams=st.sampled_from([None, 1, 2, (2,), (3, 1)]),
    length=st.sampled_from([None, 1, 4]),
)
def test_a_plain_reading_of_the_rules(texts, ngrams, length):
    lower = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
    widths = (1,) if ngrams is None else range(1, ngrams + 1) if ngrams in (1, 2) else ngrams

    def tokens(text):
        plain = "".join(c for c in text.translate(lower) if c not in PUNCTUATION)
        words = re.findall(r"[^ \t\n\r\f\v]+", plain)
        return [
            " ".join(words[i : i + width])
            for width in widths
            for i in range(len(words) - width + 1)
        ]

    rows = [tokens(text) for text in texts]
    counts = Counter(token for row in rows for token in row)
    vectorizer = TextVectorizer(sequence_length=length, ngrams=ngrams)
    if not counts:
        with pytest.raises(DataError, match="no tokens"):
            vectorizer.adapt(texts)
        return
    vocabulary = ["", "[UNK]"]
    for count in sorted(set(counts.values()), reverse=True):
        vocabulary += sorted((t for t, c in counts.items() if c == count), reverse=True)
    assert vectorizer.adapt(texts).get_vocabulary() == vocabulary
    made = vectorizer.with_lengths(texts)
    for ids, size, row in zip(made["text"], made["lengths"], rows, strict=True):
        kept = row[:length]
        assert size == len(kept)
        assert [vocabulary[i] for i in ids[:size]] == kept
        assert not ids[size:].any()


def test_counts_are_scikit_learn_s():
    from sklearn.feature_extraction.text import CountVectorizer

    theirs = CountVectorizer(token_pattern=r"\S+", ngram_range=(1, 2)).fit(TEXTS)
    ours = TextVectorizer(output="count", ngrams=2).adapt(TEXTS)
    order = [theirs.vocabulary_[token] for token in ours.get_vocabulary()[1:]]
    assert len(order) == len(theirs.vocabulary_)
    made = ours([*TEXTS, "a zebra sat"])
    np.testing.assert_array_equal(
        made[:, 1:], theirs.transform([*TEXTS, "a zebra sat"]).toarray()[:, order]
    )
    # zebra and the two pairs with it
    np.testing.assert_array_equal(made[:, 0], [0, 0, 0, 3])


def test_tf_idf_by_hand():
    vectorizer = TextVectorizer(output="tf_idf").adapt(["a a b", "b c", ""])
    assert vectorizer.get_vocabulary() == ["[UNK]", "b", "a", "c"]
    b, a = np.log(1 + 3 / (1 + 2)), np.log(1 + 3 / (1 + 1))
    np.testing.assert_allclose(vectorizer.idf_weights, [(b + 2 * a) / 3, b, a, a], rtol=1e-6)
    np.testing.assert_allclose(vectorizer(["a a zz b"])[0], [(b + 2 * a) / 3, b, 2 * a, 0], 1e-6)
    given = TextVectorizer(output="tf_idf", vocabulary=["b", "a"], idf_weights=[1.0, 3.0])
    np.testing.assert_array_equal(given.idf_weights, [2, 1, 3])


def test_the_vocabulary_may_be_read_from_any_iterable():
    wanted = TextVectorizer().adapt(TEXTS).get_vocabulary()
    batches = [TEXTS[:2], TEXTS[2:]]
    forms = (
        iter(TEXTS),
        pd.Series(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, object)[:, None],
        [text.encode() for text in TEXTS],
        batches,
        (np.array(batch) for batch in batches),
    )
    for texts in forms:
        assert TextVectorizer().adapt(texts).get_vocabulary() == wanted


def test_texts_that_are_tokenised_keep_their_documents():
    documents = [["Fine", "film"], ["thin", "cold,", "plot"], [], "a fine plot"]
    joined = ["fine film", "thin cold plot", "", "a fine plot"]
    for output in ("int", "count", "tf_idf"):
        wanted = TextVectorizer(output=output, ngrams=2).adapt(joined)
        for texts in (documents, [*map(tuple, documents[:3]), documents[3]], iter(documents)):
            vectorizer = TextVectorizer(output=output, ngrams=2).adapt(texts)
            assert vectorizer.get_vocabulary() == wanted.get_vocabulary()
            np.testing.assert_array_equal(vectorizer(documents), wanted(joined))
    array = np.array([["a", "b"], ["c", "a"]])
    assert TextVectorizer().adapt(array).with_lengths(array)["lengths"].tolist() == [2, 2]
    whole = TextVectorizer(split=None).adapt([["New York", "is"], ["Rome"]])
    assert whole.get_vocabulary(False) == ["rome", "new york", "is"]
    np.testing.assert_array_equal(whole([["New York"], ["is", "Rome"]]), [[3, 0], [4, 2]])


def test_batches_of_texts_are_not_taken_for_documents():
    vectorizer = TextVectorizer().adapt([TEXTS[:2], TEXTS[2:]])
    message = r"texts\[1\] is a list, .*item 1, 'a bird', is more than one token: for batches"
    with pytest.raises(DataError, match=message):
        vectorizer(["the cat", ["cat", "a bird"]])
    with pytest.raises(DataError, match=r"texts\[1\]\[0\] is missing"):
        vectorizer([["a"], [None, "b"]])
    idf = TextVectorizer(output="tf_idf").adapt([TEXTS[:2], TEXTS[2:]]).idf_weights
    np.testing.assert_array_equal(idf, TextVectorizer(output="tf_idf").adapt(TEXTS).idf_weights)


def test_many_texts_cross_the_chunks():
    texts = [f"w{i % 10} x" for i in range(10_000)]
    vectorizer = TextVectorizer(sequence_length=2).adapt(iter(texts))
    assert vectorizer.get_vocabulary() == ["", "[UNK]", "x", *(f"w{i}" for i in range(9, -1, -1))]
    ids = vectorizer(iter(texts))
    np.testing.assert_array_equal(ids[:, 0], 12 - np.arange(10_000) % 10)
    np.testing.assert_array_equal(ids[:, 1], 2)


def test_adapting_again_starts_afresh():
    vectorizer = TextVectorizer().adapt(["old words"]).adapt(["new"])
    assert vectorizer.get_vocabulary() == ["", "[UNK]", "new"]


def test_functions_standardise_and_split():
    vectorizer = TextVectorizer(standardize=str.casefold, split=lambda text: text.split("-"))
    vectorizer.adapt(["Éa-STRASSE", "straße-éA"])
    assert vectorizer.get_vocabulary(include_special_tokens=False) == ["éa", "strasse"]
    # An empty token is padding, as in Keras.
    np.testing.assert_array_equal(vectorizer(["éa--x"]), [[2, 0, 1]])
    counts = TextVectorizer(split=lambda text: text.split("-"), output="count", standardize=None)
    np.testing.assert_array_equal(counts.adapt(["a--b"])(["a--a-x"]), [[1, 0, 2]])


def test_split_none_takes_texts_as_tokens():
    vectorizer = TextVectorizer(split=None).adapt(["New York", "Rome", "Rome!"])
    assert vectorizer.get_vocabulary() == ["", "[UNK]", "rome", "new york"]
    np.testing.assert_array_equal(vectorizer(["rome", "Paris"]), [[2], [1]])


def test_stop_words_go_before_n_grams():
    vectorizer = TextVectorizer(ngrams=2, stop_words="english")
    vectorizer.adapt(["The cat is on the mat", "Don't!"])
    assert vectorizer.get_vocabulary(False) == ["mat", "cat mat", "cat"]
    own = TextVectorizer(stop_words=["Cat", "isn't"]).adapt(["cat isnt CAT here"])
    assert own.get_vocabulary(False) == ["here"]
    kept = TextVectorizer(stop_words=["cat"], standardize=None).adapt(["Cat cat"])
    assert kept.get_vocabulary(False) == ["Cat"]


def test_the_english_list():
    words = stop_words("english")
    assert {"the", "of", "and", "was", "not", "don't", "themselves", "would"} <= words
    assert 200 < len(words) < 300
    assert all(re.fullmatch(r"[a-z]+('[a-z]+)?", word) for word in words)
    assert not words & {"good", "bad", "time", "man", "said", "new", "like"}


def test_decode():
    vectorizer = TextVectorizer(sequence_length=5).adapt(TEXTS)
    ids = vectorizer(["The dog sat!", "a zebra", ""])
    assert vectorizer.decode(ids) == ["the dog sat", "a [UNK]", ""]
    assert vectorizer.decode(jax.numpy.asarray(ids)[0]) == "the dog sat"
    assert vectorizer.decode([]) == ""
    characters = TextVectorizer(split="character", standardize=None).adapt(["a b\u00e9😀"])
    assert characters.decode(characters(["a 😀é?"])) == ["a 😀é[UNK]"]


def test_lengths_mask_what_padding_means_to_the_lstm():
    from flaxzoo.models import LSTM

    vectorizer = TextVectorizer(sequence_length=5).adapt(TEXTS)
    inputs = vectorizer.with_lengths(["the cat", "", "the dog sat on the cat"])
    assert inputs["text"].dtype == inputs["lengths"].dtype == np.int32
    np.testing.assert_array_equal(inputs["lengths"], [2, 0, 5])
    model = LSTM(hidden_size=3, vocab_size=vectorizer.vocabulary_size)
    variables = model.init(jax.random.key(0), inputs)
    features = model.apply(variables, inputs)
    alone = model.apply(variables, vectorizer(["the cat"])[:, :2])
    np.testing.assert_allclose(features[0], alone[0], atol=1e-6)
    np.testing.assert_array_equal(features[1], 0)
    padded = model.clone(pad_id=0).apply(variables, inputs["text"])
    np.testing.assert_array_equal(features, padded)


def test_texts_without_tokens_still_have_a_step():
    np.testing.assert_array_equal(TextVectorizer(vocabulary=["a"])(["", "  "]), [[0], [0]])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_tokens": 5, "sequence_length": 3, "stop_words": ["The"], "standardize": "lower"},
        {"output": "tf_idf", "ngrams": (1, 3)},
        {"split": "character", "output": "multi_hot"},
    ],
    ids=str,
)
def test_saved_and_loaded(tmp_path, options):
    vectorizer = TextVectorizer(**options).adapt([*TEXTS, "line\u2028sep \ud800 é"])
    file = tmp_path / "deep" / "vectorizer.json"
    vectorizer.save(file)
    assert [path.name for path in file.parent.iterdir()] == ["vectorizer.json"]
    for copy in (TextVectorizer.load(file), pickle.loads(pickle.dumps(vectorizer))):
        assert copy.get_vocabulary() == vectorizer.get_vocabulary()
        np.testing.assert_array_equal(copy(GOLDEN["test"]), vectorizer(GOLDEN["test"]))
    again = tmp_path / "again.json"
    TextVectorizer.load(file).save(again)
    assert again.read_text() == file.read_text()
    assert "zebra" not in TextVectorizer.load(file).adapt(["zero"]).get_vocabulary()


def test_functions_are_given_again(tmp_path):
    file = tmp_path / "vectorizer.json"
    TextVectorizer(standardize=str.upper).adapt(TEXTS).save(file)
    assert TextVectorizer.load(file, standardize=str.upper)(["THE"])[0, 0] > 1
    with pytest.raises(DataError, match=r"standardize was a function.*load\(path, standardize="):
        TextVectorizer.load(file)
    with pytest.raises(DataError, match="split is in the file"):
        TextVectorizer.load(file, standardize=str.upper, split=str.split)


def test_a_vocabulary_from_a_file(tmp_path):
    file = tmp_path / "vocabulary.txt"
    file.write_text("the\ncat\n", "utf-8")
    for vocabulary in (file, str(file), ["the", "cat"], ["", "[UNK]", "the", "cat"]):
        vectorizer = TextVectorizer(vocabulary=vocabulary)
        assert vectorizer.get_vocabulary() == ["", "[UNK]", "the", "cat"]
    np.testing.assert_array_equal(vectorizer(["The cat sat"]), [[2, 3, 1]])
    with pytest.raises(ValueError, match="the vocabulary was given"):
        vectorizer.adapt(TEXTS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "not readable as JSON"),
        ("[1]", "holds no text vectorizer"),
        ('{"format": "flaxzoo.table"}', "holds no text vectorizer"),
        ('{"format": "flaxzoo.text_vectorizer", "format_version": 99}', "later format"),
        ('{"format": "flaxzoo.text_vectorizer", "format_version": 1}', "not understood"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    file = tmp_path / "vectorizer.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        TextVectorizer.load(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("change", [("vocabulary", ["", "[UNK]", "a", "a"]), ("settings", {})])
def test_damaged_contents(tmp_path, change):
    file = tmp_path / "vectorizer.json"
    TextVectorizer().adapt(TEXTS).save(file)
    document = json.loads(file.read_text())
    del document["document_sha256"]
    document[change[0]] = change[1]
    file.write_text(json.dumps(document))
    with pytest.raises(DataError):
        TextVectorizer.load(file)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", r"got the str 'one text'; put it in a list"),
        (7, "got int 7"),
        ({"text": ["a"]}, "got dict; pass one of its columns"),
        (pd.DataFrame({"text": ["a"]}), "got DataFrame; pass one of its columns"),
        (["a", None], r"texts\[1\] is missing.*fill or drop"),
        (pd.Series(["a", "b", None]), r"texts\[2\] is missing"),
        (["a", 3], r"texts\[1\] is int 3 where a str"),
        ([b"a", b"\xff"], r"texts\[1\] is not UTF-8: invalid start byte at byte 0"),
        ([], r"no tokens to learn from \(0 texts\)"),
        (["", " ..."], r"no tokens to learn from \(2 texts\)"),
    ],
)
def test_what_is_no_text(texts, message):
    with pytest.raises(DataError, match=message):
        TextVectorizer().adapt(texts)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"standardize": "lowr"}, ArgumentError, "standardize must be .*'lowr'.*'lower'"),
        ({"split": "white"}, ArgumentError, "split must be .*'white'.*'whitespace'"),
        ({"output": "tfidf"}, ArgumentError, "output must be .*'tfidf'.*'tf_idf'"),
        ({"stop_words": "englsh"}, ArgumentError, "englsh.*'english'"),
        ({"ngrams": 0}, ValueError, "ngrams must be"),
        ({"ngrams": (1, 0)}, ValueError, "ngrams must be"),
        ({"ngrams": "2"}, ValueError, "ngrams must be"),
        ({"max_tokens": 2}, ValueError, "max_tokens must be an int of at least 3 or None"),
        ({"sequence_length": 0}, ValueError, "sequence_length must be"),
        ({"sequence_length": 4, "output": "count"}, ValueError, "has no sequence"),
        ({"stop_words": ["a"], "split": "character"}, ValueError, "stop_words are words"),
        ({"vocabulary": []}, DataError, "vocabulary is empty"),
        ({"vocabulary": ["a", "b", "a"]}, DataError, "1 tokens more than once: 'a'"),
        ({"vocabulary": ["a", ""]}, DataError, "holds the empty token"),
        ({"vocabulary": ["a", "b"], "max_tokens": 3}, DataError, "4 entries"),
        ({"vocabulary": "absent.txt"}, DataError, "absent.txt: cannot be read"),
        ({"vocabulary": ["a"], "idf_weights": [1.0]}, ValueError, "output='tf_idf'"),
        ({"vocabulary": ["a"], "output": "tf_idf"}, DataError, r"one number per entry.*\[1\]"),
        ({"idf_weights": [1.0]}, ValueError, "belong to a vocabulary"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_settings_at_fault(options, error, message):
    with pytest.raises(error, match=message):
        TextVectorizer(**options)


@pytest.mark.parametrize(
    ("word", "line"),
    [("output_sequence_length", "sequence_length"), ("output_mode", "output")],
)
def test_keras_s_words_name_ours(word, line):
    with pytest.raises(TypeError, match=f"'{word}' is called '{line}' here"):
        TextVectorizer(**{word: 4})


def test_uses_at_fault():
    with pytest.raises(UninitializedError, match=r"adapt\(texts\)"):
        TextVectorizer()(["a"])
    vectorizer = TextVectorizer(vocabulary=["a"])
    with pytest.raises(DataError, match="texts are empty"):
        vectorizer([])
    with pytest.raises(DataError, match="between 0 and 2, got 0 to 3"):
        vectorizer.decode([[0, 3]])
    with pytest.raises(DataError, match="must be integers"):
        vectorizer.decode([0.5])
    rows = TextVectorizer(output="count", vocabulary=["a"])
    with pytest.raises(ValueError, match="with_lengths needs output='int'"):
        rows.with_lengths(["a"])
    with pytest.raises(ValueError, match="n-grams overlap"):
        TextVectorizer(ngrams=2, vocabulary=["a"]).decode([2])
    with pytest.raises(DataError, match="must return the tokens of a text, got the str 'ab'"):
        TextVectorizer(split=lambda text: text).adapt(["ab"])


def test_numpy_s_ints_are_ints(tmp_path):
    texts = ["a b a c", "b a"]
    plain = TextVectorizer(9, 5, ngrams=2).adapt(texts)
    for ngrams in (np.int64(2), (np.int32(1), 2), np.array([1, 2])):
        made = TextVectorizer(np.int64(9), np.int32(5), ngrams=ngrams).adapt(texts)
        assert made.get_vocabulary() == plain.get_vocabulary()
        made.save(tmp_path / "v.json")
        loaded = TextVectorizer.load(tmp_path / "v.json")
        np.testing.assert_array_equal(loaded(texts), plain(texts))
    for wrong in (True, np.bool_(True), 2.0, "2", (1, 2.5), np.int64(0), (True,)):
        with pytest.raises(ValueError, match="ngrams must be None, an int of at least 1"):
            TextVectorizer(ngrams=wrong)


def test_a_byte_order_mark_is_no_part_of_the_first_token(tmp_path):
    file = tmp_path / "tokens.txt"
    for tokens in ("film\nplot\n", "\n[UNK]\nfilm\nplot\n"):
        file.write_text(tokens, "utf-8-sig")
        made = TextVectorizer(vocabulary=file)
        assert made.get_vocabulary() == ["", "[UNK]", "film", "plot"]
        np.testing.assert_array_equal(made(["film plot"]), [[2, 3]])
