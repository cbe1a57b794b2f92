"""Text classification: predict one label, several labels or a number for a text."""

import re
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..data.plain_text import MODEL_INPUTS, encode_text


def label_names(labels: Sequence[Any]) -> list[str]:
    """Return the sorted names of all labels in a column of labels, or of lists of labels.

    Integer labels are sorted as integers. Labels 0 to n - 1 thus equal the class indices of the model.
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
    """Tokenize texts and convert their labels to class indices.

    With the names ["bad", "good"], the label "good" becomes 1. If rows have lists of labels, ["good"] becomes
    [0.0, 1.0], as `problem_type="multi_label_classification"` needs. Without names, labels are numbers to predict
    (`problem_type="regression"`).

    Args:
        dataset: has the columns `text_column`, `label_column` and, if given, `pair_column`.
        names: names of all labels, in the order of their class indices; empty for regression.
        pair_column: column of a second text, as in entailment.
        max_length: maximum number of ids; longer texts are truncated. None: the tokenizer's limit.

    Returns:
        A dataset with the columns input_ids, labels and, if the tokenizer makes them, attention_mask, token_type_ids.

    Raises:
        ValueError: a missing column, or a label that is not in `names`.
    """
    columns = [text_column, label_column, *([pair_column] if pair_column else [])]
    if missing := [column for column in columns if column not in dataset.column_names]:
        raise ValueError(
            f"dataset has no column {', '.join(missing)}; it has {', '.join(dataset.column_names) or 'none'}"
        )
    label_ids = {name: label_id for label_id, name in enumerate(names)}

    def label_id(label: Any) -> Any:
        if not names:
            return float(label)
        has_several = isinstance(label, (list, tuple))
        for name in label if has_several else [label]:
            if str(name) not in label_ids:
                shown = ", ".join(list(names)[:10]) + (", ..." if len(names) > 10 else "")
                raise ValueError(f"label {name!r} in column {label_column} is none of the {len(names)} known: {shown}")
        if has_several:
            return [float(name in {str(item) for item in label}) for name in names]
        return label_ids[str(label)]

    def tokenize(batch: dict[str, list]) -> dict[str, list]:
        second_texts = [batch[pair_column]] if pair_column else []
        encoded = encode_text(tokenizer, batch[text_column], *second_texts, truncation=True, max_length=max_length)
        columns = {name: encoded[name] for name in MODEL_INPUTS if name in encoded}
        return columns | {"labels": [label_id(label) for label in batch[label_column]]}

    return dataset.map(tokenize, batched=True, remove_columns=dataset.column_names)
