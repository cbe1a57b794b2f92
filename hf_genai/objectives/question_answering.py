"""Extractive question answering: predict the span of a text that answers a question."""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value
from transformers import PreTrainedTokenizerBase

from ..data.plain_text import MODEL_INPUTS, encode_text

logger = logging.getLogger(__name__)

COLUMNS = ("question", "context", "answer", "answer_start")

# Maximum number of tokens in an answer that the recipe predicts; saved in the trained model's config.
LONGEST_ANSWER = 40


def from_squad(dataset: Dataset) -> Dataset:
    """Replace SQuAD's column `answers` by the columns `answer`, `answer_start` and `reference_answers`.

    `answers` holds {"text": [...], "answer_start": [...]} or a list of {"text": ..., "answer_start": ...}. The first
    answer of a question is learned; predictions are compared with all of its answers. A question without an answer
    (SQuAD 2) gets the answer "" at character 0. A dataset without `answers` is returned unchanged.

    Reference: Rajpurkar et al. (2016), arXiv:1606.05250; (2018), arXiv:1806.03822.
    """
    if "answers" not in dataset.column_names or "answer" in dataset.column_names:
        return dataset

    def pairs(answers: Any) -> list[tuple[str, int]]:
        if isinstance(answers, list):
            return [(answer["text"], answer["answer_start"]) for answer in answers]
        return list(zip(*((answers or {}).get(name) or () for name in ("text", "answer_start")), strict=False))

    def columns(batch: dict[str, list]) -> dict[str, list]:
        answers_of_rows = [pairs(answers) or [("", 0)] for answers in batch["answers"]]
        return {
            "answer": [answers[0][0] for answers in answers_of_rows],
            "answer_start": [answers[0][1] for answers in answers_of_rows],
            "reference_answers": [[text for text, _ in answers] for answers in answers_of_rows],
        }

    return dataset.map(columns, batched=True, remove_columns="answers")


def unanswered_as_empty(dataset: Dataset, location_of: Callable[[int], str] = "row {}".format) -> Dataset:
    """Give every question without an answer the answer "" at character 0.

    Such a question may have a missing or empty answer, and an answer_start that is missing, 0 or -1.

    Args:
        location_of: returns the location of a row (file and line) for the error message.

    Raises:
        ValueError: a row without an answer that has an answer_start.
    """
    dtypes = {name: getattr(dataset.features[name], "dtype", "") for name in COLUMNS[2:]}
    if dtypes["answer"] not in ("string", "large_string", "null"):  # the caller reports wrong types
        return dataset
    start_type = Value("int64") if dtypes["answer_start"] in ("null", "float64") else dataset.features["answer_start"]

    def normalize(batch: dict[str, list], rows: list[int]) -> dict[str, list]:
        starts = []
        for row, answer, start in zip(rows, batch["answer"], batch["answer_start"], strict=True):
            if not answer:
                if start is not None and str(start).strip() not in ("", "0", "0.0", "-1", "-1.0", "nan"):
                    raise ValueError(f"{location_of(row)}: no answer, but answer_start {start}: give both or neither")
                start = "0" if isinstance(start, str) or dtypes["answer_start"].endswith("string") else 0
            starts.append(int(start) if isinstance(start, float) and start.is_integer() else start)
        return {"answer": [answer or "" for answer in batch["answer"]], "answer_start": starts}

    features = Features({**dataset.features, "answer": Value("string"), "answer_start": start_type})
    return dataset.map(normalize, batched=True, with_indices=True, features=features)


