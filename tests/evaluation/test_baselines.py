"""Baselines, against sums done by hand."""

import math
import random
from collections import Counter
from functools import partial

import pytest

from hf_genai.evaluation import baselines
from hf_genai.evaluation.baselines import bigram_loss, first_sentence, majority, most_frequent_tags, unigram_loss


def test_single_counts_are_shares_with_one_added():
    # counts 3, 2, 1 of 6
    assert unigram_loss([[0, 0, 1]], [[0, 1], [2]], 3) == pytest.approx(-math.log(3 / 6 * 2 / 6 * 1 / 6) / 3)


def test_pairs_are_mixed_with_single_counts():
    single = [3 / 7, 3 / 7, 1 / 7]  # of 0, 1, 0, 1 and one each
    after_0 = [(0 + 1 * single[0]) / 3, (2 + 1 * single[1]) / 3]
    found = bigram_loss([[0, 1, 0, 1]], [[0, 1], [0, 0], [2, 1]], 3)
    assert found == pytest.approx(-math.log(after_0[1] * after_0[0] * single[1]) / 3)


def test_pairs_predict_what_alternates_and_single_counts_do_not():
    train, test = [[0, 1] * 50], [[0, 1] * 10]
    assert bigram_loss(train, test, 2) < 0.1 < 0.6 < unigram_loss(train, test, 2)


def slow_bigram_loss(train, test, vocab_size):
    singles = Counter(range(vocab_size)) + Counter(token for text in train for token in text)
    pairs = Counter(pair for text in train for pair in zip(text, text[1:]))  # noqa: B905 (pairs of neighbours)
    losses = []
    for before, after in (pair for text in test for pair in zip(text, text[1:])):  # noqa: B905
        followers = [count for (first, _), count in pairs.items() if first == before]
        single = singles[after] / singles.total()
        trust = sum(followers) + len(followers)
        losses.append(-math.log((pairs[before, after] + len(followers) * single) / trust if trust else single))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("tokens", [1, 50, 10_000])
def test_counts_do_not_depend_on_how_many_tokens_are_looked_at_at_once(tokens, monkeypatch):
    draw = random.Random(0)
    texts = [[draw.randrange(20) ** 2 % 13 for _ in range(draw.randrange(9))] for _ in range(120)]
    train, test = texts[:80], [*texts[80:], [3, 12]]
    monkeypatch.setattr(baselines, "chunks", partial(baselines.chunks, tokens=tokens))
    assert bigram_loss(iter(train), iter(test), 13) == pytest.approx(slow_bigram_loss(train, test, 13), rel=1e-12)
    counts = Counter(range(13)) + Counter(token for text in train for token in text)
    told = [-math.log(counts[token] / counts.total()) for text in test for token in text]
    assert unigram_loss(iter(train), iter(test), 13) == pytest.approx(sum(told) / len(told), rel=1e-12)


def test_majority_and_ties():
    assert majority(["b", "a", "b"]) == "b"
    assert majority(["b", "a"]) == "a"
    with pytest.raises(ValueError, match="no label"):
        majority([])


def test_a_word_gets_its_own_most_frequent_tag():
    of_word, other = most_frequent_tags([["run", "dog", "run"], ["run"]], [["V", "N", "N"], ["V"]])
    assert of_word == {"run": "V", "dog": "N"}
    assert other == "N"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is 3.5 m. Long.", "It is 3.5 m."),
        ("One line\nTwo", "One line"),
        ("No end", "No end"),
        ("是的。不", "是的。"),
        ("「はい。」と言う", "「はい。」"),
        ("पहला वाक्य। दूसरा।", "पहला वाक्य।"),
        ("هل هذا؟ نعم.", "هل هذا؟"),
    ],
)
def test_the_first_sentence_ends_at_a_mark_of_its_script(text, expected):
    assert first_sentence(text) == expected
