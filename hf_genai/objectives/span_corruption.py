"""Span corruption: spans of tokens are removed from a text, and the decoder predicts them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .causal_lm import pad


def sentinel_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of the sentinels <extra_id_0>, <extra_id_1>, ... of the tokenizer, in order.

    Raises:
        ValueError: a tokenizer without sentinels.
    """
    vocabulary = tokenizer.get_vocab()
    ids: list[int] = []
    while (token := f"<extra_id_{len(ids)}>") in vocabulary:
        ids.append(vocabulary[token])
    if not ids:
        raise ValueError("tokenizer must have sentinels <extra_id_0>, <extra_id_1>, ..., but has no sentinels")
    return ids


def noise_and_spans(length: int, noise_density: float, mean_span_length: float) -> tuple[int, int]:
    """Return the number of removed tokens and of spans for a text of `length` tokens: (15, 5) for 100 by default."""
    noise = min(max(round(length * noise_density), 1), length - 1)
    spans = max(round(noise / mean_span_length), 1)
    return noise, min(spans, noise, length - noise)


def lengths_after(length: int, noise_density: float = 0.15, mean_span_length: float = 3.0) -> tuple[int, int]:
    """Return the lengths of the input and the target of a text of `length` tokens, end tokens included."""
    noise, spans = noise_and_spans(length, noise_density, mean_span_length)
    return length - noise + spans + 1, noise + spans + 1


def length_before(input_length: int, noise_density: float = 0.15, mean_span_length: float = 3.0) -> int:
    """Return the length of the longest text whose input has at most `input_length` tokens: 568 for the paper's 512.

    Raises:
        ValueError: an input_length below 3, in which no text of two tokens fits.
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
    """Return the alternating lengths of kept and removed spans, starting with a kept span: [4, 3, 10, 2, ...].

    Kept and removed tokens are divided into spans uniformly at random: all divisions have the same probability.
    """
    noise, spans = noise_and_spans(length, noise_density, mean_span_length)

    def cut(total: int) -> list[int]:
        cut_positions = (torch.randperm(total - 1, generator=generator)[: spans - 1] + 1).sort().values.tolist()
        return [end - start for start, end in zip([0, *cut_positions], [*cut_positions, total], strict=True)]

    return [part for pair in zip(cut(length - noise), cut(noise), strict=True) for part in pair]


def corrupt(ids: list[int], parts: list[int], sentinels: list[int], end: int) -> tuple[list[int], list[int]]:
    """Return the input and the target of a text whose kept and removed spans alternate with the lengths `parts`.

    With sentinels 99, 98, ... and end 1, the text [10, 11, 12, 13, 14, 15] and the parts [2, 1, 1, 2] become

        input     [10, 11, 99, 13, 98, 1]
        target    [99, 12, 98, 14, 15, 1]
    """
    source, target, position = [], [], 0
    for span, (kept, taken) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        source += [*ids[position : position + kept], sentinels[span]]
        position += kept
        target += [sentinels[span], *ids[position : position + taken]]
        position += taken
    return [*source, end], [*target, end]


@dataclass
class SpanCorruptionCollator:
    """Corrupt texts and pad them into a batch; each call draws new spans.

    With pad 0, end 1, sentinels 99, 98, ... and one span drawn, the text {"input_ids": [10, 11, 12, 13, 1]} becomes,
    for example (`corrupt` shows two spans),

        input_ids         [[10, 11, 99, 1]]
        attention_mask    [[1, 1, 1, 1]]
        labels            [[99, 12, 13, 1]]

    The end token of a text is removed first, because input and target get end tokens of their own. A text starts with
    a kept span and ends with a removed span, as in T5's published code.

    Reference: Raffel et al. (2020), arXiv:1910.10683, sections 3.1.4 and 3.3.4, `random_spans_noise_mask` of the
    published code.

    Args:
        tokenizer: has sentinels <extra_id_0>, <extra_id_1>, ... and an end token.
        noise_density: share of the tokens that are removed, 0 to 1.
        mean_span_length: average number of tokens in a removed span.
        pad_to_multiple_of: round the row lengths up to a multiple.
        generator: random generator. None: torch's global generator, whose state Trainer's checkpoints contain.

    Raises:
        ValueError: a tokenizer without sentinels or end token, a noise_density or mean_span_length out of range, no
            example, a text of fewer than two tokens, or a text with more spans than sentinels.
    """

    tokenizer: PreTrainedTokenizerBase
    noise_density: float = 0.15
    mean_span_length: float = 3.0
    pad_to_multiple_of: int | None = None
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        self._sentinels = sentinel_ids(self.tokenizer)
        if self.tokenizer.eos_token_id is None:
            raise ValueError("tokenizer must have an end token (eos_token), not None")
        if not 0 < self.noise_density < 1:
            raise ValueError(f"noise_density must be above 0 and below 1, not {self.noise_density}")
        if self.mean_span_length < 1:
            raise ValueError(f"mean_span_length must be at least 1, not {self.mean_span_length}")

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        if not examples:
            raise ValueError("examples must hold at least one example, not 0")
        end, pairs = self.tokenizer.eos_token_id, []
        for example in examples:
            ids = list(example["input_ids"])
            ids = ids[:-1] if ids[-1:] == [end] else ids
            if len(ids) < 2:
                raise ValueError(f"a text must have at least two tokens besides the end token, not {len(ids)}: {ids}")
            parts = random_spans(len(ids), self.noise_density, self.mean_span_length, self.generator)
            if len(parts) // 2 > len(self._sentinels):
                raise ValueError(
                    f"a text of {len(ids)} tokens has {len(parts) // 2} spans, but the tokenizer has only"
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
