"""Texts without padding between them: against rows that are padded, and attended to through masks."""

import pytest
import tiny_transformer as tiny
import torch
from test_transformers import LAYOUTS, make, text

from hf_genai.models import attention
from hf_genai.models.attention_kernel import train_attention
from hf_genai.models.varlen_attention import attend_by_text, lay_out, number_by_mask, number_by_position

each_layout = pytest.mark.parametrize(
    ("family", "variant"), [layout for layout in LAYOUTS if "additive" not in layout.id]
)

each_packing_layout = pytest.mark.parametrize(
    ("family", "variant"), [layout for layout in LAYOUTS if "additive" not in layout.id and "t5" not in layout.id]
)
NO_DROPOUT = {**tiny.PLAIN, "activation_dropout_prob": 0.0}


@pytest.fixture
def calls(monkeypatch):
    """How many attentions went by texts: each for itself, or where biases are learned all at once."""
    found = []

    def by_text(*arguments):
        found.append(arguments[-1])  # the lengths of the texts that are looked at
        return attend_by_text(*arguments)

    def at_once(*arguments, text_lengths):
        context = train_attention(*arguments, text_lengths=text_lengths)
        if context is not None and text_lengths is not None:
            found.append(text_lengths[1])
        return context

    monkeypatch.setattr(attention, "attend_by_text", by_text)
    monkeypatch.setattr(attention, "train_attention", at_once)
    return found


def labelled(family: str, side: str) -> dict[str, torch.Tensor]:
    batch = text(side)
    labels = torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)
    if family == "t5":
        labels = torch.tensor([[5, 6, 7, 2], [8, 2, -100, -100], [-100, 9, 2, -100]])
    elif family == "gpt":
        labels[batch["attention_mask"].cumsum(1) == 1] = -100  # else padding before a text would predict its beginning
    return {**batch, "labels": labels}


def loss_and_gradients(model, implementation: str, **batch):
    model.set_attn_implementation(implementation)
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@each_layout
@pytest.mark.parametrize("side", ["left", "right"])
def test_dropping_the_padding_changes_neither_loss_nor_gradients(family, variant, side, calls):
    model, batch = make(family, variant, **NO_DROPOUT).train(), labelled(family, side)
    padded = loss_and_gradients(model, "eager", **batch)
    assert not calls
    torch.testing.assert_close(loss_and_gradients(model, "sdpa", **batch), padded, atol=1e-5, rtol=1e-4)
    attentions = sum(isinstance(module, attention.MultiHeadAttention) for module in model.modules())
    assert len(calls) == (0 if (family, side) == ("gpt", "left") else attentions)


@each_packing_layout
def test_rows_of_several_texts_are_attended_to_as_through_a_block_mask(family, variant, calls):
    model = make(family, variant, **NO_DROPOUT).train()
    ids = text(batch=2, length=9)["input_ids"]
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0, 1], [0, 1, 0, 1, 2, 3, 4, 5, 6]])
    batch = {"input_ids": ids, "position_ids": positions + getattr(model.config, "position_offset", 0)}
    labels = ids.masked_fill(positions == 0, -100)
    masked = loss_and_gradients(model, "eager", **batch, labels=labels)
    assert not calls
    torch.testing.assert_close(loss_and_gradients(model, "sdpa", **batch, labels=labels), masked, atol=1e-5, rtol=1e-4)
    assert calls == [[2, 2, 3, 4, 7]] * 2  # those of one length at once


def test_texts_lie_end_to_end_the_shortest_first_and_go_back_where_they_were():
    real = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1]])
    (texts,) = lay_out(number_by_mask(real.bool()))
    assert texts.lengths == [1, 2, 3]
    assert texts.places.tolist() == [11, 4, 5, 1, 2, 3]
    x = torch.arange(12.0).view(3, 4, 1)
    assert texts.flatten(x).flatten().tolist() == [11, 4, 5, 1, 2, 3]
    assert torch.equal(texts.restore(texts.flatten(x)), x * real.unsqueeze(2))


def test_a_target_and_its_source_keep_the_same_order():
    target = number_by_mask(torch.tensor([[1, 1], [1, 0], [1, 1]]).bool())
    source = number_by_mask(torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 0]]).bool())
    first, second = lay_out(target, source)
    assert (first.lengths, second.lengths) == ([1, 2, 2], [3, 1, 3])
    assert first.places.tolist() == [2, 4, 5, 0, 1]
    assert second.places.tolist() == [3, 4, 5, 6, 0, 1, 2]


def test_packed_texts_begin_where_a_position_does_not_follow_the_one_before():
    numbers, several = number_by_position(torch.tensor([[0, 1, 2, 3], [5, 6, 0, 4]]))
    assert several
    assert numbers.tolist() == [[0, 0, 0, 0], [4, 4, 5, 6]]
    assert not number_by_position(torch.tensor([[3, 4, 5]]))[1]


