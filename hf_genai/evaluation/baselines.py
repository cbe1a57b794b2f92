"""What a model has to beat: predictors that need no training to speak of. Losses in nats per token."""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence

import numpy as np
import regex


def chunks(texts: Iterable[Sequence[int]], tokens: int = 1 << 18) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield token ids of some texts, one after another, and the places of those that begin a text."""
    parts: list[np.ndarray] = []
    held = 0
    for text in texts:
        if len(text):
            parts.append(np.asarray(text, dtype=np.int64))
            held += len(text)
        if held >= tokens:
            yield np.concatenate(parts), np.cumsum([0, *map(len, parts[:-1])])
            parts, held = [], 0
    if parts:
        yield np.concatenate(parts), np.cumsum([0, *map(len, parts[:-1])])


def pairs_of(ids: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and second token of each pair within a text."""
    within = np.ones(len(ids), dtype=bool)
    within[starts] = False
    return ids[:-1][within[1:]], ids[1:][within[1:]]


def unigram_loss(train: Iterable[Sequence[int]], test: Iterable[Sequence[int]], vocab_size: int) -> float:
    """Return the loss of predicting each token by its share of the training texts, with one added to each count."""
    seen, predicted = (
        sum((np.bincount(ids, minlength=vocab_size) for ids, _ in chunks(texts)), np.zeros(vocab_size))
        for texts in (train, test)
    )
    return float(-np.log((seen + 1) / (seen + 1).sum()) @ predicted / predicted.sum())


def bigram_loss(train: Iterable[Sequence[int]], test: Iterable[Sequence[int]], vocab_size: int) -> float:
    """Return the loss of predicting each token but the first of a text by the one before it.

    The counts of pairs are mixed with the single ones by Witten and Bell's weights (1991): the more different tokens
    have followed one, the less its counts are trusted. Training texts are read once, and of them no pairs are kept
    but those of the test, and a bit for each pair that there could be.
    """
    tested = [before * vocab_size + after for before, after in (pairs_of(*chunk) for chunk in chunks(test))]
    if not sum(map(len, tested)):
        raise ValueError("test holds no text of two tokens or more")
    pairs, times = np.unique(np.concatenate(tested), return_counts=True)
    counts = np.zeros(len(pairs))  # of the test's pairs in the training texts
    singles, totals, kinds = np.ones(vocab_size), np.zeros(vocab_size), np.zeros(vocab_size)
    met = np.zeros(vocab_size**2 // 8 + 1, dtype=np.uint8)  # a bit for each pair
    for ids, starts in chunks(train):
        singles += np.bincount(ids, minlength=vocab_size)
        before, after = pairs_of(ids, starts)
        totals += np.bincount(before, minlength=vocab_size)
        found, often = np.unique(before * vocab_size + after, return_counts=True)
        new = found[met[found >> 3] >> (found & 7) & 1 == 0]
        np.bitwise_or.at(met, new >> 3, (1 << (new & 7)).astype(np.uint8))
        kinds += np.bincount(new // vocab_size, minlength=vocab_size)
        _, here, there = np.intersect1d(pairs, found, assume_unique=True, return_indices=True)
        counts[here] += often[there]
    before, after = np.divmod(pairs, vocab_size)
    single = singles[after] / singles.sum()
    trust = totals[before] + kinds[before]
    mixed = np.where(trust > 0, (counts + kinds[before] * single) / np.maximum(trust, 1), single)
    return float(-np.log(mixed) @ times / times.sum())


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


# An ASCII mark ends a sentence before a space alone; marks of other scripts do where they stand, as the Unicode
# property Sentence_Terminal names them (danda, Arabic question mark, ideographic full stop, ...), quotes included.
# Thai and Lao have no mark: there a line is taken for a sentence.
_SENTENCE_END = regex.compile(
    r"[.!?](?=\s|$)|\n|[\p{Sentence_Terminal}--[.!?]][\p{Sentence_Terminal}\p{Pe}\p{Pf}]*", flags=regex.VERSION1
)


def first_sentence(text: str) -> str:
    """Return a text's first sentence: what a summary has to beat."""
    end = _SENTENCE_END.search(text)
    return (text[: end.end()] if end else text).strip()
