"""Greedy search, sampling and beam search over `Steps`, deciding as transformers' own do.

Shapes: B sentences, W beams, N = B * W rows, V vocabulary, L longest text.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .steps import Steps

# Rows that have ended are taken out of the batch when they are this share of it: taking them out copies the others.
FINISHED_SHARE = 0.25
UNREACHABLE = -1e9


@dataclass
class Search:
    """What `generate()` asks of a search.

    Args:
        max_length: of a text, prompt included.
        eos_ids: the tokens that end a text (E,), or None.
        pad_id: what fills the rest of a text that has ended; None: such a text goes on until all have ended.
        candidates: continuations of a sentence among which a beam search looks for those that go on.
        process: (ids (N, length), scores (N, V)) -> scores (N, V), or None.
        stop: (ids (N, length), scores) -> bool (N,), for criteria beyond length and end tokens, or None.
        rows_are_free: whether rows may leave the batch once they have ended, since nothing outside counts them.
    """

    max_length: int
    eos_ids: Tensor | None
    pad_id: int | None
    process: Callable[[Any, Any], Tensor] | None = None
    stop: Callable[[Any, Any], Tensor] | None = None
    rows_are_free: bool = True
    do_sample: bool = False
    beams: int = 1
    candidates: int = 2
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    texts_per_sentence: int = 1

    def ends(self, tokens: Tensor, texts: Tensor, length: int) -> Tensor:
        """Return which of the newest tokens (...) of texts (..., L) end them, by themselves or by a further
        criterion."""
        ended = torch.zeros_like(tokens, dtype=torch.bool)
        if self.eos_ids is not None:
            ended = torch.isin(tokens, self.eos_ids)
        if self.stop is None:
            return ended
        return ended | self.stop(texts[..., :length].flatten(0, -2), None).view_as(ended)


def chunk_size(length: int) -> int | None:
    """Return a divisor of `length` from 16 to 256, or None."""
    return next((size for size in (64, *range(63, 15, -1), *range(65, 257)) if length % size == 0), None)


def best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k best of each row of scores (N, V), from the best on, and their places: (N, k) each.

    The k best are in the k chunks whose best are best, so `topk` has to sort little. torch compares whole chunks with
    vector instructions, which it does neither in `argmax` nor in `topk`.
    """
    size = chunk_size(scores.shape[1])
    if size is None or scores.shape[1] < 1024 or k * 2 > scores.shape[1] // size or scores.device.type != "cpu":
        return scores.topk(k)
    chunks = scores.view(len(scores), -1, size)
    chosen = chunks.amax(2).topk(k).indices.sort().values if k > 1 else chunks.amax(2).argmax(1, keepdim=True)
    inside = chunks.gather(1, chosen.unsqueeze(2).expand(-1, -1, size)).flatten(1)  # (N, k * size)
    if k == 1:
        place = inside.argmax(1, keepdim=True)
        return inside.gather(1, place), chosen * size + place
    values, places = inside.topk(k)
    return values, chosen.gather(1, places // size) * size + places % size


def search_by_token(steps: Steps, input_ids: Tensor, model_kwargs: dict[str, Any], search: Search) -> Tensor:
    """Take the best next token of each row, or draw one; returns ids (B, length).

    Args:
        input_ids: (B, P).
    """
    batch, length = input_ids.shape
    texts = input_ids.new_full((batch, search.max_length), search.pad_id or 0)
    texts[:, :length] = input_ids
    rows = torch.arange(batch, device=input_ids.device)  # of texts, that are still in the batch
    ended = torch.zeros(batch, dtype=torch.bool, device=input_ids.device)
    current = texts.clone()  # (N, L), those still in the batch
    scores = steps.prefill(input_ids, model_kwargs)
    while True:
        if search.process is not None:
            scores = search.process(current[:, :length], scores)
        if search.do_sample:
            tokens = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)
        else:
            tokens = best(scores, 1)[1].squeeze(1)
        if search.pad_id is not None:
            tokens = tokens.masked_fill(ended, search.pad_id)
        current[:, length] = tokens
        length += 1
        count = 0
        if search.eos_ids is not None or search.stop is not None:
            ended = ended | search.ends(tokens, current, length)
            count = int(ended.sum())
        if length == search.max_length or count == len(ended):
            break
        if search.rows_are_free and count >= FINISHED_SHARE * len(ended):
            texts[rows, :length] = current[:, :length]
            left = (~ended).nonzero().squeeze(1)
            rows, ended, current = rows[left], ended[left], current[left]
            steps.keep(left)
        scores = steps.step(current[:, :length], None)
    texts[rows, :length] = current[:, :length]
    return texts[:, :length]


def pick(values: Tensor, places: Tensor) -> Tensor:
    """Return values (B, W, ...) at places (B, W') of their second dimension."""
    return values.gather(1, places.view(*places.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:]))