def tokenize_questions(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = 384, stride: int = 128
) -> Dataset:
    """Tokenize questions and contexts into windows with the positions of the answer's first and last token.

    A long context is split into several windows; consecutive windows share `stride` tokens of the context. In a window
    without the answer, and for a question without an answer (answer ""), both positions are 0, the first token. A
    warning counts the answers that start or end inside a token: a model can only predict them with extra characters.

    Args:
        dataset: has the columns question, context, answer and answer_start (a character index in the context). answer
            and answer_start may be missing for prediction.
        tokenizer: a fast tokenizer, which returns character offsets.
        max_length: number of ids in a window, question and special tokens included.
        stride: number of context ids that consecutive windows share.

    Returns:
        A dataset with a row for each window: input_ids, attention_mask (and token_type_ids), start_positions,
        end_positions, `row` (index of the question in the dataset) and `offsets` (for each token the start and end
        character in the context; [-1, -1] for tokens of the question and special tokens).

    Raises:
        ValueError: missing columns, an answer that differs from the context at answer_start, or a question that
            leaves less room than `stride`.
    """
    has_answers = set(COLUMNS) <= set(dataset.column_names)
    if missing := [name for name in COLUMNS[:2] if name not in dataset.column_names]:
        raise ValueError(
            f"dataset has no column {', '.join(missing)}; it has {', '.join(dataset.column_names) or 'none'}"
        )
    if not tokenizer.is_fast:
        raise ValueError("tokenizer must be a fast one, not a slow one, which does not return character offsets")

    def tokenize(batch: dict[str, list], rows: list[int]) -> dict[str, list]:
        empty_contexts = [""] * len(batch["question"])
        questions = encode_text(tokenizer, batch["question"], empty_contexts, verbose=False)  # with special tokens
        longest = max(map(len, questions["input_ids"]))
        if longest + stride >= max_length:
            raise ValueError(
                f"max_length ({max_length}) must be larger than stride ({stride}) plus the longest question"
                f" ({longest} ids), so that each window holds new context"
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
        columns: dict[str, list] = {name: encoded[name] for name in MODEL_INPUTS if name in encoded}
        windows = []
        for window, index in enumerate(encoded["overflow_to_sample_mapping"]):
            sequence_ids = encoded.sequence_ids(window)
            offsets = [
                list(span) if sequence_id == 1 else [-1, -1]
                for span, sequence_id in zip(encoded["offset_mapping"][window], sequence_ids, strict=True)
            ]
            start, end, inside_tokens = 0, 0, False
            if has_answers:
                begin, answer = batch["answer_start"][index], batch["answer"][index]
                if batch["context"][index][begin : begin + len(answer)] != answer:
                    raise ValueError(
                        f"row {rows[index]}: the answer {answer!r} does not stand at character {begin} of its context"
                    )
                start, end = token_span(offsets, begin, begin + len(answer))
                span_text = batch["context"][index][offsets[start][0] : offsets[end][1]]
                inside_tokens = end > 0 and span_text.strip() != answer.strip()
            windows.append((rows[index], offsets, start, end, inside_tokens))
        names = ("row", "offsets", "start_positions", "end_positions", "inside_tokens")
        columns |= {name: list(values) for name, values in zip(names, zip(*windows, strict=True), strict=True)}
        if not has_answers:
            del columns["start_positions"], columns["end_positions"]
        return columns

    rows = dataset.map(tokenize, batched=True, with_indices=True, remove_columns=dataset.column_names)
    if misaligned := {row for row, inside in zip(rows["row"], rows["inside_tokens"], strict=True) if inside}:
        logger.warning(
            "%d of %d answers do not begin and end at token boundaries: predictions will contain extra characters."
            " A tokenizer with smaller tokens (a lower vocab_size) helps",
            len(misaligned),
            len(dataset),
        )
    return rows.remove_columns("inside_tokens")


def token_span(offsets: Sequence[Sequence[int]], begin: int, end: int) -> tuple[int, int]:
    """Return the positions of the first and last token of the characters begin to end.

    The result is (0, 0) for an empty span and for a span that the offsets do not cover. With the offsets
    [[-1, -1], [0, 3], [4, 6], [6, 9], [-1, -1]], the characters 4 to 9 are the tokens (2, 3).
    """
    inside = [position for position, (left, right) in enumerate(offsets) if left >= 0 and right > begin and left < end]
    if begin == end or not inside or offsets[inside[0]][0] > begin or offsets[inside[-1]][1] < end:
        return 0, 0
    return inside[0], inside[-1]


@dataclass(frozen=True)
class Window:
    """A model's logits for one window of a context, without padding.

    Args:
        spans: for each token its start and end character in the context; None for tokens that no answer may contain:
            tokens of the question and special tokens.
        starts: (T,) logits of each token as the first token of the answer.
        ends: (T,) logits of each token as the last token of the answer.
    """

    spans: Sequence[tuple[int, int] | None]
    starts: np.ndarray
    ends: np.ndarray


def find_answers(
    context: str, windows: Iterable[Window], top_k: int = 1, max_answer_len: int = 15
) -> tuple[list[dict[str, Any]], float]:
    """Return the best answers from all windows of a context, best first, and the probability of no answer.

    The pipeline and the recipe share this function. In each window a softmax over the tokens of the context and the
    first token, which stands for no answer, turns logits into probabilities. Probabilities of equal answers (ignoring
    case) are summed. The probability of no answer is the minimum over the windows, because any window may hold the
    answer.

    Args:
        context: the text.
        windows: all windows of the context.
        top_k: number of answers to return.
        max_answer_len: maximum number of tokens in an answer.

    Returns:
        A list of {"score", "start", "end", "answer"} (probability, start and end character, text), and the probability
        of no answer.
    """
    answers: dict[str, dict[str, Any]] = {}
    no_answer = 1.0
    for window in windows:
        may_answer = np.array([span is not None and span[0] < span[1] for span in window.spans])
        starts, ends = (_log_probabilities(logits, may_answer) for logits in (window.starts, window.ends))
        no_answer = min(no_answer, float(np.exp(starts[0] + ends[0])))
        # more than top_k, because several may have the same text
        for first, last, score in best_spans(starts, ends, may_answer, top_k * 2 + 10, max_answer_len):  # type: ignore[arg-type]
            begin, end = without_spaces(context, window.spans[first][0], window.spans[last][1])  # type: ignore[index]
            if text := context[begin:end]:
                row = {"score": 0.0, "start": begin, "end": end, "answer": text}
                answers.setdefault(text.lower(), row)["score"] += float(np.exp(score))
    return sorted(answers.values(), key=lambda answer: -answer["score"])[:top_k], no_answer


def margin_of_none(answers: Sequence[dict[str, Any]], nothing: float) -> float:
    """Return the log-probability of no answer minus the log-probability of the best answer."""
    if not answers:
        return math.inf
    least = np.finfo(float).tiny
    return math.log(max(nothing, least)) - math.log(max(answers[0]["score"], least))


def best_threshold(margins: Sequence[float], gains: Sequence[float]) -> float:
    """Return the threshold of `margin_of_none` above which predicting "no answer" gives the best total score.

    Of thresholds with the same score, the threshold nearest to 0 is returned.

    Args:
        margins: `margin_of_none` of each question.
        gains: for each question the score of "no answer" minus the score of the best answer.

    Reference: Rajpurkar, Jia and Liang (2018), arXiv:1806.03822, section 5.1.
    """
    order = sorted((margin for margin in set(margins) if math.isfinite(margin)), reverse=True)
    if not order:
        return 0.0
    midpoints = [(one + two) / 2 for one, two in zip(order, order[1:], strict=False)]
    candidates = sorted([0.0, order[0] + 1, *midpoints, order[-1] - 1], key=abs)
    by_margin = np.argsort(-np.array(margins), kind="stable")
    sorted_margins = np.array(margins)[by_margin]
    totals = np.concatenate([[0.0], np.cumsum(np.array(gains)[by_margin])])  # gain of the n largest margins
    counts = [int(np.searchsorted(-sorted_margins, -candidate, side="left")) for candidate in candidates]
    return float(candidates[int(np.argmax([round(totals[count], 9) for count in counts]))])


def _log_probabilities(logits: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return log-probabilities (T,) over the tokens of the context and the first token, which stands for no answer."""
    logits = np.where(inside | (np.arange(len(inside)) == 0), logits.astype(np.float64), -10000.0)
    logits = logits - logits.max()
    return logits - np.log(np.exp(logits).sum())


def best_spans(
    starts: np.ndarray, ends: np.ndarray, inside: Sequence[bool], n_best: int, max_length: int
) -> list[tuple[int, int, float]]:
    """Return the `n_best` spans (first token, last token, score) of a window, best first.

    Args:
        starts: (T,) score of each token as the first token of an answer.
        ends: (T,) score of each token as the last token of an answer; a span's score is the sum of both.
        inside: (T,) whether an answer may start or end at the token.
        n_best: maximum number of spans.
        max_length: maximum number of tokens in a span.
    """
    positions = np.arange(len(starts))
    allowed = np.logical_and.outer(inside, inside)
    allowed &= (positions[None, :] >= positions[:, None]) & (positions[None, :] < positions[:, None] + max_length)
    scores = np.where(allowed, starts[:, None] + ends[None, :], -np.inf)
    best = np.argsort(-scores, axis=None, kind="stable")[: min(n_best, allowed.sum())]
    return [(*divmod(int(flat), len(starts)), float(scores.flat[flat])) for flat in best]


def without_spaces(text: str, begin: int, end: int) -> tuple[int, int]:
    """Return the span of characters `begin` to `end` without leading and trailing white space."""
    part = text[begin:end]
    return begin + len(part) - len(part.lstrip()), max(begin, end - len(part) + len(part.rstrip()))
