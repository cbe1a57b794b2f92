"""Baselines, against sums done by hand."""

import math

import pytest

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
    ],
)
def test_the_first_sentence_ends_at_a_mark_before_a_space(text, expected):
    assert first_sentence(text) == expected
