"""Whatever a model is called with, it answers with numbers or an error that names an argument."""

from functools import cache

import pytest
import tiny_cases
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hf_genai.registry import FAMILIES

CASES = {family: [case for _, case in tiny_cases.cases() if case.family == family] for family in FAMILIES}
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool)
DTYPES = (*INTEGERS, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)
VALUES = (0, 1, 2, -1, -100, 18, 19, 40, 255, 2**31 - 1, -(2**40), 2**62)
OF_OTHERS = ("position_ids", "decoder_position_ids", "token_type_ids", "inputs_embeds", "decoder_inputs_embeds")


@cache
def model_and_batch(family: str, number: int):
    case = CASES[family][number]
    with_labels, without = case.batch(labels=True), case.batch()
    return case.loud_model(std=0.1), {**with_labels, **without}, with_labels


@st.composite
def changed(draw, tensor: Tensor):
    """The same argument as somebody may hand it over."""
    how = draw(st.sampled_from(["dtype", "cut", "grow", "flat", "deep", "rows", "empty", "value", "fill", "list"]))
    if how == "dtype":  # vectors of another precision are for torch, which says so
        return tensor.to(draw(st.sampled_from(INTEGERS if tensor.is_floating_point() else DTYPES)))
    if how == "cut":
        return tensor[..., : draw(st.integers(1, 3))]
    if how == "grow":
        return torch.cat([tensor, tensor], -1)
    if how == "flat":
        return tensor[0] if draw(st.booleans()) else tensor.flatten()
    if how == "deep":
        return tensor[None] if draw(st.booleans()) else tensor[..., None]
    if how == "rows":
        return tensor[: draw(st.integers(1, 2))]
    if how == "empty":
        return tensor[:0] if draw(st.booleans()) else tensor[..., :0]
    if how == "list":
        return draw(st.sampled_from([tensor.tolist(), "text", 7, [], {}, tensor.numpy()]))
    value = draw(st.sampled_from(VALUES))
    if how == "fill":
        return torch.full(tensor.shape, value)
    tensor = tensor.long().clone()
    tensor.view(-1)[draw(st.integers(0, tensor.numel() - 1))] = value
    return tensor


def further(name: str, batch: dict) -> Tensor:
    """A sound value of an argument that the batches lack."""
    ids = batch.get("decoder_input_ids" if name.startswith("decoder") else "input_ids", batch["input_ids"])
    if name.endswith("inputs_embeds"):
        return torch.ones(*ids.shape, 16)
    if name == "token_type_ids":
        return torch.zeros_like(ids)
    return torch.arange(ids.shape[-1]).expand(ids.shape).clone()


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_a_forward_answers_with_numbers_or_names_the_argument(family, data):
    model, batch, with_labels = model_and_batch(family, data.draw(st.integers(0, len(CASES[family]) - 1)))
    call = dict(with_labels if data.draw(st.booleans()) else batch)
    arguments = type(model).forward.keywords
    names = sorted({*call, *(name for name in OF_OTHERS if name in arguments)})
    touched = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    for name in touched:
        call[name] = data.draw(changed(call[name] if name in call else further(name, batch)))
    with torch.no_grad():
        answered = says_what_is_wrong(lambda: model(**call), {*touched, *call})
    if answered is not None:
        given_labels = {name: call[name] for name in ("labels", "start_positions", "end_positions") if name in call}
        check_numbers(answered, given_labels)


def says_what_is_wrong(call, names):
    """Return what a call gives, or None where it ends in an error that names one of its arguments."""
    try:
        return call()
    except (ValueError, TypeError) as error:
        message = str(error)
        assert any(name.removeprefix("decoder_").removesuffix("_ids") in message for name in names), repr(error)


def check_numbers(outputs, labels: dict) -> None:
    for name in ("logits", "last_hidden_state", "start_logits", "end_logits"):
        if outputs.get(name) is not None:
            assert outputs[name].isfinite().all(), name
    if outputs.get("loss") is not None:
        # of an answer beyond the text no loss is left, as in transformers
        ignored = any(((label == -100) | (label >= 6)).all() for label in labels.values())
        assert outputs.loss.isfinite() or ignored, labels


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_integers_of_any_width_say_the_same(family, data):
    number = data.draw(st.integers(0, len(CASES[family]) - 1))
    model, _, batch = model_and_batch(family, number)
    name = data.draw(st.sampled_from(sorted(batch)))
    dtype = data.draw(st.sampled_from(INTEGERS[:3]))
    with torch.no_grad():
        expected = model(**batch)
        other = says_what_is_wrong(lambda: model(**{**batch, name: batch[name].to(dtype)}), {name})
    if other is not None:
        torch.testing.assert_close(other[0], expected[0])


def test_what_was_unclear_names_its_argument():
    model, _, batch = model_and_batch("genai_gpt", 1)  # a language model
    ids, mask = batch["input_ids"], batch["attention_mask"]
    for call, message in (
        (
            {"input_ids": ids[0]},
            r"input_ids must be \(batch, length\) with at least one row and one token, not \(6,\)",
        ),
        ({"input_ids": ids[:, :1], "labels": ids[:, :1]}, "labels must have two tokens a row at least"),
        ({"input_ids": ids, "attention_mask": mask[:, :4]}, r"attention_mask must be \(batch, length\) = \(3, 6\)"),
        ({"input_ids": ids, "attention_mask": torch.cat([mask, mask], 1)}, "attention_mask must be"),
        ({"input_ids": ids, "position_ids": torch.zeros(3, 6).half()}, "position_ids must be an integer tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**call)
    for family in ("genai_rnn", "genai_t5"):
        model, batch, _ = model_and_batch(family, 0)
        call = {name: tensor for name, tensor in batch.items() if name != "labels"}
        call["decoder_attention_mask"] = call["decoder_attention_mask"].repeat(1, 2)
        with pytest.raises(ValueError, match="decoder_attention_mask must be"):
            model(**call)
