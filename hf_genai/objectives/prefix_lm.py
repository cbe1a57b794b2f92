"""Prefix language modelling: the prefix of a text has bidirectional attention, the rest is predicted."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .causal_lm import pad


@dataclass
class PrefixLMCollator:
    """Split each text at a random position into a prefix with bidirectional attention and tokens to predict.

    With pad 0 and a prefix of two tokens, the text {"input_ids": [5, 6, 7, 8]} becomes

        input_ids         [[5, 6, 7, 8]]
        labels            [[-100, -100, 7, 8]]    the model shifts them
        attention_mask    [[[[1, 1, 0, 0],        (B, 1, T, T), bool: which query (row) attends to which key (column)
                             [1, 1, 0, 0],
                             [1, 1, 1, 0],
                             [1, 1, 1, 1]]]]
        position_ids      [[0, 1, 2, 3]]

    An example may set the number of tokens in its prefix as `prefix_length`.

    Reference: Raffel et al. (2020), arXiv:1910.10683, section 3.2.1 (mask) and 3.1 (random prefix length).

    Args:
        pad_token_id: id of the padding.
        pad_to_multiple_of: round the row length up to a multiple.
        generator: random generator. None: torch's global generator, whose state Trainer's checkpoints contain.

    Raises:
        ValueError: no example, a text of fewer than two tokens, or a prefix_length that leaves no token to predict.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None
    generator: torch.Generator | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        if not examples:
            raise ValueError("examples must hold at least one example, not 0")
        texts = [list(example["input_ids"]) for example in examples]
        prefixes = []
        for index, (text, example) in enumerate(zip(texts, examples, strict=True)):
            if len(text) < 2:
                raise ValueError(f"a text must have at least two tokens, not {len(text)} (example {index})")
            prefix = example.get("prefix_length")
            prefix = int(torch.randint(1, len(text), (), generator=self.generator)) if prefix is None else prefix
            if not 0 < prefix < len(text):
                raise ValueError(
                    f"prefix_length must be from 1 to {len(text) - 1}, to leave a token to predict, not {prefix}"
                )
            prefixes.append(prefix)
        ids = pad(texts, self.pad_token_id, self.pad_to_multiple_of)
        positions = torch.arange(ids.shape[1])
        length = torch.tensor([[len(text)] for text in texts])
        prefix = torch.tensor(prefixes).unsqueeze(1)
        labels = torch.where((positions >= prefix) & (positions < length), ids, -100)
        causal = positions.unsqueeze(0) <= positions.unsqueeze(1)  # (T, T)
        seen = causal | (positions < prefix)[:, None, :]  # (B, T, T)
        return {
            "input_ids": ids,
            "labels": labels,
            "attention_mask": (seen & ((positions < length)[:, None, :] | torch.eye(len(positions)).bool())).unsqueeze(
                1
            ),
            "position_ids": positions.expand_as(ids).contiguous(),
        }
