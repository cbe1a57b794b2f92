"""Masked language modelling: the words that were taken out of a text."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .causal_lm import pad, starts_over


@dataclass
class MaskedLMCollator:
    """Choose tokens at random, and hide most of them.

    Of the chosen ones 80 % become the mask token, 10 % a random token, 10 % stay; the labels are the chosen tokens.
    With pad 0, mask 4, and the second token chosen and masked, the text

        {"input_ids": [5, 6, 7], "special_tokens_mask": [0, 0, 1]}

    becomes

        input_ids         [[5, 4, 7]]
        attention_mask    [[1, 1, 1]]        of packed rows, with `lengths`: position_ids [[0, 1, 2]] instead
        labels            [[-100, 6, -100]]

    Each batch is drawn anew. One in which chance chose nothing has the loss 0.

    Reference: Devlin et al. (2019), arXiv:1810.04805, section 3.1 and appendix A.1; whole words: the note of May 2019
    in its published code.

    Args:
        tokenizer: with a mask token.
        mask_prob: share of the tokens that are chosen, 0 to 1.
        replace_prob: share of the chosen ones that become the mask token.
        random_prob: share of the chosen ones that become a random token.
        whole_words: choose all tokens of a word together. Examples then need `word_ids` (a number for each token,
            equal within a word, -1 for special tokens), which `word_ids` here makes.
        pad_to_multiple_of: lengths to round up to.
        generator: of the draws. None: torch's global one, whose state a checkpoint of Trainer keeps.

    Raises:
        ValueError: a tokenizer without mask token, or probabilities that are none.
    """

    tokenizer: PreTrainedTokenizerBase
    mask_prob: float = 0.15
    replace_prob: float = 0.8
    random_prob: float = 0.1
    whole_words: bool = False
    pad_to_multiple_of: int | None = None
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.tokenizer.mask_token_id is None:
            raise ValueError("tokenizer has no mask token; masked language modelling needs one")
        if not 0 < self.mask_prob <= 1:
            raise ValueError(f"mask_prob must be above 0 and at most 1, not {self.mask_prob}")
        if min(self.replace_prob, self.random_prob) < 0 or self.replace_prob + self.random_prob > 1:
            raise ValueError(
                "replace_prob and random_prob must be at least 0 and at most 1 together, not"
                f" {self.replace_prob} and {self.random_prob}"
            )
        self._special = torch.tensor(sorted(set(self.tokenizer.all_special_ids)))
        ordinary = torch.arange(len(self.tokenizer))
        self._ordinary = ordinary[~torch.isin(ordinary, self._special)]

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        if not examples:
            raise ValueError("examples is empty; a batch needs at least one")
        pad_id, multiple = self.tokenizer.pad_token_id, self.pad_to_multiple_of
        ids = pad([list(example["input_ids"]) for example in examples], pad_id, multiple)
        real = torch.arange(ids.shape[1]) < torch.tensor([[len(example["input_ids"])] for example in examples])
        eligible = real & ~torch.isin(ids, self._special)
        if all("special_tokens_mask" in example for example in examples):
            special = pad([list(example["special_tokens_mask"]) for example in examples], 1, multiple)
            eligible = real & (special == 0)
        chosen = self._choose_words(examples, eligible) if self.whole_words else self._choose(eligible)
        labels = torch.where(chosen, ids, -100)
        draw = torch.rand(ids.shape, generator=self.generator)
        masked = chosen & (draw < self.replace_prob)
        random = chosen & (draw >= self.replace_prob) & (draw < self.replace_prob + self.random_prob)
        ids = torch.where(masked, self.tokenizer.mask_token_id, ids)
        others = self._ordinary[torch.randint(len(self._ordinary), ids.shape, generator=self.generator)]
        batch = {"input_ids": torch.where(random, others, ids), "labels": labels}
        if any("lengths" in example for example in examples):
            lengths = [example.get("lengths") or [len(example["input_ids"])] for example in examples]
            filled = [[*own, ids.shape[1] - sum(own)] for own in lengths]
            batch["position_ids"] = pad([starts_over(own) for own in filled], 0)
        else:
            batch["attention_mask"] = real.long()
        return batch

    def _choose(self, eligible: Tensor) -> Tensor:
        return eligible & (torch.rand(eligible.shape, generator=self.generator) < self.mask_prob)

    def _choose_words(self, examples: list[dict[str, Any]], eligible: Tensor) -> Tensor:
        if missing := [place for place, example in enumerate(examples) if "word_ids" not in example]:
            raise ValueError(f"whole_words=True needs word_ids in each example; example {missing[0]} has none")
        words = pad([list(example["word_ids"]) for example in examples], -1)
        words = torch.nn.functional.pad(words, (0, eligible.shape[1] - words.shape[1]), value=-1)
        draw = torch.rand(len(words), int(words.max()) + 2, generator=self.generator)
        return eligible & (words >= 0) & (draw.gather(1, words.clamp(min=0)) < self.mask_prob)


def word_ids(encoding: Any, row: int = 0) -> list[int]:
    """Return the word of each token of a fast tokenizer's encoding, -1 for special tokens."""
    return [-1 if word is None else word for word in encoding.word_ids(row)]
