"""What a model has to beat: predictors that need no training to speak of. Losses in nats per token."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np


def unigram_loss(train: Iterable[Sequence[int]], test: Iterable[Sequence[int]], vocab_size: int) -> float:
    """Return the loss of predicting each token by its share of the training texts, with one added to each count."""
    counts = np.ones(vocab_size)
    for text in train:
        np.add.at(counts, np.asarray(text, dtype=np.int64), 1)
    logs = np.log(counts / counts.sum())
    tokens = np.concatenate([np.asarray(text, dtype=np.int64) for text in test])
    return float(-logs[tokens].mean())


def bigram_loss(train: Iterable[Sequence[int]], test: Iterable[Sequence[int]], vocab_size: int) -> float:
    """Return the loss of predicting each token but the first of a text by the one before it.

    The counts of pairs are mixed with the single ones by Witten and Bell's weights (1991): the more different tokens
    have followed one, the less its counts are trusted.
    """
    singles = np.ones(vocab_size)
    pairs: Counter = Counter()
    for text in train:
        ids = np.asarray(text, dtype=np.int64)
        np.add.at(singles, ids, 1)
        pairs.update((ids[:-1] * vocab_size + ids[1:]).tolist())
    probabilities = singles / singles.sum()
    totals, kinds = np.zeros(vocab_size), np.zeros(vocab_size)
    for pair, count in pairs.items():
        totals[pair // vocab_size] += count
        kinds[pair // vocab_size] += 1
    loss, predicted = 0.0, 0
    for text in test:
        ids = np.asarray(text, dtype=np.int64)
        if len(ids) < 2:
            continue
        before, after = ids[:-1], ids[1:]
        seen = np.array([pairs.get(pair, 0) for pair in (before * vocab_size + after).tolist()])
        trust = totals[before] + kinds[before]
        mixed = (seen + kinds[before] * probabilities[after]) / np.maximum(trust, 1)
        mixed = np.where(trust > 0, mixed, probabilities[after])
        loss -= np.log(mixed).sum()
        predicted += len(after)
    if not predicted:
        raise ValueError("test holds no text of two tokens or more")
    return float(loss / predicted)


def majority(train: Iterable[Hashable]) -> Hashable:
    """Return the most frequent label, of equally frequent ones the first in order of their names."""
    counts = Counter(train)
    if not counts:
        raise ValueError("train holds no label")
    return min(counts, key=lambda label: (-counts[label], str(label)))


def most_frequent_tags(words: Iterable[Sequence[str]], tags: Iterable[Sequence[str]]) -> tuple[dict[str, str], str]:
    """Return each word's most frequent tag, and the tag for words that were never seen."""
    of_word: dict[str, Counter] = {}
    every: Counter = Counter()
    for text, own in zip(words, tags, strict=True):
        every.update(own)
        for word, tag in zip(text, own, strict=True):
            of_word.setdefault(word, Counter())[tag] += 1
    return {word: str(majority(counts.elements())) for word, counts in of_word.items()}, str(
        majority(every.elements())
    )


def first_sentence(text: str) -> str:
    """Return a text's first sentence: what a summary has to beat."""
    for place, mark in enumerate(text):
        if mark in ".!?\n。！？" and (mark in "\n。！？" or place + 1 == len(text) or text[place + 1].isspace()):
            return text[: place + 1].strip()
    return text.strip()
