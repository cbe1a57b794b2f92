"""Positions against their formulas, written out number by number."""

import math

import pytest
import tiny_transformer as tiny
import torch
from private_names import relative_position_buckets
from tiny_rnn import loud

import hf_genai
from hf_genai import GenaiGPTConfig, GenaiGPTForCausalLM
from hf_genai.models.positions import (
    RelativePositionBias,
    RotaryEmbedding,
    positions_from_mask,
    rotate,
    sinusoidal_positions,
)


def test_positions_count_the_real_tokens_before_each():
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1], [1, 0, 1, 1]])
    assert positions_from_mask(mask, 4).tolist() == [[0, 1, 2, 3], [0, 0, 0, 1], [0, 0, 1, 2]]
    assert positions_from_mask(mask, 1).tolist() == [[3], [1], [2]]


def test_padding_may_be_longer_than_the_table_of_learned_positions():
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GenaiGPTConfig(**sizes, max_position_embeddings=6, position_embedding_type="learned")
    ids, mask = torch.full((2, 8), 3), torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]] * 2)
    assert GenaiGPTForCausalLM(config)(ids, attention_mask=mask).logits.isfinite().all()


def test_sinusoids_are_those_of_equation_3_5():
    found, size = sinusoidal_positions(torch.tensor([[0, 1, 7, 900]]), 8), 8
    for place, position in enumerate((0, 1, 7, 900)):
        for i in range(size // 2):
            angle = position / 10_000 ** (2 * i / size)
            assert found[0, place, i].item() == pytest.approx(math.sin(angle), abs=2e-4)
            assert found[0, place, size // 2 + i].item() == pytest.approx(math.cos(angle), abs=2e-4)


def test_rotation_turns_each_pair_by_position_times_frequency():
    config = hf_genai.GenaiGPTConfig(
        **tiny.SIZES, head_dim=6, rope_parameters={"rope_type": "default", "rope_theta": 50.0}
    )
    positions = torch.tensor([[0, 3, 11]])
    vectors = torch.randn(1, 2, 3, 6)  # (B, H, T, E)
    turned = rotate(vectors, *RotaryEmbedding(config)(vectors, positions))
    for head in range(2):
        for place, position in enumerate((0, 3, 11)):
            for i in range(3):
                number = complex(*(vectors[0, head, place, j].item() for j in (i, i + 3)))
                angle = position * 50.0 ** (-2 * i / 6)
                number *= complex(math.cos(angle), math.sin(angle))
                assert turned[0, head, place, i].item() == pytest.approx(number.real, abs=1e-5)
                assert turned[0, head, place, i + 3].item() == pytest.approx(number.imag, abs=1e-5)


def test_products_of_turned_vectors_depend_on_their_distance_alone():
    rotary = RotaryEmbedding(hf_genai.GenaiGPTConfig(**tiny.SIZES))
    query, key = torch.randn(2, 1, 1, 1, 4)

    def product(at, other):
        places = [rotary(query, torch.tensor([[place]])) for place in (at, other)]
        return (rotate(query, *places[0]) * rotate(key, *places[1])).sum().item()

    assert product(9, 4) == pytest.approx(product(105, 100), abs=1e-4)
    assert abs(product(9, 4) - product(9, 5)) > 1e-3


def bucket(distance: int, count: int, farthest: int, causal: bool) -> int:
    """Raffel et al.: half of the buckets one distance each, the others logarithmically up to the farthest."""
    ahead = 0
    if causal:
        distance = max(-distance, 0)
    else:
        count //= 2
        ahead = count if distance > 0 else 0
        distance = abs(distance)
    exact = count // 2
    if distance < exact:
        return ahead + distance
    far = exact + int(math.log(distance / exact) / math.log(farthest / exact) * (count - exact) + 1e-9)
    return ahead + min(far, count - 1)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("count", "farthest"), [(32, 128), (8, 12), (4, 9)])
def test_every_distance_falls_into_its_bucket(causal, count, farthest):
    bias = RelativePositionBias(count, farthest, 2, causal)
    distances = torch.arange(-200, 201)
    assert bias.buckets(distances).tolist() == [bucket(d, count, farthest, causal) for d in distances.tolist()]


@pytest.mark.parametrize("causal", [True, False])
def test_buckets_are_those_of_transformers(causal):
    distances = torch.arange(-300, 301)
    theirs = relative_position_buckets(distances, not causal, 32, 128)
    assert torch.equal(RelativePositionBias(32, 128, 2, causal).buckets(distances), theirs)


def test_the_bias_of_later_queries_is_a_slice_of_all():
    bias = RelativePositionBias(8, 12, 3, causal=True)
    assert torch.equal(bias(7, 7)[:, :, 5:], bias(2, 7, offset=5))
    assert bias(7, 7).shape == (1, 3, 7, 7)


@pytest.mark.parametrize("family", ["Bert", "GPT", "T5"])
@pytest.mark.parametrize("rope_type", ["linear", "dynamic", "yarn"])
def test_scaled_rotary_positions_change_what_they_should(family, rope_type):
    """What transformers' common tests ask, of one configuration for both sides too."""
    config_class, model_class = getattr(hf_genai, f"Genai{family}Config"), getattr(hf_genai, f"Genai{family}Model")
    generator = torch.Generator().manual_seed(0)
    short, long = (torch.randint(3, 19, (1, length), generator=generator) for length in (10, 48))

    def outputs(**rope):
        model = loud(model_class(config_class(**tiny.SIZES, rope_parameters={"rope_theta": 1e4, **rope})), 0.5)
        with torch.no_grad():
            return model(short).last_hidden_state, model(long).last_hidden_state

    plain, scaled = outputs(rope_type="default"), outputs(rope_type=rope_type, factor=10.0)
    if rope_type == "dynamic":
        torch.testing.assert_close(plain[0], scaled[0])
    else:
        assert not torch.allclose(plain[0], scaled[0], atol=1e-3)
    assert not torch.allclose(plain[1], scaled[1], atol=1e-3)
