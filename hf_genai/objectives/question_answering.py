"""Extractive question answering: where in a text the answer to a question stands."""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value
from transformers import PreTrainedTokenizerBase

from ..data.plain_text import encode_text

logger = logging.getLogger(__name__)

COLUMNS = ("question", "context", "answer", "answer_start")

# Tokens of an answer, at most, where the recipe looks for the best one; the trained model's config says so.
LONGEST_ANSWER = 40


def from_squad(dataset: Dataset) -> Dataset:
    """Return rows in the form of SQuAD with columns answer, answer_start and reference_answers in place of answers.

    That is {"text": [...], "answer_start": [...]}, or a list of {"text": ..., "answer_start": ...}: of several answers
    the first is learned, and the texts of all are what an answer is compared with. A question without an answer (SQuAD
    2) gets "" at character 0. Other rows are returned as they are.

    Reference: Rajpurkar et al. (2016), arXiv:1606.05250; (2018), arXiv:1806.03822.
    """
    if "answers" not in dataset.column_names or "answer" in dataset.column_names:
        return dataset

    def pairs(answers: Any) -> list[tuple[str, int]]:
        if isinstance(answers, list):
            return [(answer["text"], answer["answer_start"]) for answer in answers]
        return list(zip(*((answers or {}).get(name) or () for name in ("text", "answer_start")), strict=False))

    def columns(batch: dict[str, list]) -> dict[str, list]:
        found = [pairs(answers) or [("", 0)] for answers in batch["answers"]]
        return {
            "answer": [answers[0][0] for answers in found],
            "answer_start": [answers[0][1] for answers in found],
            "reference_answers": [[text for text, _ in answers] for answers in found],
        }

    return dataset.map(columns, batched=True, remove_columns="answers")


def unanswered_as_empty(dataset: Dataset, place_of: Callable[[int], str] = "row {}".format) -> Dataset:
    """Return rows in which a question without an answer has the answer "" at character 0, however it was written.

    Its answer may be missing or empty (as a table has it), and its place missing, 0 or -1.

    Args:
        place_of: says where a row stands, for the error.

    Raises:
        ValueError: a row without an answer that has a place for it.
    """
    kinds = {name: getattr(dataset.features[name], "dtype", "") for name in COLUMNS[2:]}
    if kinds["answer"] not in ("string", "large_string", "null"):  # what it is instead is told elsewhere
        return dataset
    place_kind = Value("int64") if kinds["answer_start"] in ("null", "float64") else dataset.features["answer_start"]

    def plain(batch: dict[str, list], rows: list[int]) -> dict[str, list]:
        places = []
        for row, answer, place in zip(rows, batch["answer"], batch["answer_start"], strict=True):
            if not answer:
                if place is not None and str(place).strip() not in ("", "0", "0.0", "-1", "-1.0", "nan"):
                    raise ValueError(f"{place_of(row)}: no answer, but answer_start {place}: give both, or neither")
                place = "0" if isinstance(place, str) or kinds["answer_start"].endswith("string") else 0
            places.append(int(place) if isinstance(place, float) and place.is_integer() else place)
        return {"answer": [answer or "" for answer in batch["answer"]], "answer_start": places}

    features = Features({**dataset.features, "answer": Value("string"), "answer_start": place_kind})
    return dataset.map(plain, batched=True, with_indices=True, features=features)