@pytest.mark.parametrize("family", ["bert", "gpt"])
def test_whoever_looks_at_the_layers_sees_rows(family, calls):
    model, batch, seen = make(family, **NO_DROPOUT).train(), text("right"), []
    real = batch["attention_mask"].bool()
    if family == "gpt":
        batch["use_cache"] = False
    plain = model(**batch)
    assert len(calls) == 2
    states = model(**batch, output_hidden_states=True).hidden_states
    assert {state.shape for state in states} == {(3, 6, 16)}
    torch.testing.assert_close(model.model(**batch)[0][real], states[-1][real])
    assert len(calls) == 4  # the hooks that transformers has left do not count
    hook = model.model.layers[0].register_forward_hook(lambda module, given, output: seen.append(output.shape))
    torch.testing.assert_close(model(**batch).logits[real], plain.logits[real])
    assert seen == [(3, 6, 16)] and len(calls) == 4
    hook.remove()
    model(**batch)
    assert len(calls) == 6


@pytest.mark.parametrize("family", ["bert", "gpt", "t5"])
def test_evaluation_gives_padding_what_masks_give_it(family, calls):
    model, batch = make(family), text("right")
    batch |= {"decoder_input_ids": batch["input_ids"]} if family == "t5" else {}
    found = model(**batch, use_cache=False)[0]
    assert not calls
    dropped = model(**batch, use_cache=False, unpad=True)[0]
    assert calls
    model.set_attn_implementation("eager")
    torch.testing.assert_close(found, model(**batch, use_cache=False)[0])
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(dropped[real], found[real])


def test_a_cache_is_filled_row_by_row(calls):
    model, batch = make("gpt", **NO_DROPOUT).train(), text("left")
    cache = model(**batch, use_cache=True).past_key_values
    assert cache.layers[0].keys.shape[::2] == (3, 6) and not calls


def test_checkpoints_of_unpadded_texts_give_the_same_gradients(calls):
    model, batch = make("bert", "dot, relative, untied", **NO_DROPOUT).train(), labelled("bert", "right")
    plain = loss_and_gradients(model, "sdpa", **batch)
    model.activation_checkpointing_enable()
    torch.testing.assert_close(loss_and_gradients(model, "sdpa", **batch), plain)
    assert len(calls) == 2 + 2 * 2


@pytest.mark.parametrize(("variant", "by_text"), [("dot, relative, untied", 0), ("modern", 2), ("classic", 2)])
def test_positions_of_a_text_with_a_hole_are_those_of_the_row(variant, by_text, calls):
    model, batch = make("bert", variant, **NO_DROPOUT), text()
    batch["attention_mask"] = torch.tensor([[1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 1]])
    real = batch["attention_mask"].bool()
    found = model(**batch, unpad=True).logits[real]
    model.set_attn_implementation("eager")
    torch.testing.assert_close(found, model(**batch).logits[real], atol=1e-5, rtol=1e-5)
    assert len(calls) == by_text


def test_dropped_weights_keep_the_mean():
    layer = make("bert", "classic", attention_probs_dropout_prob=0.4).model.layers[0].self_attn
    x = torch.randn(1, 4, 16, requires_grad=True)
    wanted = layer.eval()(x)[0]
    found = layer.train()(x.repeat(1, 1000, 1), texts=([4] * 1000,) * 2)[0].view(1000, 4, 16)
    assert found.std(0).mean() > 0.1
    assert ((found.mean(0) - wanted).abs() < 5 * found.std(0) / 1000**0.5).all()


def test_labels_that_are_all_on_padding_are_no_reason_to_drop_it():
    model, batch = make("bert", "classic", **NO_DROPOUT).train(), text("right")
    batch["labels"] = torch.where(batch["attention_mask"].bool(), -100, 5)
    everywhere = loss_and_gradients(model, "eager", **batch)
    torch.testing.assert_close(loss_and_gradients(model, "sdpa", **batch), everywhere, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", ["modern", "classic", "roberta, no token types"])
@pytest.mark.parametrize("packed", [True, False])
def test_the_last_layer_works_only_where_a_word_was_masked(variant, packed, calls):
    model = make("bert", variant, **NO_DROPOUT).train()
    batch = {"input_ids": text(batch=2, length=9)["input_ids"]}
    if packed:
        positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0, 1], [0, 1, 0, 1, 2, 3, 4, 5, 6]])
        batch["position_ids"] = positions + model.config.position_offset
    batch["labels"] = torch.full((2, 9), -100)
    batch["labels"][[0, 0, 1, 1], [1, 5, 2, 8]] = torch.tensor([5, 6, 7, 8])
    everywhere = loss_and_gradients(model, "eager", **batch)
    torch.testing.assert_close(loss_and_gradients(model, "sdpa", **batch), everywhere, atol=1e-5, rtol=1e-4)
    assert calls == ([[2, 2, 3, 4, 7]] * 2 if packed else [[9, 9]] * 2)
    assert model.eval()(**batch, skip_logits=True).loss.item() == pytest.approx(everywhere[0].item(), rel=1e-5)
    with pytest.raises(ValueError, match="labels"):
        model.train()(**{**batch, "labels": batch["labels"][:, :5]})
    batch["labels"][:] = -100
    assert model(**batch).loss.isfinite()
