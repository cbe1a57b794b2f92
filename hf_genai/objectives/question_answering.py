"""Extractive question answering: where in a text the answer to a question stands."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..data.plain_text import encode_text

logger = logging.getLogger(__name__)

COLUMNS = ("question", "context", "answer", "answer_start")

# Tokens of an answer, at most, where the recipe looks for the best one, and its card asks for one.
LONGEST_ANSWER = 40


def from_squad(dataset: Dataset) -> Dataset:
    """Return rows in the form of SQuAD with columns answer, answer_start and reference_answers in place of answers.

    That is {"text": [...], "answer_start": [...]}, or a list of {"text": ..., "answer_start": ...}: of several answers
    the first is learned, and the texts of all are what an answer is compared with. Questions without an answer (SQuAD
    2) are left out, and counted in a warning. Other rows are returned as they are.

    Reference: Rajpurkar et al. (2016), arXiv:1606.05250; (2018), arXiv:1806.03822.
    """
    if "answers" not in dataset.column_names or "answer" in dataset.column_names:
        return dataset

    def pairs(answers: Any) -> list[tuple[str, int]]:
        if isinstance(answers, list):
            return [(answer["text"], answer["answer_start"]) for answer in answers]
        return list(zip(*((answers or {}).get(name) or () for name in ("text", "answer_start")), strict=False))

    answered = dataset.filter(lambda batch: [bool(pairs(answers)) for answers in batch["answers"]], batched=True)
    if left_out := len(dataset) - len(answered):
        logger.warning("%d of %d questions have no answer, and are left out", left_out, len(dataset))

    def columns(batch: dict[str, list]) -> dict[str, list]:
        found = [pairs(answers) for answers in batch["answers"]]
        return {
            "answer": [answers[0][0] for answers in found],
            "answer_start": [answers[0][1] for answers in found],
            "reference_answers": [[text for text, _ in answers] for answers in found],
        }

    return answered.map(columns, batched=True, remove_columns="answers")


def tokenize_questions(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = 384, stride: int = 128
) -> Dataset:
    """Turn questions with their contexts into windows of `input_ids`, with the answer's first and last token.

    A context that is longer than a window comes in several, each `stride` tokens of context into the one before. In a
    window that does not hold the answer, both positions are 0, the first token.

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
        out |= {"row": [], "offsets": [], "start_positions": [], "end_positions": []}
        for window, place in enumerate(encoded["overflow_to_sample_mapping"]):
            sides = encoded.sequence_ids(window)
            offsets = [
                list(span) if side == 1 else [-1, -1]
                for span, side in zip(encoded["offset_mapping"][window], sides, strict=True)
            ]
            start, end = 0, 0
            if learns:
                begin, answer = batch["answer_start"][place], batch["answer"][place]
                if batch["context"][place][begin : begin + len(answer)] != answer:
                    raise ValueError(
                        f"row {rows[place]}: the answer {answer!r} does not stand at character {begin} of its context"
                    )
                start, end = token_span(offsets, begin, begin + len(answer))
            for name, value in (
                *(("row", rows[place]), ("offsets", offsets)),
                *(("start_positions", start), ("end_positions", end)),
            ):
                out[name].append(value)
        if not learns:
            del out["start_positions"], out["end_positions"]
        return out

    return dataset.map(tokenize, batched=True, with_indices=True, remove_columns=dataset.column_names)


def token_span(offsets: Sequence[Sequence[int]], begin: int, end: int) -> tuple[int, int]:
    """Return the first and the last token of the characters begin to end; (0, 0) if they are none or not all there.

    With the offsets [[-1, -1], [0, 3], [4, 6], [6, 9], [-1, -1]], the characters 4 to 9 are the tokens (2, 3).
    """
    inside = [place for place, (left, right) in enumerate(offsets) if left >= 0 and right > begin and left < end]
    if begin == end or not inside or offsets[inside[0]][0] > begin or offsets[inside[-1]][1] < end:
        return 0, 0
    return inside[0], inside[-1]


@dataclass(frozen=True)
class Answer:
    """A stretch of the context, its first character, and its score: the two logits added up."""

    text: str
    start: int
    score: float


def best_answers(
    contexts: Sequence[str],
    windows: Dataset,
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    n_best: int = 20,
    max_answer_length: int = 30,
) -> list[list[Answer]]:
    """Return the n best answers to each question, best first, from all its windows.

    An answer begins and ends in the context, in this order, and is at most `max_answer_length` tokens long.

    Args:
        contexts: of the questions, in the order of the dataset that was tokenized.
        windows: what `tokenize_questions` returned.
        start_logits: (W, T) for W windows, as end_logits.
    """
    answers: list[dict[tuple[int, int], Answer]] = [{} for _ in contexts]
    for row, offsets, starts, ends in zip(windows["row"], windows["offsets"], start_logits, end_logits, strict=True):
        inside = [left >= 0 and right > left for left, right in offsets]
        length = len(offsets)  # windows come padded
        for first, last, score in best_spans(starts[:length], ends[:length], inside, n_best, max_answer_length):
            begin, end = without_spaces(contexts[row], offsets[first][0], offsets[last][1])
            answer = Answer(contexts[row][begin:end], begin, score)
            if begin < end and ((begin, end) not in answers[row] or answers[row][begin, end].score < score):
                answers[row][begin, end] = answer
    return [sorted(found.values(), key=lambda answer: -answer.score)[:n_best] for found in answers]


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
