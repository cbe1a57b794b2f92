"""Fill in the middle: a causal model learns to write what stands between a beginning and an end."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .causal_lm import CausalLMCollator

TOKENS = ("<fim_prefix>", "<fim_middle>", "<fim_suffix>")


def rearrange(ids: list[int], cuts: tuple[int, int], order: str, prefix: int, middle: int, suffix: int) -> list[int]:
    """Move the middle, between the two cuts, to the end.

    With the tokens prefix 97, middle 98, suffix 99, the text [1, 2, 3, 4, 5] and the cuts (1, 3) become

        psm    [97, 1, 99, 4, 5, 98, 2, 3]      prefix, suffix, middle
        spm    [97, 99, 4, 5, 98, 1, 2, 3]      suffix, then prefix and middle in one

    Reference: Bavarian et al. (2022), arXiv:2207.14255, section 3 and appendix D (spm as its variant 2, which shares
    the first token with psm).
    """
    first, second = cuts
    before, between, after = ids[:first], ids[first:second], ids[second:]
    if order == "psm":
        return [prefix, *before, suffix, *after, middle, *between]
    return [prefix, suffix, *after, middle, *before, *between]


@dataclass
class FillInTheMiddleCollator:
    """Rearrange some of the texts in each batch, leave the others as they are, and learn all of it causally.

    An end token stays at the end: it says that the middle is complete. Of short texts (fewer than 3 tokens) nothing
    is moved. Packed rows (`lengths`) are rearranged text by text; a rearranged text has three tokens more, so pack to
    3 less a text than the model takes.

    Args:
        tokenizer: with the special tokens <fim_prefix>, <fim_middle> and <fim_suffix>.
        fim_prob: share of the texts that are rearranged, 0 to 1; the paper's 0.5 costs the causal task nothing.
        spm_prob: share of these in the order suffix, prefix, middle; the others are prefix, suffix, middle.
        pad_to_multiple_of: lengths to round up to.
        generator: of the draws. None: torch's global one, whose state a checkpoint of Trainer keeps.

    Raises:
        ValueError: tokens that the tokenizer lacks, or a probability outside 0 to 1.
    """

    tokenizer: PreTrainedTokenizerBase
    fim_prob: float = 0.5
    spm_prob: float = 0.5
    pad_to_multiple_of: int | None = None
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        vocabulary = self.tokenizer.get_vocab()
        if missing := [token for token in TOKENS if token not in vocabulary]:
            raise ValueError(f"tokenizer lacks {', '.join(missing)}; filling in the middle needs {', '.join(TOKENS)}")
        for name in ("fim_prob", "spm_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        self._tokens = tuple(vocabulary[token] for token in TOKENS)
        self._collate = CausalLMCollator(self.tokenizer.pad_token_id, self.pad_to_multiple_of)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        if not examples:
            raise ValueError("examples is empty; a batch needs at least one")
        return self._collate([self._move(example) for example in examples])

    def _move(self, example: dict[str, Any]) -> dict[str, Any]:
        ids, texts, start = list(example["input_ids"]), [], 0
        for length in example.get("lengths") or [len(ids)]:
            texts.append(self._draw(ids[start : start + length]))
            start += length
        return {"input_ids": [token for text in texts for token in text], "lengths": [len(text) for text in texts]}

    def _draw(self, ids: list[int]) -> list[int]:
        moved, order = torch.rand(2, generator=self.generator).tolist()
        ends = ids[-1:] == [self.tokenizer.eos_token_id]
        ids, end = (ids[:-1], ids[-1:]) if ends else (ids, [])
        if moved >= self.fim_prob or len(ids) < 3:
            return [*ids, *end]
        first, second = torch.randint(0, len(ids) + 1, (2,), generator=self.generator).sort().values.tolist()
        prefix, middle, suffix = self._tokens
        kind = "spm" if order < self.spm_prob else "psm"
        return [*rearrange(ids, (first, second), kind, prefix, middle, suffix), *end]
