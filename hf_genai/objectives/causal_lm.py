"""Causal language modelling: predict each token of a text from the tokens before it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def pad(rows: list[list[int]], value: int, multiple: int | None = None) -> Tensor:
    """Pad the rows on the right with `value` and return one tensor (B, T); T is a multiple of `multiple`, if given."""
    longest = max(map(len, rows))
    if multiple:
        longest = -(-longest // multiple) * multiple
    # numpy converts lists six times as fast as torch.tensor
    return torch.from_numpy(np.array([row + [value] * (longest - len(row)) for row in rows], dtype=np.int64))


def packed_positions(lengths: list[int]) -> list[int]:
    """Return the positions of packed texts, which restart at 0 with each text: [3, 2] -> [0, 1, 2, 0, 1]."""
    return [position for length in lengths for position in range(length)]


@dataclass
class CausalLMCollator:
    """Pad texts or packed rows into a batch.

    With pad 0, the rows

        {"input_ids": [5, 6, 7, 8, 9], "lengths": [3, 2]}    two packed texts
        {"input_ids": [5, 6]}                                one text

    become

        input_ids       [[5, 6, 7, 8, 9], [5, 6, 0, 0, 0]]
        labels          [[-100, 6, 7, -100, 9], [-100, 6, -100, -100, -100]]    the model shifts them
        position_ids    [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]

    The batch has no attention_mask: positions restart at each text of a packed row, and a causal model does not attend
    to the padding on the right. The first token of a text has no label, because no token precedes it. Examples may
    contain `labels`, with -100 for tokens without loss.

    Args:
        pad_token_id: id of the padding.
        pad_to_multiple_of: round the row length up to a multiple, for example 8 for tensor cores.

    Raises:
        ValueError: no example, or an example whose labels and input_ids differ in length.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        if not examples:
            raise ValueError("examples must hold at least one example, not 0")
        text_lengths = [example.get("lengths") or [len(example["input_ids"])] for example in examples]
        ids = pad([list(example["input_ids"]) for example in examples], self.pad_token_id, self.pad_to_multiple_of)
        longest = ids.shape[1]
        lengths_with_padding = [[*lengths, longest - sum(lengths)] for lengths in text_lengths]
        position_ids = pad([packed_positions(lengths) for lengths in lengths_with_padding], 0)
        is_token = torch.arange(longest) < torch.tensor([sum(lengths) for lengths in text_lengths]).unsqueeze(1)
        rows = [list(example.get("labels", example["input_ids"])) for example in examples]
        labels = pad(rows, -100, self.pad_to_multiple_of)
        if labels.shape != ids.shape:
            raise ValueError("labels must be as long as input_ids in each example")
        labels = torch.where(is_token & (position_ids > 0), labels, -100)
        return {"input_ids": ids, "labels": labels, "position_ids": position_ids}
