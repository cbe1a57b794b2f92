"""FlashAttention needs a GPU: here plain attention stands in for its two kernels, below all that transformers and the
models do to call them."""

import pytest
import torch
import torch.nn.functional as F
from private_names import attend_by_flash, flash_kernels
from tiny_cases import BERT, GPT, T5
from tiny_transformer import BERTS, GPTS, PLAIN, SIZES, T5S

from hf_genai import GenaiBertForMaskedLM, GenaiGPTForCausalLM, GenaiT5ForConditionalGeneration

FAMILIES = {BERT: (GenaiBertForMaskedLM, BERTS), GPT: (GenaiGPTForCausalLM, GPTS)}
DECODERS = {GPT: FAMILIES[GPT], T5: (GenaiT5ForConditionalGeneration, T5S)}


def variants(families):
    """All layouts that FlashAttention can do: no additive scores, no learned biases."""
    for family, (cls, layouts) in families.items():
        for name, layout in layouts.items():
            if "additive" not in name and layout.get("position_embedding_type") != "relative_bias":
                yield pytest.param(cls, layout, id=f"{family}-{name}")


def plain(query, key, value, causal, scale):
    """(B, T, H, E) -> (B, T, H, E); causal from the end on, as the kernel does it."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    length, keys = query.shape[2], key.shape[2]
    mask = torch.ones(length, keys, dtype=torch.bool).tril(keys - length) if causal else None
    found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=True)
    return found.transpose(1, 2)


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, **kwargs):
    return plain(q, k, v, causal, softmax_scale)


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False
):
    assert cu_seqlens_q.dtype == torch.int32
    lengths = [ends.diff().tolist() for ends in (cu_seqlens_q, cu_seqlens_k)]
    assert (max_seqlen_q, max_seqlen_k) == tuple(map(max, lengths))
    texts = zip(q.split(lengths[0]), k.split(lengths[1]), v.split(lengths[1]), strict=True)
    return torch.cat([plain(*(x.unsqueeze(0) for x in text), causal, softmax_scale)[0] for text in texts])


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    flash_kernels(monkeypatch, flash_attn_func, flash_attn_varlen_func)


def twins(cls, layout):
    """The same model on FlashAttention and on eager attention."""
    torch.manual_seed(0)
    model, other = (cls(cls.config_class(**{**SIZES, **PLAIN, **layout})).eval() for _ in range(2))
    other.load_state_dict(model.state_dict())
    other.set_attn_implementation("eager")
    attend_by_flash(model)
    return model, other


def packed_rows():
    """Two rows of twelve tokens, of three and of two texts."""
    ids = torch.randint(3, SIZES["vocab_size"], (2, 12), generator=torch.Generator().manual_seed(1))
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4]])
    return {"input_ids": ids, "position_ids": positions}


@pytest.mark.parametrize(("cls", "layout"), variants(FAMILIES))
@pytest.mark.parametrize("rows", [2, 1])
def test_packed_texts_do_not_see_each_other(cls, layout, rows):
    model, other = twins(cls, layout)
    packed = {name: x[:rows] for name, x in packed_rows().items()}
    labels = packed["input_ids"].masked_fill(packed["position_ids"] == 0, -100)
    # with a cache, too, as a Trainer evaluates
    for train in (True, False):
        model.train(train), other.train(train)
        found, wanted = (m(**packed, labels=labels, skip_logits=False) for m in (model, other))
        torch.testing.assert_close(found.logits, wanted.logits, atol=1e-5, rtol=1e-4)
        model.zero_grad(), other.zero_grad()
        found.loss.backward(), wanted.loss.backward()
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            if theirs.grad is not None:
                torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("cls", "layout"), variants(FAMILIES))
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_seen(cls, layout, side):
    model, other = twins(cls, layout)
    ids = torch.randint(3, SIZES["vocab_size"], (2, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    mask = mask if side == "left" else mask.flip(1)
    ids = ids.masked_fill(mask == 0, SIZES["pad_token_id"])
    found, wanted = (m(input_ids=ids, attention_mask=mask).logits[mask.bool()] for m in (model, other))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("cls", "layout"), variants(DECODERS))
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_writes_the_same(cls, layout, beams):
    model, other = twins(cls, layout)
    ids = torch.randint(3, SIZES["vocab_size"], (3, 6), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    options = {"max_new_tokens": 8, "num_beams": beams, "do_sample": False, "eos_token_id": None}
    found, wanted = (m.generate(ids, attention_mask=mask, **options) for m in (model, other))
    assert found.tolist() == wanted.tolist()


@torch.no_grad()
@pytest.mark.parametrize(("cls", "layout"), variants({T5: DECODERS[T5]}))
def test_a_source_with_padding_is_read_as_by_eager_attention(cls, layout):
    model, other = twins(cls, layout)
    ids = torch.randint(3, SIZES["vocab_size"], (2, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    labels = ids[:, :4]
    found, wanted = (m(input_ids=ids, attention_mask=mask, labels=labels).logits for m in (model, other))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
