"""Prefix language modelling: a text's beginning is read in both directions, the rest is predicted."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .causal_lm import pad


@dataclass
class PrefixLMCollator:
    """Cut each text at a random place, let all tokens before it see each other, and predict those after it.

    With pad 0 and the cut after two tokens, the text {"input_ids": [5, 6, 7, 8]} becomes

        input_ids         [[5, 6, 7, 8]]
        labels            [[-100, -100, 7, 8]]    the model shifts them
        attention_mask    [[[[1, 1, 0, 0],        (B, 1, T, T), bool: who (row) sees whom (column)
                             [1, 1, 0, 0],
                             [1, 1, 1, 0],
                             [1, 1, 1, 1]]]]
        position_ids      [[0, 1, 2, 3]]

    An example may bring the number of its first tokens that are prefix, as `prefix_length`.

    Reference: Raffel et al. (2020), arXiv:1910.10683, section 3.2.1 (the mask) and 3.1 (the random cut).

    Args:
        pad_token_id: fills up the rows.
        pad_to_multiple_of: lengths to round up to.
        generator: of the draws. None: torch's global one, whose state a checkpoint of Trainer keeps.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None
    generator: torch.Generator | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        if not examples:
            raise ValueError("examples is empty; a batch needs at least one")
        texts = [list(example["input_ids"]) for example in examples]
        prefixes = []
        for place, (text, example) in enumerate(zip(texts, examples, strict=True)):
            if len(text) < 2:
                raise ValueError(f"a text must have at least two tokens, not {len(text)} (example {place})")
            prefix = example.get("prefix_length")
            prefix = int(torch.randint(1, len(text), (), generator=self.generator)) if prefix is None else prefix
            if not 0 < prefix < len(text):
                raise ValueError(
                    f"prefix_length must be from 1 to {len(text) - 1}, so that something is left, not {prefix}"
                )
            prefixes.append(prefix)
        ids = pad(texts, self.pad_token_id, self.pad_to_multiple_of)
        places = torch.arange(ids.shape[1])
        length = torch.tensor([[len(text)] for text in texts])
        prefix = torch.tensor(prefixes).unsqueeze(1)
        labels = torch.where((places >= prefix) & (places < length), ids, -100)
        causal = places.unsqueeze(0) <= places.unsqueeze(1)  # (T, T)
        seen = causal | (places < prefix)[:, None, :]  # (B, T, T)
        return {
            "input_ids": ids,
            "labels": labels,
            "attention_mask": (seen & ((places < length)[:, None, :] | torch.eye(len(places)).bool())).unsqueeze(1),
            "position_ids": places.expand_as(ids).contiguous(),
        }
