"""Texts of different lengths laid end to end, without padding between them, and attention within each.

All that a layer does outside the attention, it does token by token: padding is dropped before the first layer and put
back after the last one (Zeng et al. 2022, arXiv:2208.08124, section 3). The attention goes text by text, those of one
length together, so that no mask is needed.

Shapes: B batch, T length of the rows, N tokens of all texts, H heads, E head size.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .private_names import hooks_of, hooks_on_all

# Texts alike: query length, key length, how many
Group = tuple[int, int, int]
# Hooks of these do not care about the shape of what passes.
HARMLESS_HOOKS = ("transformers.utils.output_capturing", "torch.distributed.")


@dataclass(frozen=True)
class Texts:
    """Where the tokens of rows (B, T) stand when texts lie end to end, those of one length side by side.

    Attributes:
        places: (N,), the place in B * T of each token.
        lengths: tokens of each text, in the order of `places`.
    """

    rows: tuple[int, int]
    places: Tensor
    lengths: list[int]

    def flatten(self, x: Tensor) -> Tensor:
        """(B or 1, T, ...) -> (1, N, ...), padding left out."""
        return x.expand(*self.rows, *x.shape[2:]).flatten(0, 1).index_select(0, self.places).unsqueeze(0)

    def restore(self, x: Tensor) -> Tensor:
        """(1, N, ...) -> (B, T, ...), with 0 where there is padding."""
        flat = x.new_zeros(self.rows[0] * self.rows[1], *x.shape[2:])
        return flat.index_copy(0, self.places, x[0]).view(*self.rows, *x.shape[2:])


def number_by_mask(real: Tensor) -> Tensor:
    """Number the text of each token of padded rows (B, T): its row, and -1 where `real` is False."""
    rows = torch.arange(len(real), device=real.device).unsqueeze(1)
    return torch.where(real, rows, -1)


def number_by_position(position_ids: Tensor, room: int | None = None) -> tuple[Tensor, bool]:
    """Number the text of each token of packed rows (B, T), and say whether any row holds several.

    A text begins wherever a position does not follow the one before it.

    Args:
        room: numbers of a row, T at least. None: T.
    """
    starts = position_ids.diff(dim=1) != 1
    within = nn.functional.pad(starts.long().cumsum(1), (1, 0))
    rows = torch.arange(len(within), device=within.device).unsqueeze(1)
    return within + rows * (room or within.shape[1]), bool(starts.any())


def lay_out(*numbers: Tensor) -> list[Texts]:
    """Return how rows, whose tokens have the number of their text or -1, lie end to end.

    Several ones (target and source) number the same texts, and get them in the same order.
    """
    size = max(int(number.max()) for number in numbers) + 1
    counts = [torch.bincount(number[number >= 0], minlength=size).tolist() for number in numbers]
    used = (text for text in range(size) if any(count[text] for count in counts))
    order = sorted(used, key=lambda text: [count[text] for count in counts])
    rank = torch.full((size + 1,), size)  # padding, number -1, goes last
    rank[torch.tensor(order)] = torch.arange(len(order))
    found = []
    for number, count in zip(numbers, counts, strict=True):
        places = rank.to(number.device)[number.flatten()].argsort(stable=True)[: sum(count)]
        found.append(Texts((number.shape[0], number.shape[1]), places, [count[text] for text in order]))
    return found


def attend_by_text(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: list[int],
    key_lengths: list[int],
) -> Tensor:
    """Attend within each text, those of one length at once.

    Args:
        attend: what gives (B, T, H, E) of query (B, H, T, E), key and value (B, H, S, E).
        query: (1, H, N, E) of texts end to end, as key and value.
        lengths: tokens of each text in query.
        key_lengths: tokens of the same texts in key and value.

    Returns:
        (1, N, H, E).
    """
    groups = grouped(lengths, key_lengths)
    contexts = []
    for (length, key_length, count), vectors in zip(groups, by_group(groups, query, key, value), strict=True):
        if not key_length:
            contexts.append(query.new_zeros(length * count, query.shape[1], value.shape[3]))
        elif length:
            contexts.append(attend(*vectors).flatten(0, 1))
    return torch.cat(contexts).unsqueeze(0)


def by_group(groups: list[Group] | None, *tensors: Tensor, sides=(0, 1, 1)) -> Iterator[tuple[Tensor, ...]]:
    """Yield views of tensors (1, H, N, E), group by group: (texts, H, T, E).

    Args:
        groups: of `grouped`. None: tensors (B, H, T, E) as they are.
        sides: for each tensor, whose length of a group it has: 0 the query's, 1 the key's.
    """
    if groups is None:
        yield tensors
        return
    sizes = [[group[side] * group[2] for group in groups] for side in sides]
    parts = [x.split(size, 2) for x, size in zip(tensors, sizes, strict=True)]
    for (*_, count), *found in zip(groups, *parts, strict=True):
        yield tuple(x.view(x.shape[1], count, -1, x.shape[3]).transpose(0, 1) for x in found)


def grouped(lengths: list[int], key_lengths: list[int]) -> list[Group]:
    """Return (length, key length, how many) of the texts that stand side by side and are alike."""
    pairs = zip(lengths, key_lengths, strict=True)
    return [(*pair, len(list(same))) for pair, same in itertools.groupby(pairs)]


def is_watched(module: nn.Module) -> bool:
    """Whether somebody's hook sees what this module is given and gives."""
    own = itertools.chain.from_iterable(found.values() for found in hooks_of(module))
    return hooks_on_all() or any(not getattr(hook, "__module__", "").startswith(HARMLESS_HOOKS) for hook in own)


def flash_packed(position_ids: Tensor) -> dict[str, Any]:
    """Return what FlashAttention must be told of packed rows; nothing where no row holds several texts.

    By itself transformers sees that of a batch of one row only: the texts of others would look at each other.

    Args:
        position_ids: (B, T), which start over with each text.
    """
    numbers, several = number_by_position(position_ids)
    if not several:
        return {}
    lengths = numbers.flatten().unique_consecutive(return_counts=True)[1]
    return _flash_kwargs(lengths, lengths)


def flash_source(queries: tuple[int, int], mask: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, dict]:
    """Return keys and values (1, K, N, E) without padding, and what FlashAttention must be told of them.

    By itself transformers takes the mask of a source for one of the queries, too.

    Args:
        queries: rows and their length, (B, T).
        mask: (B, S), False or 0 where the source is padding.
        key: (B, K, S, E), as value.
    """
    real = mask.bool()
    kept = real.flatten().nonzero()[:, 0]
    key, value = (x.transpose(1, 2).flatten(0, 1)[kept].transpose(0, 1).unsqueeze(0) for x in (key, value))
    lengths = real.sum(1)
    return key, value, _flash_kwargs(torch.full_like(lengths, queries[1]), lengths)


def _flash_kwargs(query_lengths: Tensor, key_lengths: Tensor) -> dict[str, Any]:
    """Return where texts of these lengths begin and end, by the names of transformers' `FlashAttentionKwargs`."""
    found: dict[str, Any] = {}
    for name, lengths in (("q", query_lengths), ("k", key_lengths)):
        found[f"cu_seq_lens_{name}"] = nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
        found[f"max_length_{name}"] = int(lengths.max())
    return found
