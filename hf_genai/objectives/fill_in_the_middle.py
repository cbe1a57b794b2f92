"""Fill in the middle: a causal model learns to predict the text between a prefix and a suffix."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .causal_lm import CausalLMCollator

TOKENS = ("<fim_prefix>", "<fim_middle>", "<fim_suffix>")


def rearrange(ids: list[int], cuts: tuple[int, int], order: str, prefix: int, middle: int, suffix: int) -> list[int]:
    """Move the middle of a text, between the two cut positions, to the end.

    With the tokens prefix 97, middle 98, suffix 99, the text [1, 2, 3, 4, 5] and the cuts (1, 3), the result is

        psm    [97, 1, 99, 4, 5, 98, 2, 3]      prefix, suffix, middle
        spm    [97, 99, 4, 5, 98, 1, 2, 3]      suffix, then prefix and middle without a token between them

    Reference: Bavarian et al. (2022), arXiv:2207.14255, section 3 and appendix D (spm is variant 2, which has the same
    first token as psm).
    """
    first, second = cuts
    before, between, after = ids[:first], ids[first:second], ids[second:]
    if order == "psm":
        return [prefix, *before, suffix, *after, middle, *between]
    return [prefix, suffix, *after, middle, *before, *between]


@dataclass
class FillInTheMiddleCollator:
    """Rearrange a random part of the texts in each batch; all texts are then learned causally.

    The end token stays last and marks the end of the middle. Texts of fewer than 3 tokens are not rearranged. Packed
    rows (`lengths`) are rearranged text by text. A rearranged text has three more tokens, so the packed row length
    must leave room for 3 tokens per text.

    Args:
        tokenizer: has the special tokens <fim_prefix>, <fim_middle> and <fim_suffix>.
        fim_prob: share of the texts that are rearranged, 0 to 1. The paper's 0.5 does not harm the causal loss.
        spm_prob: share of the rearranged texts in the order suffix, prefix, middle; the others are in the order
            prefix, suffix, middle.
        pad_to_multiple_of: round the row length up to a multiple.
        generator: random generator. None: torch's global generator, whose state Trainer's checkpoints contain.

    Raises:
        ValueError: a token that the tokenizer lacks, a probability outside 0 to 1, or no example.
    """

    tokenizer: PreTrainedTokenizerBase
    fim_prob: float = 0.5
    spm_prob: float = 0.5
    pad_to_multiple_of: int | None = None
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        vocabulary = self.tokenizer.get_vocab()
        if missing := [token for token in TOKENS if token not in vocabulary]:
            raise ValueError(f"tokenizer must have the tokens {', '.join(TOKENS)}, but lacks {', '.join(missing)}")
        for name in ("fim_prob", "spm_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        self._tokens = tuple(vocabulary[token] for token in TOKENS)
        self._collate = CausalLMCollator(self.tokenizer.pad_token_id, self.pad_to_multiple_of)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        if not examples:
            raise ValueError("examples must hold at least one example, not 0")
        return self._collate([self._move(example) for example in examples])

    def _move(self, example: dict[str, Any]) -> dict[str, Any]:
        ids, texts, begin = list(example["input_ids"]), [], 0
        for length in example.get("lengths") or [len(ids)]:
            texts.append(self._draw(ids[begin : begin + length]))
            begin += length
        return {"input_ids": [token for text in texts for token in text], "lengths": [len(text) for text in texts]}

    def _draw(self, ids: list[int]) -> list[int]:
        rearrange_draw, order_draw = torch.rand(2, generator=self.generator).tolist()
        has_end = ids[-1:] == [self.tokenizer.eos_token_id]
        ids, end = (ids[:-1], ids[-1:]) if has_end else (ids, [])
        if rearrange_draw >= self.fim_prob or len(ids) < 3:
            return [*ids, *end]
        first, second = torch.randint(0, len(ids) + 1, (2,), generator=self.generator).sort().values.tolist()
        prefix, middle, suffix = self._tokens
        order = "spm" if order_draw < self.spm_prob else "psm"
        rearranged = rearrange(ids, (first, second), order=order, prefix=prefix, middle=middle, suffix=suffix)
        return [*rearranged, *end]
