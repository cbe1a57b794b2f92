"""Classification: a label, or several, for a whole text."""

import re
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..data.plain_text import encode_text


def label_names(labels: Sequence[Any]) -> list[str]:
    """Return the names of all labels in a column, sorted: of single ones, or of lists where texts have several.

    Whole numbers are sorted as such: where they go from 0 to n - 1, each is the number that the model gives its class.
    """
    names = {str(name) for label in labels for name in (label if isinstance(label, (list, tuple)) else [label])}
    numbers = all(re.fullmatch(r"-?\d+", name) for name in names)
    return sorted(names, key=lambda name: (int(name) if numbers else 0, name))


def tokenize_texts(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    text_column: str = "text",
    label_column: str = "label",
    pair_column: str | None = None,
    max_length: int | None = None,
) -> Dataset:
    """Turn texts and their labels into `input_ids` and `labels`.

    With the names ["bad", "good"], the label "good" becomes 1; where texts have lists of labels, ["good"] becomes
    [0.0, 1.0], as `problem_type="multi_label_classification"` needs. Without names, labels are numbers to predict
    (`problem_type="regression"`).

    Args:
        dataset: with the columns named.
        names: of all labels, in the order of their numbers; empty for regression.
        pair_column: a second text, as in entailment.
        max_length: in ids; longer texts are cut. None: the tokenizer's limit.

    Raises:
        ValueError: a column that is not there, or a label outside `names`; both name what there is.
    """
    columns = [text_column, label_column, *([pair_column] if pair_column else [])]
    if missing := [column for column in columns if column not in dataset.column_names]:
        raise ValueError(
            f"dataset has no column {', '.join(missing)}; it has {', '.join(dataset.column_names) or 'none'}"
        )
    numbers = {name: number for number, name in enumerate(names)}

    def number(label: Any) -> Any:
        if not names:
            return float(label)
        several = isinstance(label, (list, tuple))
        for name in label if several else [label]:
            if str(name) not in numbers:
                shown = ", ".join(list(names)[:10]) + (", ..." if len(names) > 10 else "")
                raise ValueError(f"label {name!r} in column {label_column} is none of the {len(names)} known: {shown}")
        if several:
            return [float(name in {str(own) for own in label}) for name in names]
        return numbers[str(label)]

    def tokenize(batch: dict[str, list]) -> dict[str, list]:
        pairs = [batch[pair_column]] if pair_column else []
        encoded = encode_text(tokenizer, batch[text_column], *pairs, truncation=True, max_length=max_length)
        kept = ("input_ids", "attention_mask", "token_type_ids")
        return {
            **{name: encoded[name] for name in kept if name in encoded},
            "labels": [number(label) for label in batch[label_column]],
        }

    return dataset.map(tokenize, batched=True, remove_columns=dataset.column_names)
