"""The cache layer of recurrent decoders: states and what was made from the source move, shrink and come back."""

import copy

import pytest
import torch
from tiny_rnn import ENCODER_DECODERS, ragged, tiny_config, tiny_model
from transformers import DynamicCache, EncoderDecoderCache, StaticCache

from hf_genai import GenaiRNNForConditionalGeneration
from hf_genai.models.recurrent_cache import RecurrentStateLayer

ROWS, STEPS, SLOTS, SIZE = 3, 4, 2, 5


def filled(record: bool = False) -> tuple[RecurrentStateLayer, torch.Tensor]:
    """Return a layer that took three tokens, then one, and all states (B, 4, N, D)."""
    states = torch.randn(ROWS, STEPS, SLOTS, SIZE)
    layer = RecurrentStateLayer()
    if record:
        layer.activate_past_recording()
    layer.update(states[:, :3])
    layer.update(states[:, 3:])
    return layer, states


def test_generate_finds_a_layer_of_ours_for_each_decoder_layer():
    config = tiny_config(ENCODER_DECODERS["lstm, none after, untied"])
    for cache in (DynamicCache(config=config), StaticCache(config=config, max_cache_len=9)):
        assert [type(layer) for layer in cache.layers] == [RecurrentStateLayer] * config.decoder_layers


def test_it_holds_the_last_state_and_counts_the_tokens():
    layer, states = filled()
    assert torch.equal(layer.state, states[:, -1])
    assert layer.get_seq_length() == STEPS
    assert layer.get_mask_sizes(2) == (STEPS + 2, 0)
    assert layer.trail == []


@pytest.mark.parametrize("removed", range(STEPS + 1))
def test_cropping_takes_tokens_back(removed):
    layer, states = filled(record=True)
    layer.crop(-removed)
    assert layer.get_seq_length() == STEPS - removed
    if removed == STEPS:
        assert layer.state is None
    else:
        assert torch.equal(layer.state, states[:, STEPS - 1 - removed])


def test_after_cropping_it_goes_on_and_crops_again():
    layer, states = filled(record=True)
    layer.crop(-2)
    more = torch.randn(ROWS, 2, SLOTS, SIZE)
    layer.update(more)
    layer.crop(-1)
    assert torch.equal(layer.state, more[:, 0])
    layer.update(more)
    layer.crop(-2)
    assert torch.equal(layer.state, more[:, 0])
    assert layer.get_seq_length() == STEPS - 2 + 1


def test_states_that_were_not_kept_cannot_be_taken_back():
    layer, _ = filled()
    layer.crop(0)
    with pytest.raises(RuntimeError, match="activate_past_recording"):
        layer.crop(-1)
    with pytest.raises(ValueError, match="tokens_to_remove must be zero or negative, not 2"):
        layer.crop(2)
    layer, _ = filled(record=True)
    with pytest.raises(RuntimeError, match="only 4 are recorded"):
        layer.crop(-5)