def tokenize_questions(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = 384, stride: int = 128
) -> Dataset:
    """Turn questions with their contexts into windows of `input_ids`, with the answer's first and last token.

    A context that is longer than a window comes in several, each `stride` tokens of context into the one before. In a
    window that does not hold the answer, and for a question that has none (answer ""), both positions are 0, the first
    token. A warning counts the answers that begin or end inside a token, which can be found with too much around them
    alone.

    Args:
        dataset: with the columns question, context, answer and answer_start (a character of the context); the last
            two may be missing where nothing is to be learned.
        tokenizer: a fast one.
        max_length: ids of a window, question and special tokens included.
        stride: ids that two windows share.

    Returns:
        input_ids, attention_mask (and token_type_ids), start_positions, end_positions; `row`, the place of the
        question in the dataset; and `offsets`, the characters (start, end) of the context that each token stands
        for, [-1, -1] for a token of the question and for special ones.

    Raises:
        ValueError: missing columns, an answer that does not stand where answer_start says, or a question that leaves
            less room than `stride`.
    """
    learns = set(COLUMNS) <= set(dataset.column_names)
    if missing := [name for name in COLUMNS[:2] if name not in dataset.column_names]:
        raise ValueError(
            f"dataset has no column {', '.join(missing)}; it has {', '.join(dataset.column_names) or 'none'}"
        )
    if not tokenizer.is_fast:
        raise ValueError("tokenizer must be a fast one: a slow one does not say which characters a token stands for")

    def tokenize(batch: dict[str, list], rows: list[int]) -> dict[str, list]:
        nothing = [""] * len(batch["question"])
        alone = encode_text(tokenizer, batch["question"], nothing, verbose=False)  # with all special tokens
        longest = max(map(len, alone["input_ids"]))
        if longest + stride >= max_length:
            raise ValueError(
                f"max_length ({max_length}) must be larger than stride ({stride}) and the longest question ({longest}"
                " ids) together, or windows do not move on"
            )
        encoded = encode_text(
            tokenizer,
            batch["question"],
            batch["context"],
            truncation="only_second",
            max_length=max_length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        kept = ("input_ids", "attention_mask", "token_type_ids")
        out: dict[str, list] = {name: encoded[name] for name in kept if name in encoded}
        out |= {"row": [], "offsets": [], "start_positions": [], "end_positions": [], "inside_tokens": []}
        for window, place in enumerate(encoded["overflow_to_sample_mapping"]):
            sides = encoded.sequence_ids(window)
            offsets = [
                list(span) if side == 1 else [-1, -1]
                for span, side in zip(encoded["offset_mapping"][window], sides, strict=True)
            ]
            start, end, inside_tokens = 0, 0, False
            if learns:
                begin, answer = batch["answer_start"][place], batch["answer"][place]
                if batch["context"][place][begin : begin + len(answer)] != answer:
                    raise ValueError(
                        f"row {rows[place]}: the answer {answer!r} does not stand at character {begin} of its context"
                    )
                start, end = token_span(offsets, begin, begin + len(answer))
                whole = batch["context"][place][offsets[start][0] : offsets[end][1]]
                inside_tokens = end > 0 and whole.strip() != answer.strip()
            for name, value in (
                *(("row", rows[place]), ("offsets", offsets)),
                *(("start_positions", start), ("end_positions", end), ("inside_tokens", inside_tokens)),
            ):
                out[name].append(value)
        if not learns:
            del out["start_positions"], out["end_positions"]
        return out

    rows = dataset.map(tokenize, batched=True, with_indices=True, remove_columns=dataset.column_names)
    if apart := {row for row, wrong in zip(rows["row"], rows["inside_tokens"], strict=True) if wrong}:
        logger.warning(
            "%d of %d answers do not begin and end at token boundaries: what is found will have more around them."
            " A tokenizer of smaller pieces (a lower vocab_size) helps",
            *(len(apart), len(dataset)),
        )
    return rows.remove_columns("inside_tokens")


def token_span(offsets: Sequence[Sequence[int]], begin: int, end: int) -> tuple[int, int]:
    """Return the first and the last token of the characters begin to end; (0, 0) if they are none or not all there.

    With the offsets [[-1, -1], [0, 3], [4, 6], [6, 9], [-1, -1]], the characters 4 to 9 are the tokens (2, 3).
    """
    inside = [place for place, (left, right) in enumerate(offsets) if left >= 0 and right > begin and left < end]
    if begin == end or not inside or offsets[inside[0]][0] > begin or offsets[inside[-1]][1] < end:
        return 0, 0
    return inside[0], inside[-1]


@dataclass(frozen=True)
class Window:
    """What a model says of a part of a context, padding left out.

    Args:
        spans: for each token the characters (start, end) of the context that an answer from it or to it has; None for
            tokens that no answer may hold, of the question and special ones.
        starts: (T,) logits of each token as the first of the answer, as ends for the last.
    """

    spans: Sequence[tuple[int, int] | None]
    starts: np.ndarray
    ends: np.ndarray


def find_answers(
    context: str, windows: Iterable[Window], top_k: int = 1, max_answer_len: int = 15
) -> tuple[list[dict[str, Any]], float]:
    """Return the best answers from all windows of a context, best first, and the probability that there is none.

    Pipeline and recipe both choose here. In each window the logits of first and last tokens become probabilities, over
    the tokens of the context and the first token, which stands for no answer. Answers that read alike add up; of the
    probabilities of no answer the least of all windows counts, since any of them may hold one.

    Args:
        context: the text.
        windows: all that it came in.
        top_k: answers wanted.
        max_answer_len: tokens of an answer, at most.

    Returns:
        {"score", "start", "end", "answer"} of each: probability, the characters where it begins and ends, its text.
    """
    answers: dict[str, dict[str, Any]] = {}
    nothing = 1.0
    for window in windows:
        inside = np.array([span is not None and span[0] < span[1] for span in window.spans])
        starts, ends = (_log_probabilities(logits, inside) for logits in (window.starts, window.ends))
        nothing = min(nothing, float(np.exp(starts[0] + ends[0])))
        # more than top_k, as several may read alike
        for first, last, score in best_spans(starts, ends, inside, top_k * 2 + 10, max_answer_len):  # type: ignore[arg-type]
            begin, end = without_spaces(context, window.spans[first][0], window.spans[last][1])  # type: ignore[index]
            if text := context[begin:end]:
                row = {"score": 0.0, "start": begin, "end": end, "answer": text}
                answers.setdefault(text.lower(), row)["score"] += float(np.exp(score))
    return sorted(answers.values(), key=lambda answer: -answer["score"])[:top_k], nothing


def margin_of_none(answers: Sequence[dict[str, Any]], nothing: float) -> float:
    """Return by how much no answer exceeds the best one, as a difference of log-probabilities."""
    if not answers:
        return math.inf
    least = np.finfo(float).tiny
    return math.log(max(nothing, least)) - math.log(max(answers[0]["score"], least))


def best_threshold(margins: Sequence[float], gains: Sequence[float]) -> float:
    """Return the threshold for `margin_of_none` above which saying that there is no answer scores best.

    Of thresholds that score alike, that nearest to 0 is taken.

    Args:
        margins: of each question.
        gains: what its score rises by (falls, where negative) if its answer is none instead of the best one found.

    Reference: Rajpurkar, Jia and Liang (2018), arXiv:1806.03822, section 5.1.
    """
    order = sorted((margin for margin in set(margins) if math.isfinite(margin)), reverse=True)
    if not order:
        return 0.0
    between = [(one + two) / 2 for one, two in zip(order, order[1:], strict=False)]
    candidates = sorted([0.0, order[0] + 1, *between, order[-1] - 1], key=abs)
    margins_, gains_ = np.array(margins), np.array(gains)
    by_margin = np.argsort(-margins_, kind="stable")
    totals = np.concatenate([[0.0], np.cumsum(gains_[by_margin])])  # of the first n, those with the largest margins
    counts = [int(np.searchsorted(-margins_[by_margin], -candidate, side="left")) for candidate in candidates]
    return float(candidates[int(np.argmax([round(totals[count], 9) for count in counts]))])


def _log_probabilities(logits: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the logarithms of the probabilities (T,) of the tokens of the context, and of the first: no answer."""
    logits = np.where(inside | (np.arange(len(inside)) == 0), logits.astype(np.float64), -10000.0)
    logits = logits - logits.max()
    return logits - np.log(np.exp(logits).sum())


def best_spans(
    starts: np.ndarray, ends: np.ndarray, inside: Sequence[bool], n_best: int, max_length: int
) -> list[tuple[int, int, float]]:
    """Return the n best (first token, last token, score) of a window, best first; the score adds up two.

    Args:
        starts: (T,) score of each token as the first, as ends for the last.
        inside: (T,) whether an answer may begin or end at the token.
        n_best: at most so many.
        max_length: tokens of an answer, at most.
    """
    places = np.arange(len(starts))
    allowed = np.logical_and.outer(inside, inside)
    allowed &= (places[None, :] >= places[:, None]) & (places[None, :] < places[:, None] + max_length)
    scores = np.where(allowed, starts[:, None] + ends[None, :], -np.inf)
    best = np.argsort(-scores, axis=None, kind="stable")[: min(n_best, allowed.sum())]
    return [(*divmod(int(flat), len(starts)), float(scores.flat[flat])) for flat in best]


def without_spaces(text: str, begin: int, end: int) -> tuple[int, int]:
    """Return the characters begin to end of a text without the white space around them: some tokens start with it."""
    part = text[begin:end]
    return begin + len(part) - len(part.lstrip()), max(begin, end - len(part) + len(part.rstrip()))
