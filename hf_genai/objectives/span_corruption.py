"""Span corruption: runs of tokens are taken out of a text, and written by the decoder."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .causal_lm import pad


def sentinel_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of <extra_id_0>, <extra_id_1>, ... as far as the tokenizer has them.

    Raises:
        ValueError: if it has none.
    """
    vocabulary = tokenizer.get_vocab()
    ids: list[int] = []
    while (token := f"<extra_id_{len(ids)}>") in vocabulary:
        ids.append(vocabulary[token])
    if not ids:
        raise ValueError("tokenizer has no sentinels <extra_id_0>, <extra_id_1>, ...; span corruption needs them")
    return ids


def noise_and_spans(length: int, noise_density: float, mean_span_length: float) -> tuple[int, int]:
    """Return how many tokens of a text are noise, and in how many spans: (15, 5) of 100 with the paper's settings."""
    noise = min(max(round(length * noise_density), 1), length - 1)
    spans = max(round(noise / mean_span_length), 1)
    return noise, min(spans, noise, length - noise)


def lengths_after(length: int, noise_density: float = 0.15, mean_span_length: float = 3.0) -> tuple[int, int]:
    """Return the lengths of input and target, each with its end token, that a text of `length` tokens becomes."""
    noise, spans = noise_and_spans(length, noise_density, mean_span_length)
    return length - noise + spans + 1, noise + spans + 1


def length_before(input_length: int, noise_density: float = 0.15, mean_span_length: float = 3.0) -> int:
    """Return the longest text whose input has at most `input_length` tokens: 568 for the paper's 512.

    Raises:
        ValueError: if not even two tokens fit.
    """
    length = 2
    if lengths_after(length, noise_density, mean_span_length)[0] > input_length:
        raise ValueError(f"input_length must be at least 3 (a token, a sentinel, the end), not {input_length}")
    while lengths_after(length + 1, noise_density, mean_span_length)[0] <= input_length:
        length += 1
    return length


def random_spans(
    length: int, noise_density: float, mean_span_length: float, generator: torch.Generator | None = None
) -> list[int]:
    """Return the lengths of text and noise in turns, text first: [4, 3, 10, 2, ...].

    All ways to cut so many tokens into so many spans are equally likely, of the noise and of the text between.
    """
    noise, spans = noise_and_spans(length, noise_density, mean_span_length)

    def cut(total: int) -> list[int]:
        places = (torch.randperm(total - 1, generator=generator)[: spans - 1] + 1).sort().values.tolist()
        return [end - start for start, end in zip([0, *places], [*places, total], strict=True)]

    return [part for pair in zip(cut(length - noise), cut(noise), strict=True) for part in pair]


def corrupt(ids: list[int], parts: list[int], sentinels: list[int], end: int) -> tuple[list[int], list[int]]:
    """Return input and target of a text that is cut into `parts` (text and noise in turns).

    With sentinels 99, 98, ... and end 1, the text [10, 11, 12, 13, 14, 15] and the parts [2, 1, 1, 2] give

        input     [10, 11, 99, 13, 98, 1]
        target    [99, 12, 98, 14, 15, 1]
    """
    source, target, place = [], [], 0
    for span, (kept, taken) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        source += [*ids[place : place + kept], sentinels[span]]
        place += kept
        target += [sentinels[span], *ids[place : place + taken]]
        place += taken
    return [*source, end], [*target, end]


@dataclass
class SpanCorruptionCollator:
    """Corrupt texts anew in each batch, and pad them.

    With pad 0, end 1, sentinels 99, 98, ... and one span drawn, the text {"input_ids": [10, 11, 12, 13, 1]} becomes,
    for example (`corrupt` shows two spans),

        input_ids         [[10, 11, 99, 1]]
        attention_mask    [[1, 1, 1, 1]]
        labels            [[99, 12, 13, 1]]

    The end token that a text comes with is dropped first, as input and target get their own. A text begins with text
    and ends with noise, as in T5's published code.

    Reference: Raffel et al. (2020), arXiv:1910.10683, sections 3.1.4 and 3.3.4, `random_spans_noise_mask` of the
    published code.

    Args:
        tokenizer: with sentinels <extra_id_0>, <extra_id_1>, ... and an end token.
        noise_density: share of the tokens that are taken out.
        mean_span_length: tokens of a span, on average.
        pad_to_multiple_of: lengths to round up to.
        generator: of the draws. None: torch's global one, whose state a checkpoint of Trainer keeps.

    Raises:
        ValueError: no sentinels, probabilities that are none, a text of fewer than two tokens, or one with more spans
            than sentinels.
    """

    tokenizer: PreTrainedTokenizerBase
    noise_density: float = 0.15
    mean_span_length: float = 3.0
    pad_to_multiple_of: int | None = None
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        self._sentinels = sentinel_ids(self.tokenizer)
        if self.tokenizer.eos_token_id is None:
            raise ValueError("tokenizer has no end token (eos_token)")
        if not 0 < self.noise_density < 1:
            raise ValueError(f"noise_density must be above 0 and below 1, not {self.noise_density}")
        if self.mean_span_length < 1:
            raise ValueError(f"mean_span_length must be at least 1, not {self.mean_span_length}")

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        if not examples:
            raise ValueError("examples is empty; a batch needs at least one")
        end, pairs = self.tokenizer.eos_token_id, []
        for example in examples:
            ids = list(example["input_ids"])
            ids = ids[:-1] if ids[-1:] == [end] else ids
            if len(ids) < 2:
                raise ValueError(f"a text must have at least two tokens besides the end token, not {len(ids)}: {ids}")
            parts = random_spans(len(ids), self.noise_density, self.mean_span_length, self.generator)
            if len(parts) // 2 > len(self._sentinels):
                raise ValueError(
                    f"a text of {len(ids)} tokens has {len(parts) // 2} spans, but the tokenizer only"
                    f" {len(self._sentinels)} sentinels: shorten the texts"
                )
            pairs.append(corrupt(ids, parts, self._sentinels, end))
        sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
        batch = pad(sources, self.tokenizer.pad_token_id, self.pad_to_multiple_of)
        mask = torch.arange(batch.shape[1]) < torch.tensor([[len(source)] for source in sources])
        return {
            "input_ids": batch,
            "attention_mask": mask.long(),
            "labels": pad(targets, -100, self.pad_to_multiple_of),
        }