@pytest.mark.parametrize("record", [True, False])
def test_rows_are_reordered_repeated_and_selected_everywhere(record):
    order = torch.tensor([2, 0, 0])
    for change, expected in (
        (lambda layer: layer.reorder_cache(order), [2, 0, 0]),
        (lambda layer: layer.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
        (lambda layer: layer.batch_select_indices(torch.tensor([1])), [1]),
    ):
        layer, states = filled(record)
        change(layer)
        assert torch.equal(layer.state, states[expected, -1])
        if record:
            layer.crop(-2)
            assert torch.equal(layer.state, states[expected, 1])


def remembering(sources: torch.Tensor) -> RecurrentStateLayer:
    """A cross-attention layer that remembers twice the sources (B, S, D)."""
    layer = RecurrentStateLayer()
    layer.remember(torch.ones(sources.shape[:2], dtype=torch.bool), sources, 2 * sources)
    return layer


def test_what_is_remembered_of_the_source_follows_rows_that_cross_sentences():
    sources = torch.randn(2, 4, SIZE).repeat_interleave(2, dim=0)  # two sentences, two beams each
    layer = remembering(sources)
    kept = layer.memory[0]
    layer.reorder_cache(torch.tensor([1, 0, 3, 3]))
    assert layer.memory[0] is kept, "beams that stay with their sentence move no memory"
    for order, then in (([2, 3, 0, 1], [3, 2, 1, 0]), ([0, 2, 1, 3], [1, 0, 3, 2]), ([1, 1, 1, 1], [3, 2, 1, 0])):
        layer = remembering(sources)
        layer.memory_mask[2:, 1] = False
        mask = layer.memory_mask
        layer.reorder_cache(torch.tensor(order))
        assert torch.equal(layer.memory[0], sources[order])
        assert torch.equal(layer.memory[1], 2 * sources[order])
        assert torch.equal(layer.memory_mask, mask[order])
        layer.reorder_cache(torch.tensor(then))
        assert torch.equal(layer.memory[0], sources[order][then])


def test_equal_vectors_under_different_masks_are_different_sources():
    layer = RecurrentStateLayer()
    mask = torch.tensor([[True, True], [True, False]])
    layer.remember(mask, torch.zeros(2, 2, SIZE))
    layer.reorder_cache(torch.tensor([1, 0]))
    assert torch.equal(layer.memory_mask, mask[[1, 0]])


@pytest.mark.parametrize("repeats", [1, 3])
def test_repeated_and_selected_sources_are_told_apart_still(repeats):
    sources = torch.randn(3, 4, SIZE)
    layer = remembering(sources)
    layer.batch_repeat_interleave(repeats)
    layer.batch_select_indices(torch.tensor([0, 2 * repeats]))
    assert torch.equal(layer.memory[0], sources[[0, 2]])
    layer.reorder_cache(torch.tensor([1, 0]))
    assert torch.equal(layer.memory[0], sources[[2, 0]])


def test_reset_forgets_everything():
    layer, _ = filled(record=True)
    layer.remember(torch.ones(ROWS, 2, dtype=torch.bool), torch.randn(ROWS, 2, SIZE))
    layer.reset()
    assert (layer.state, layer.memory_mask, layer.source, layer.memory, layer.trail) == (None, None, None, (), [])
    assert layer.get_seq_length() == 0
    assert not layer.is_initialized


def test_a_copy_is_independent():
    layer, states = filled(record=True)
    layer.remember(torch.ones(ROWS, 2, dtype=torch.bool), torch.randn(ROWS, 2, SIZE))
    twin = copy.deepcopy(layer)
    twin.reorder_cache(torch.tensor([2, 1, 0]))
    twin.update(states)
    twin.memory[0].zero_()
    assert torch.equal(layer.state, states[:, -1])
    assert layer.get_seq_length() == STEPS
    assert layer.memory[0].abs().max() > 0
    layer.crop(-1)
    assert torch.equal(layer.state, states[:, 2])


def test_offloaded_and_fetched_back_it_is_where_it_was():
    layer, states = filled(record=True)
    cross = remembering(torch.randn(ROWS, 4, SIZE))
    memory = cross.memory[0].clone()
    for part in (layer, cross):
        part.offload()
        part.prefetch()
    assert torch.equal(layer.state, states[:, -1])
    assert torch.equal(cross.memory[0], memory)
    RecurrentStateLayer().prefetch()  # nothing in it, nothing to fetch
    # no second device is at hand here: "meta" stands for it
    for part in (layer, cross):
        part._each(lambda tensor: tensor.to("meta"))
        part.device = torch.device("meta")
    cross.prefetch()
    assert cross.memory[0].device.type == "meta"


@pytest.mark.parametrize("variant", ["gru, additive fed, two layers", "lstm, scaled dot before"])
def test_a_model_goes_on_the_same_from_a_copied_reordered_cropped_or_reset_cache(variant):
    model = tiny_model(GenaiRNNForConditionalGeneration, ENCODER_DECODERS[variant])
    ids, mask = ragged(3, 6, 19, "left")
    target = ragged(3, 6, 19, seed=1, shortest=6)[0]

    @torch.no_grad()
    def logits(cache, chosen, places, rows=slice(None)):
        inputs = {"input_ids": ids[rows], "attention_mask": mask[rows], "past_key_values": cache, "use_cache": True}
        return model(**inputs, decoder_input_ids=chosen[:, places]).logits

    whole = logits(None, target, slice(0, 6))
    cache = model.model.new_cache()
    assert isinstance(cache, EncoderDecoderCache)
    logits(cache, target, slice(0, 4))
    torch.testing.assert_close(logits(copy.deepcopy(cache), target, slice(4, 6)), whole[:, 4:])

    order = torch.tensor([2, 0, 1])
    moved = copy.deepcopy(cache)
    moved.reorder_cache(order)
    torch.testing.assert_close(logits(moved, target[order], slice(4, 6), order), whole[order, 4:])

    cropped = model.model.new_cache()
    logits(cropped, target, slice(0, 3))
    for layer in cropped.self_attention_cache.layers:
        layer.activate_past_recording()
    logits(cropped, target.flip(1), slice(0, 3))  # tokens that turn out to be wrong
    cropped.crop(-3)
    torch.testing.assert_close(logits(cropped, target, slice(3, 6)), whole[:, 3:])

    cache.reset()
    assert cache.get_seq_length() == 0
    torch.testing.assert_close(logits(cache, target, slice(0, 6)), whole)
    # another batch: nothing of the old source may be left
    cache.reset()
    flipped = torch.tensor([1, 0])
    torch.testing.assert_close(logits(cache, target[flipped], slice(0, 6), flipped), whole[flipped])
