"""Transformer peers at given sizes: transformers' GPT-2, Llama, T5 and BERT, and a causal Transformer like nanoGPT's.

`weights_of_*` yield, for each parameter of our model, the equal tensor of the peer, so that the benchmarks can copy
weights and compare gradients before they measure.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model and of its batch: `batch` rows of `length` tokens."""

    vocab_size: int = 8192
    batch: int = 16
    length: int = 128
    hidden_size: int = 256
    layers: int = 4
    heads: int = 4


class NanoBlock(nn.Module):
    """Pre-norm block: one projection for queries, keys and values, torch's fused attention, GELU."""

    def __init__(self, hidden_size: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.qkv, self.out = nn.Linear(hidden_size, 3 * hidden_size), nn.Linear(hidden_size, hidden_size)
        self.up, self.down = nn.Linear(hidden_size, 4 * hidden_size), nn.Linear(4 * hidden_size, hidden_size)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, hidden_size = x.shape
        heads = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).split(hidden_size, dim=2)
        )  # (B, H, T, E) each
        context = F.scaled_dot_product_attention(*heads, dropout_p=self.dropout, is_causal=True)
        x = x + self.drop(self.out(context.transpose(1, 2).contiguous().view(batch, length, hidden_size)))
        return x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))


class NanoGPT(nn.Module):
    """The structure of karpathy/nanoGPT: tied head, cross-entropy over all logits."""

    def __init__(self, sizes: Sizes, dropout: float = 0.0):
        super().__init__()
        hidden_size = sizes.hidden_size
        self.tokens = nn.Embedding(sizes.vocab_size, hidden_size)
        self.positions = nn.Embedding(sizes.length, hidden_size)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(NanoBlock(hidden_size, sizes.heads, dropout) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(hidden_size)
        self.head = nn.Linear(hidden_size, sizes.vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.drop(self.tokens(ids) + self.positions(torch.arange(ids.shape[1])))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1), ignore_index=-1)


def gpt2(sizes: Sizes, dropout: float = 0.0) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=sizes.vocab_size,
        n_positions=sizes.length,
        n_embd=sizes.hidden_size,
        n_layer=sizes.layers,
        n_head=sizes.heads,
        embd_pdrop=dropout,
        resid_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
        attn_implementation="sdpa",
    )
    return GPT2LMHeadModel(config)


def llama(sizes: Sizes, intermediate_size: int, key_value_heads: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=sizes.vocab_size,
        max_position_embeddings=sizes.length,
        hidden_size=sizes.hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=key_value_heads,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def t5(sizes: Sizes, dropout: float = 0.0) -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=sizes.vocab_size,
        d_model=sizes.hidden_size,
        d_kv=sizes.hidden_size // sizes.heads,
        d_ff=4 * sizes.hidden_size,
        num_layers=sizes.layers,
        num_heads=sizes.heads,
        dropout_rate=dropout,
        decoder_start_token_id=0,
        use_cache=False,
    )
    return T5ForConditionalGeneration(config)


def bert(sizes: Sizes, dropout: float = 0.0) -> BertForMaskedLM:
    config = BertConfig(
        vocab_size=sizes.vocab_size,
        max_position_embeddings=sizes.length,
        hidden_size=sizes.hidden_size,
        intermediate_size=4 * sizes.hidden_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation="sdpa",
    )
    return BertForMaskedLM(config)


Table = Iterator[tuple[str, Tensor, Tensor | None]]


