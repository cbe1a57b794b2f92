"""Causal language modelling: each next token of a text, from those before it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def pad(rows: list[list[int]], value: int, multiple: int | None = None) -> Tensor:
    """Return the rows as one tensor (B, T), filled up on the right."""
    longest = max(map(len, rows))
    if multiple:
        longest = -(-longest // multiple) * multiple
    # through numpy, which reads lists six times as quickly as torch.tensor
    return torch.from_numpy(np.array([row + [value] * (longest - len(row)) for row in rows], dtype=np.int64))


def starts_over(lengths: list[int]) -> list[int]:
    """Return the positions of packed texts: [3, 2] -> [0, 1, 2, 0, 1]."""
    return [position for length in lengths for position in range(length)]


@dataclass
class CausalLMCollator:
    """Pad texts, or rows of packed texts, into a batch.

    With pad 0, the rows

        {"input_ids": [5, 6, 7, 8, 9], "lengths": [3, 2]}    two packed texts
        {"input_ids": [5, 6]}                                one text

    become

        input_ids       [[5, 6, 7, 8, 9], [5, 6, 0, 0, 0]]
        labels          [[-100, 6, 7, -100, 9], [-100, 6, -100, -100, -100]]    the model shifts them
        position_ids    [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]

    There is no attention_mask: where positions start over, another text begins, and a causal text does not see the
    padding after it. A text's first token is predicted by nothing. Examples may bring labels of their own, -100 where
    nothing is to be learned.

    Args:
        pad_token_id: fills up the rows.
        pad_to_multiple_of: lengths to round up to, for example 8 for tensor cores.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        if not examples:
            raise ValueError("examples is empty; a batch needs at least one")
        texts = [example.get("lengths") or [len(example["input_ids"])] for example in examples]
        ids = pad([list(example["input_ids"]) for example in examples], self.pad_token_id, self.pad_to_multiple_of)
        longest = ids.shape[1]
        filled = [[*lengths, longest - sum(lengths)] for lengths in texts]
        position_ids = pad([starts_over(lengths) for lengths in filled], 0)
        real = torch.arange(longest) < torch.tensor([sum(lengths) for lengths in texts]).unsqueeze(1)
        own = [list(example.get("labels", example["input_ids"])) for example in examples]
        labels = pad(own, -100, self.pad_to_multiple_of)
        if labels.shape != ids.shape:
            raise ValueError("labels must be as long as input_ids in each example")
        labels = torch.where(real & (position_ids > 0), labels, -100)
        return {"input_ids": ids, "labels": labels, "position_ids": position_ids}
