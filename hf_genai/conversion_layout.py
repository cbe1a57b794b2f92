"""What the tables of conversion are made of, and what they share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Operation(NamedTuple):
    """How the tensors of one side of a row become the `count` tensors of the other: theirs to ours, ours to theirs."""

    read: Callable[[Sequence[Tensor], int], Sequence[Tensor]]
    write: Callable[[Sequence[Tensor], int], Sequence[Tensor]]


RENAME = Operation(lambda theirs, count: theirs, lambda ours, count: ours)
# GPT-2's Conv1D keeps its matrix (in, out), and those of queries, keys and values side by side in one
CONV1D = Operation(
    lambda theirs, count: theirs[0].t().chunk(count) if theirs[0].ndim == 2 else theirs[0].chunk(count),
    lambda ours, count: [torch.cat(list(ours)).t() if ours[0].ndim == 2 else torch.cat(list(ours))],
)

Names = str | tuple[str, ...]
Rows = tuple[tuple[Names, Names] | tuple[Names, Names, Operation], ...]


@dataclass(frozen=True)
class Head:
    """One of our classes and one of theirs.

    Args:
        ours: Name of our class.
        theirs: Name of theirs.
        prefix: What stands before the names of their base model's weights; before ours stands "model.", unless this is
            a base model.
        rows: The weights that the base model does not have.
        only_ours: Modules that theirs need not have: new in from_transformers, left out by to_transformers.
        only_theirs: The reverse.
        constants: Our fields that have one value only with this head.
    """

    ours: str
    theirs: str
    prefix: str = ""
    rows: Rows = ()
    only_ours: tuple[str, ...] = ()
    only_theirs: tuple[str, ...] = ()
    constants: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """A model family of transformers, as one layout of ours.

    Args:
        name: For messages.
        model_type: Theirs.
        family: Our model_type.
        config: Name of their configuration class.
        fields: Their field -> ours, where the value is the same.
        constants: Our fields that have one value in this layout, or one that follows from others: a function of our
            configuration.
        refused: Their fields that ours knows one value of only.
        elsewhere: Their fields that `read` and `write` deal with, or that say nothing about an existing model.
        activations: Our name of an activation -> theirs, where they differ.
        read: Return more of our fields from their configuration and the name of our class.
        write: Return more of their fields from our configuration and the name of our class.
        rows: The weights of the base model.
        heads: The classes; of several for one of ours, the first is what to_transformers makes.
        writable: Whether to_transformers makes it. If not, another layout is the same.
    """

    name: str
    model_type: str
    family: str
    config: str
    fields: dict[str, str]
    constants: dict[str, Any]
    refused: dict[str, Any]
    elsewhere: tuple[str, ...]
    rows: Rows
    heads: tuple[Head, ...]
    activations: dict[str, str] = field(default_factory=dict)
    read: Callable[[Any, str], dict[str, Any]] = lambda config, head: {}
    write: Callable[[Any, str], dict[str, Any]] = lambda config, head: {}
    writable: bool = True


def same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def default_head_dim(config: Any) -> int:
    return config.hidden_size // config.num_attention_heads


def whole_heads(config: Any) -> int:
    """Return the nearest hidden_size that the heads share evenly."""
    return config.hidden_size - config.hidden_size % config.num_attention_heads


ONE_KIND_OF_HEADS = {
    "hidden_size": whole_heads,
    "num_key_value_heads": lambda config: config.num_attention_heads,
    "head_dim": default_head_dim,
}
CLASSIFIER: Rows = (("classifier", "classifier"),)
ANSWERS: Rows = (("qa_outputs", "qa_outputs"),)
TWO_OUTPUTS = {"num_labels": 2}  # of ours, always: where an answer begins and where it ends
