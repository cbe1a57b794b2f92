"""Checked fields of configurations.

The checks equal those of `transformers.utils.type_validators`, whose import alone costs half as much as all of
`from transformers import AutoModel`.
"""

from huggingface_hub.dataclasses import as_validated_field


@as_validated_field
def positive_int_field(value: int):
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"must be a whole number of at least 1, not {value!r}")


@as_validated_field
def probability_field(value: float):
    """A number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"must be a number from 0 to 1, not {value!r}")