@dataclass
class Hypotheses:
    """W texts of each sentence with their scores; what has not come to an end yet has the score `UNREACHABLE`."""

    texts: Tensor  # (B, W, L)
    lengths: Tensor  # (B, W), without the prompt
    scores: Tensor  # (B, W)
    real: Tensor  # bool (B, W)

    def merge(self, other: "Hypotheses") -> "Hypotheses":
        """Return the best W of both."""
        both = [torch.cat(pair, 1) for pair in zip(vars(self).values(), vars(other).values(), strict=True)]
        places = both[2].topk(self.scores.shape[1]).indices
        return Hypotheses(*(pick(value, places) for value in both))

    def rows(self, sentences: Tensor) -> "Hypotheses":
        return Hypotheses(*(value[sentences] for value in vars(self).values()))

    def put(self, sentences: Tensor, other: "Hypotheses") -> None:
        for mine, new in zip(vars(self).values(), vars(other).values(), strict=True):
            mine[sentences] = new


def search_by_beams(
    steps: Steps, input_ids: Tensor, model_kwargs: dict[str, Any], search: Search
) -> tuple[Tensor, Tensor]:
    """Keep the W best beginnings of each sentence; returns ids (B * texts_per_sentence, length) and their scores.

    Candidates that end a text leave the beam if they are among the best W; as many others as it takes to go on with W
    are kept beside them. Scores are sums of log-probabilities, divided by length ** length_penalty once a text ends.

    Args:
        input_ids: (B * W, P), the prompts, each W times.
    """
    width, prompt = search.beams, input_ids.shape[1]
    batch = len(input_ids) // width
    assert search.pad_id is not None
    texts = input_ids.new_full((batch, width, search.max_length), search.pad_id)
    texts[:, :, :prompt] = input_ids.view(batch, width, prompt)
    scores = texts.new_zeros((batch, width), dtype=torch.float)
    scores[:, 1:] = UNREACHABLE  # at first all beams are the same: go on from one
    nothing = torch.zeros_like(scores, dtype=torch.bool)
    results = Hypotheses(texts.clone(), nothing.long(), torch.full_like(scores, UNREACHABLE), nothing)
    sentences = torch.arange(batch, device=input_ids.device)  # that are still in the batch
    finished, hopeful = results.rows(sentences), ~nothing[:, :1]
    logits = steps.prefill(input_ids, model_kwargs)
    length = prompt
    while True:
        log_probs = torch.log_softmax(logits, dim=-1)
        if search.process is not None:
            log_probs = search.process(texts[:, :, :length].flatten(0, 1), log_probs)
        vocabulary = log_probs.shape[1]
        totals = (log_probs.view(len(texts), width, -1) + scores.unsqueeze(2)).flatten(1)  # (B, W * V)
        totals, places = best(totals, search.candidates)
        parents, tokens = places // vocabulary, places % vocabulary
        texts = pick(texts, parents)
        texts[:, :, length] = tokens
        length += 1
        ends = search.ends(tokens, texts, length)
        if length == search.max_length:
            ends = torch.ones_like(ends)

        full = finished.real.all(1, keepdim=True) & (search.early_stopping is True)
        ending = ends & (torch.arange(search.candidates, device=ends.device) < width)
        penalised = totals / (length - prompt) ** search.length_penalty
        for impossible in (full, ~hopeful, ~ending):
            penalised = penalised + impossible * UNREACHABLE
        lengths = torch.full_like(ending, length - prompt, dtype=torch.long)
        finished = finished.merge(Hypotheses(texts, lengths, penalised, ending))

        totals = totals + ends * UNREACHABLE
        going_on = totals.topk(width).indices
        texts, scores, parents = pick(texts, going_on), pick(totals, going_on), pick(parents, going_on)

        longest = length - prompt
        if search.early_stopping == "never" and search.length_penalty > 0:
            longest = search.max_length - prompt
        worst = finished.scores.amin(1, keepdim=True)
        hopeful = hopeful & (scores[:, :1] / longest**search.length_penalty > worst)
        done = ~hopeful.squeeze(1)
        if search.early_stopping is True:
            done = done | finished.real.all(1)
        count = int(done.sum())
        if count == len(done) or ends.all():
            break
        if search.rows_are_free and count >= FINISHED_SHARE * len(done):
            results.put(sentences, finished)
            left = (~done).nonzero().squeeze(1)
            sentences, finished, hopeful = sentences[left], finished.rows(left), hopeful[left]
            # the parents are places among the present rows: go on from them, then leave
            texts, scores, parents = texts[left], scores[left], parents[left]
            steps.keep(left)
        logits = steps.step(texts[:, :, :length].flatten(0, 1), parents)
    results.put(sentences, finished)
    kept = results.rows(torch.arange(batch, device=input_ids.device))
    count = search.texts_per_sentence
    length = prompt + int(kept.lengths[:, :count].max())
    return kept.texts[:, :count, :length].flatten(0, 1), kept.scores[:, :count].flatten()
