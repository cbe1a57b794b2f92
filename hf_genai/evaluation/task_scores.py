"""What the tasks of the fine-tuning recipe are scored by: F1 over classes, SQuAD's scores of answers, ROUGE."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

Scores = dict[str, float]
ROUGE = ["rouge1", "rouge2", "rougeL"]


def macro_f1(guesses: np.ndarray, labels: np.ndarray, number: int) -> float:
    """Return the mean over all classes of F1, of those that occur or are guessed."""
    if labels.ndim == 1:
        guesses, labels = np.eye(number, dtype=bool)[guesses], np.eye(number, dtype=bool)[labels]
    guesses, labels = guesses.astype(bool), labels.astype(bool)
    hits, both = (guesses & labels).sum(0), guesses.sum(0) + labels.sum(0)
    return float((2 * hits[both > 0] / both[both > 0]).mean())


def _plain(text: str) -> list[str]:
    text = "".join(mark for mark in text.lower() if mark not in string.punctuation)  # "U.S." is "us", as SQuAD has it
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _f1(one: list[str], two: list[str]) -> float:
    shared = sum((Counter(one) & Counter(two)).values())
    return 2 * shared / (len(one) + len(two)) if one and two else float(one == two)


def answer_scores(found: Sequence[str], expected: Sequence[Sequence[str]]) -> Scores:
    """Return exact match and F1 over words, without case, punctuation and articles, each with the nearest reference.

    Args:
        found: an answer to each question.
        expected: the reference answers of each question, one or more.

    Reference: Rajpurkar et al. (2016), arXiv:1606.05250, section 6.1.
    """
    exact, f1 = [], []
    for own, references in zip(found, expected, strict=True):
        one, others = _plain(own), list(map(_plain, references))
        exact.append(one in others)
        f1.append(max(_f1(one, two) for two in others))
    return {"exact_match": float(np.mean(exact)), "f1": float(np.mean(f1))}


def rouge(found: Sequence[str], expected: Sequence[str]) -> Scores:
    """Return ROUGE-1, -2 and -L, F-measure, 0 to 100.

    Reference: Lin (2004), "ROUGE: A Package for Automatic Evaluation of Summaries".
    """
    scorer = rouge_scorer()
    rows = [scorer.score(right, own) for own, right in zip(found, expected, strict=True)]
    return {kind: 100 * float(np.mean([row[kind].fmeasure for row in rows])) for kind in ROUGE}


def rouge_scorer() -> Any:
    """Return what scores ROUGE, or raise ImportError, naming the extra."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ImportError("ROUGE needs rouge-score: pip install 'hf_genai[eval]'") from error
    return RougeScorer(ROUGE, use_stemmer=True)
