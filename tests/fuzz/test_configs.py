"""Whatever a config.json says, there is a model that works or an error that names a field; nothing large is made."""

import json
from dataclasses import fields

import pytest
import tiny_cases
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given
from hypothesis import strategies as st

from hf_genai.registry import FAMILIES, load

CLASSES = {family: load(family, name) for family, (_, name, _) in FAMILIES.items()}
# what PreTrainedConfig takes beside its fields
FURTHER = ("num_labels", "torch_dtype", "rope_theta", "rope_scaling", "output_attentions", "attn_implementation")
RENAMED = {"rope_theta": "rope_parameters", "rope_scaling": "rope_parameters", "num_hidden_layers": "decoder_layers"}
HUGE = [2**24, 2**31, 2**40, 2**63, 2**64, 10**30]
ODD = st.one_of(
    st.sampled_from([None, True, False, 0, -1, *HUGE, -(2**40), 1e300, -1e300, 1e-300, float("nan"), float("inf")]),
    st.sampled_from(["", "2", "nan", "auto", "none", "learned", "relative_bias", "float16", "nn", "\ud800", "x" * 99]),
    st.sampled_from([[], {}, [[]], [7], {"a": 1}, {"0": "A", "1": 7}, {"rope_type": "yarn"}, {"rope_theta": "nan"}]),
    st.integers(-3, 40),
    st.floats(width=32),
    st.dictionaries(
        st.sampled_from(["rope_type", "rope_theta", "factor", "0", "1"]), st.integers(-1, 3) | st.floats()
    ),
)
SOUND = {
    "activation_dropout_prob": st.floats(0, 1),
    "attention_type": st.sampled_from(["scaled_dot", "dot", "additive", "none", "general"]),
    "attention_position": st.sampled_from(["before", "after"]),
    "cell_type": st.sampled_from(["gru", "lstm"]),
    "hidden_act": st.sampled_from(["relu", "gelu", "gelu_pytorch_tanh", "silu"]),
    "norm_position": st.sampled_from(["pre", "post"]),
    "norm_type": st.sampled_from(["rms_norm", "layer_norm"]),
    "position_embedding_type": st.sampled_from(["rotary", "learned", "sinusoidal", "relative_bias"]),
    "id2label": st.dictionaries(st.integers(0, 5), st.text(max_size=3)),
}


@st.composite
def changes(draw, family: str) -> dict:
    """One to three fields of a configuration, with values that a file of somebody else's can hold."""
    names = sorted({field.name for field in fields(CLASSES[family]) if not field.name.startswith("_")} | set(FURTHER))
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    kinds = {"bool": st.booleans(), "int": st.integers(1, 40), "float": st.floats(0, 1)}
    types = {field.name: str(getattr(field.type, "__name__", field.type)) for field in fields(CLASSES[family])}
    return {name: draw(ODD | SOUND.get(name, kinds.get(types.get(name, ""), ODD))) for name in chosen}


def names_one(error: Exception, names) -> bool:
    """Whether a message names a field, or what became of it."""
    return any(name in str(error) or RENAMED.get(name, name) in str(error) for name in names)


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_a_configuration_makes_a_model_that_works_or_names_the_field(family, data):
    given_fields = data.draw(changes(family))
    sizes = {**tiny_cases.SIZES[family], **data.draw(st.sampled_from(list(variants(family))))}
    try:
        config = CLASSES[family](**{**sizes, **given_fields})
    except (StrictDataclassError, ValueError, TypeError) as error:
        assert names_one(error, given_fields), f"{type(error).__name__}: {error}"
        return
    again = CLASSES[family].from_dict(json.loads(config.to_json_string()))
    assert again.to_dict() == config.to_dict()
    auto_class = data.draw(st.sampled_from(sorted(config.auto_classes)))
    with torch.device("meta"):
        try:
            model = load(family, config.auto_classes[auto_class])(config)
        except ValueError as error:  # a head that this layout cannot have
            assert names_one(error, {*given_fields, *sizes}), str(error)
            return
    if sum(parameter.numel() for parameter in model.parameters()) > 100_000:
        return
    try:
        works(type(model)(config).eval(), config)
    except ValueError as error:  # a model that this head needs more of
        assert names_one(error, given_fields), str(error)


def variants(family: str):
    """The layouts of the common battery."""
    seen = []
    for _, case in tiny_cases.cases():
        if case.family == family and case.variant not in seen:
            seen.append(case.variant)
    return seen


@torch.no_grad()
def works(model, config) -> None:
    """Run a model on a row of tokens."""
    highest = min(config.vocab_size, getattr(config, "source_vocab_size", None) or config.vocab_size)
    row = torch.arange(3)[None] % highest
    if "MultipleChoice" in type(model).__name__:
        row = row[None]
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if "T5ForSequence" in type(model).__name__:
        row[..., -1] = next((end for end in ends if end is not None and 0 <= end < config.vocab_size), 0)
    decoder = {"decoder_input_ids": row} if type(model).__name__.endswith(("T5Model", "RNNModel")) else {}
    if type(model).__name__.endswith("ConditionalGeneration"):
        decoder = {"decoder_input_ids": row}
    outputs = model(input_ids=row, **decoder)
    assert outputs[0].isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("hidden_size", 2**40), ("vocab_size", 2**40), ("num_labels", 2**40), ("initializer_range", float("nan"))],
        *[("initializer_range", 1e300), ("id2label", 7), ("num_hidden_layers", 2**31)],
    ],
)
def test_a_field_that_cannot_be_is_named_before_memory_is_taken(family, field, value):
    with pytest.raises((StrictDataclassError, ValueError), match=f"{field}|{RENAMED.get(field, field)}"):
        CLASSES[family](**{field: value})
