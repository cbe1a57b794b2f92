"""Checked fields of configurations.

The checks equal those of `transformers.utils.type_validators`, whose import alone costs half as much as all of
`from transformers import AutoModel`.
"""

import math
from typing import Any

from huggingface_hub.dataclasses import as_validated_field

LARGEST, MOST_LAYERS, MOST_LABELS, MOST_NUMBERS = 2**31 - 1, 10_000, 2**20, 2**40


def check_whole(value: Any, highest: int = LARGEST, name: str = "") -> None:
    """Refuse what is no whole number from 1 to `highest`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
        raise ValueError(
            f"{name} must be a whole number of at least 1 and at most {highest}, not {value!r:.60}".lstrip()
        )


@as_validated_field
def positive_int_field(value: int):
    """A whole number of at least 1; below 2^31, as ids and positions are counted on all devices."""
    check_whole(value)


@as_validated_field
def layers_field(value: int):
    """How many layers there are."""
    check_whole(value, MOST_LAYERS)


@as_validated_field
def probability_field(value: float):
    """A number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"must be a number from 0 to 1, not {value!r}")


@as_validated_field
def eps_field(value: float):
    """What keeps a division from one by zero."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1e-30 <= value <= 1:
        raise ValueError(f"must be a number from 1e-30 to 1, not {value!r}")


@as_validated_field
def deviation_field(value: float | None):
    """A standard deviation of weights; None where the configuration finds one."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100):
        raise ValueError(f"must be a number from 0 to 100, not {value!r}")


# fields of PreTrainedConfig that are not checked there
TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    **dict.fromkeys(
        ("output_hidden_states", "output_attentions", "return_dict", "is_encoder_decoder"), ("true or false", (bool,))
    ),
    **dict.fromkeys(("id2label", "label2id", "rope_parameters", "rope_scaling"), ("a dictionary", (dict,))),
    "rope_theta": ("a number", (int, float)),
    "attn_implementation": ("a name", (str, dict)),
    "problem_type": ("a name", (str,)),
    "chunk_size_feed_forward": ("a whole number", (int,)),
    "architectures": ("a list of names", (list,)),
}


def check_before(config: Any, further: dict[str, Any]) -> None:
    """Refuse values that PreTrainedConfig would take apart before any field is looked at.

    Args:
        further: what the configuration got beside its fields.
    """
    values = {**vars(config), **further}
    for name, (wanted, types) in TYPES.items():
        if values.get(name) is not None and not isinstance(values[name], types):
            raise ValueError(f"{name} must be {wanted}, not {values[name]!r:.60}")
    for name, value in values.items():
        for number in value.values() if isinstance(value, dict) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{name} must be of finite numbers, not {value!r:.60}")
    if "num_hidden_layers" in further:  # another name of decoder_layers, which is looked at too late
        check_whole(further["num_hidden_layers"], MOST_LAYERS, "num_hidden_layers")
    if "num_labels" in further:
        check_whole(further["num_labels"], MOST_LABELS, "num_labels")
    for key in values.get("id2label") or {}:
        if isinstance(key, bool) or not str(key).isdecimal():
            raise ValueError(f"id2label must have label ids, from 0 on, as keys, not {key!r:.60}")
    for name in ("dtype", "torch_dtype"):
        if (value := values.get(name)) is not None:
            import torch  # which reading a configuration does not need

            if not isinstance(getattr(torch, value, None) if isinstance(value, str) else value, torch.dtype):
                raise ValueError(f"{name} must be a dtype of torch, as 'float32', not {value!r:.60}")


def check_after(config: Any, *products: tuple[str, ...]) -> None:
    """Refuse token ids outside the vocabulary, and sizes that together make more than any machine holds.

    Args:
        products: names of fields that together say how many numbers a part of the model has.
    """
    for names in products:
        if (count := math.prod(getattr(config, name) for name in names)) > MOST_NUMBERS:
            sizes = " x ".join(f"{name} ({getattr(config, name)})" for name in names)
            raise ValueError(f"{sizes} must be at most 2^40 numbers, not {count}")
    for name in ("pad_token_id", "decoder_start_token_id"):
        if (token := getattr(config, name, None)) is not None and not 0 <= token < config.vocab_size:
            raise ValueError(f"{name} must be from 0 to {config.vocab_size - 1} (vocab_size - 1) or None, not {token}")
