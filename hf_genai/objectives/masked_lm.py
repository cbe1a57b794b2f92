"""Masked language modelling: predict the masked tokens of a text."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .causal_lm import packed_positions, pad


@dataclass
class MaskedLMCollator:
    """Select random tokens as labels and replace most of them in the input.

    Of the selected tokens, 80 % become the mask token, 10 % become a random token and 10 % stay unchanged.
    With pad 0, mask 4, and the second token selected and masked, the text

        {"input_ids": [5, 6, 7], "special_tokens_mask": [0, 0, 1]}

    becomes

        input_ids         [[5, 4, 7]]
        attention_mask    [[1, 1, 1]]        packed rows (with `lengths`) have position_ids [[0, 1, 2]] instead
        labels            [[-100, 6, -100]]

    Each call draws new tokens. A batch without a selected token has the loss 0.

    Reference: Devlin et al. (2019), arXiv:1810.04805, section 3.1 and appendix A.1; whole words: the note of May 2019
    in the published code of BERT.

    Args:
        tokenizer: has a mask token.
        mask_prob: share of the tokens that are selected, 0 to 1.
        replace_prob: share of the selected tokens that become the mask token, 0 to 1.
        random_prob: share of the selected tokens that become a random token, 0 to 1.
        whole_words: select all tokens of a word together. Examples then need `word_ids`: the word's index for each
            token, -1 for special tokens; the function `word_ids` below returns them.
        pad_to_multiple_of: round the row length up to a multiple.
        generator: random generator. None: torch's global generator, whose state Trainer's checkpoints contain.

    Raises:
        ValueError: a tokenizer without mask token, or a probability outside 0 to 1.
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
            raise ValueError("tokenizer must have a mask token for masked language modelling, but has no mask token")
        if not 0 < self.mask_prob <= 1:
            raise ValueError(f"mask_prob must be above 0 and at most 1, not {self.mask_prob}")
        if min(self.replace_prob, self.random_prob) < 0 or self.replace_prob + self.random_prob > 1:
            raise ValueError(
                "replace_prob and random_prob must be at least 0 and have a sum of at most 1, not"
                f" {self.replace_prob} and {self.random_prob}"
            )
        self._special = torch.tensor(sorted(set(self.tokenizer.all_special_ids)))
        ordinary = torch.arange(len(self.tokenizer))
        self._ordinary = ordinary[~torch.isin(ordinary, self._special)]

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        if not examples:
            raise ValueError("examples must hold at least one example, not 0")
        pad_id, multiple = self.tokenizer.pad_token_id, self.pad_to_multiple_of
        ids = pad([list(example["input_ids"]) for example in examples], pad_id, multiple)
        is_token = torch.arange(ids.shape[1]) < torch.tensor([[len(example["input_ids"])] for example in examples])
        eligible = is_token & ~torch.isin(ids, self._special)
        if all("special_tokens_mask" in example for example in examples):
            special = pad([list(example["special_tokens_mask"]) for example in examples], 1, multiple)
            eligible = is_token & (special == 0)
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
            lengths_with_padding = [[*text_lengths, ids.shape[1] - sum(text_lengths)] for text_lengths in lengths]
            batch["position_ids"] = pad([packed_positions(text_lengths) for text_lengths in lengths_with_padding], 0)
        else:
            batch["attention_mask"] = is_token.long()
        return batch

    def _choose(self, eligible: Tensor) -> Tensor:
        return eligible & (torch.rand(eligible.shape, generator=self.generator) < self.mask_prob)

    def _choose_words(self, examples: list[dict[str, Any]], eligible: Tensor) -> Tensor:
        if missing := [index for index, example in enumerate(examples) if "word_ids" not in example]:
            raise ValueError(f"whole_words=True needs word_ids in each example; example {missing[0]} has no word_ids")
        words = pad([list(example["word_ids"]) for example in examples], -1)
        words = torch.nn.functional.pad(words, (0, eligible.shape[1] - words.shape[1]), value=-1)
        draw = torch.rand(len(words), int(words.max()) + 2, generator=self.generator)
        return eligible & (words >= 0) & (draw.gather(1, words.clamp(min=0)) < self.mask_prob)


def word_ids(encoding: Any, row: int = 0) -> list[int]:
    """Return the index of the word of each token of a fast tokenizer's encoding, -1 for special tokens."""
    return [-1 if word is None else word for word in encoding.word_ids(row)]