def _affine(ours: str, theirs: nn.Module, rows: slice = slice(None), transposed: bool = False) -> Table:
    """Yield our parameter's name, the peer's weight and its gradient; `rows` are those of our matrix (out, in)."""

    def part(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        return tensor.t()[rows] if transposed and tensor.ndim == 2 else tensor[rows]

    for parameter in ("weight", "bias"):
        tensor = getattr(theirs, parameter, None)
        if tensor is not None:
            yield f"{ours}.{parameter}", part(tensor), part(tensor.grad)


def _fused(ours: str, names: tuple[str, ...], theirs: nn.Module, transposed: bool = False) -> Table:
    """Yield the parts of one projection that has several of ours side by side."""
    size = len(theirs.bias) // len(names)
    for index, name in enumerate(names):
        yield from _affine(f"{ours}.{name}", theirs, slice(index * size, (index + 1) * size), transposed)


QKV = ("q_proj", "k_proj", "v_proj")


def weights_of_nanogpt(peer: NanoGPT) -> Table:
    yield from _affine("model.embed_tokens", peer.tokens)
    yield from _affine("model.embed_positions", peer.positions)
    yield from _affine("model.norm", peer.norm)
    for index, block in enumerate(peer.blocks):
        ours = f"model.layers.{index}"
        yield from _fused(f"{ours}.self_attn", QKV, block.qkv)
        pairs = {"self_attn.o_proj": block.out, "mlp.up_proj": block.up, "mlp.down_proj": block.down}
        for name, theirs in {**pairs, "self_attn_norm": block.norm1, "mlp_norm": block.norm2}.items():
            yield from _affine(f"{ours}.{name}", theirs)


def weights_of_gpt2(peer: GPT2LMHeadModel) -> Table:
    body = peer.transformer
    yield from _affine("model.embed_tokens", body.wte)
    yield from _affine("model.embed_positions", body.wpe)
    yield from _affine("model.norm", body.ln_f)
    for index, block in enumerate(body.h):
        ours = f"model.layers.{index}"
        yield from _fused(f"{ours}.self_attn", QKV, block.attn.c_attn, transposed=True)
        pairs = {"self_attn.o_proj": block.attn.c_proj, "mlp.up_proj": block.mlp.c_fc}
        for name, theirs in {**pairs, "mlp.down_proj": block.mlp.c_proj}.items():
            yield from _affine(f"{ours}.{name}", theirs, transposed=True)
        for name, theirs in {"self_attn_norm": block.ln_1, "mlp_norm": block.ln_2}.items():
            yield from _affine(f"{ours}.{name}", theirs)


def weights_of_llama(peer: LlamaForCausalLM) -> Table:
    yield from _affine("model.embed_tokens", peer.model.embed_tokens)
    yield from _affine("model.norm", peer.model.norm)
    for index, layer in enumerate(peer.model.layers):
        ours = f"model.layers.{index}"
        for name in (*QKV, "o_proj"):
            yield from _affine(f"{ours}.self_attn.{name}", getattr(layer.self_attn, name))
        for name in ("gate_proj", "up_proj", "down_proj"):
            yield from _affine(f"{ours}.mlp.{name}", getattr(layer.mlp, name))
        yield from _affine(f"{ours}.self_attn_norm", layer.input_layernorm)
        yield from _affine(f"{ours}.mlp_norm", layer.post_attention_layernorm)


def weights_of_t5(peer: T5ForConditionalGeneration) -> Table:
    yield from _affine("model.encoder.embed_tokens", peer.shared)
    for half, stack in (("encoder", peer.encoder), ("decoder", peer.decoder)):
        first = stack.block[0].layer[0].SelfAttention
        yield from _affine(f"model.{half}.relative_bias", first.relative_attention_bias)
        yield from _affine(f"model.{half}.norm", stack.final_layer_norm)
        for index, block in enumerate(stack.block):
            ours = f"model.{half}.layers.{index}"
            attentions = [("self_attn", block.layer[0], block.layer[0].SelfAttention)]
            if half == "decoder":
                attentions.append(("cross_attn", block.layer[1], block.layer[1].EncDecAttention))
            for name, layer, attention in attentions:
                yield from _affine(f"{ours}.{name}_norm", layer.layer_norm)
                for our_name, letter in zip((*QKV, "o_proj"), "qkvo", strict=True):
                    yield from _affine(f"{ours}.{name}.{our_name}", getattr(attention, letter))
            yield from _affine(f"{ours}.mlp_norm", block.layer[-1].layer_norm)
            yield from _affine(f"{ours}.mlp.up_proj", block.layer[-1].DenseReluDense.wi)
            yield from _affine(f"{ours}.mlp.down_proj", block.layer[-1].DenseReluDense.wo)


def weights_of_bert(peer: BertForMaskedLM) -> Table:
    embeddings, head = peer.bert.embeddings, peer.cls.predictions
    pairs = {"model.embed_tokens": embeddings.word_embeddings, "model.embed_positions": embeddings.position_embeddings}
    pairs |= {"model.embed_token_types": embeddings.token_type_embeddings, "model.embed_norm": embeddings.LayerNorm}
    pairs |= {"prediction.dense": head.transform.dense, "prediction.norm": head.transform.LayerNorm}
    for index, layer in enumerate(peer.bert.encoder.layer):
        ours, attention = f"model.layers.{index}", layer.attention
        for name, theirs in zip(QKV, ("query", "key", "value"), strict=True):
            pairs[f"{ours}.self_attn.{name}"] = getattr(attention.self, theirs)
        pairs |= {f"{ours}.self_attn.o_proj": attention.output.dense, f"{ours}.mlp.up_proj": layer.intermediate.dense}
        pairs |= {f"{ours}.self_attn_norm": attention.output.LayerNorm, f"{ours}.mlp_norm": layer.output.LayerNorm}
        pairs[f"{ours}.mlp.down_proj"] = layer.output.dense
    for name, theirs in pairs.items():
        yield from _affine(name, theirs)
    yield "lm_head.bias", head.bias, head.bias.grad
