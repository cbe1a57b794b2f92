"""The other side: transformers' GPT-2, Llama, T5 and BERT at given sizes, and a causal Transformer as in nanoGPT.

`weights_of_*` give, for each parameter of ours, the peer's tensor that it equals: so losses and gradients are compared
before a clock runs.
"""

from collections.abc import Iterator

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

HIDDEN, LAYERS, HEADS = 256, 4, 4


class NanoBlock(nn.Module):
    """Pre-norm block: one projection for queries, keys and values, torch's fused attention, GELU."""

    def __init__(self, dropout: float, bias: bool):
        super().__init__()
        self.dropout = dropout
        self.norm1, self.norm2 = nn.LayerNorm(HIDDEN, bias=bias), nn.LayerNorm(HIDDEN, bias=bias)
        self.qkv, self.out = nn.Linear(HIDDEN, 3 * HIDDEN, bias=bias), nn.Linear(HIDDEN, HIDDEN, bias=bias)
        self.up, self.down = nn.Linear(HIDDEN, 4 * HIDDEN, bias=bias), nn.Linear(4 * HIDDEN, HIDDEN, bias=bias)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        heads = (
            part.view(batch, length, HEADS, -1).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).split(HIDDEN, dim=2)
        )  # (B, H, T, E) each
        context = F.scaled_dot_product_attention(*heads, dropout_p=self.dropout, is_causal=True)
        x = x + self.drop(self.out(context.transpose(1, 2).contiguous().view(batch, length, HIDDEN)))
        return x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))


class NanoGPT(nn.Module):
    """The structure of karpathy/nanoGPT: tied head, cross-entropy over all logits."""

    def __init__(self, vocab_size: int, length: int, dropout: float = 0.0, bias: bool = True):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, HIDDEN), nn.Embedding(length, HIDDEN)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(NanoBlock(dropout, bias) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(HIDDEN, bias=bias)
        self.head = nn.Linear(HIDDEN, vocab_size, bias=False)
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


def gpt2(vocab_size: int, length: int, dropout: float = 0.0) -> GPT2LMHeadModel:
    drop = {"embd_pdrop": dropout, "resid_pdrop": dropout, "attn_pdrop": dropout}
    sizes = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": length, "vocab_size": vocab_size}
    special = {"bos_token_id": None, "eos_token_id": None, "use_cache": False}
    return GPT2LMHeadModel(GPT2Config(**sizes, **drop, **special, attn_implementation="sdpa"))


def llama(vocab_size: int, length: int, inner: int, key_value_heads: int) -> LlamaForCausalLM:
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    more = {"intermediate_size": inner, "num_key_value_heads": key_value_heads, "max_position_embeddings": length}
    special = {"tie_word_embeddings": True, "use_cache": False, "bos_token_id": None, "eos_token_id": None}
    return LlamaForCausalLM(LlamaConfig(**sizes, **more, **special, vocab_size=vocab_size, attn_implementation="sdpa"))


def t5(vocab_size: int, dropout: float = 0.0) -> T5ForConditionalGeneration:
    sizes = {"d_model": HIDDEN, "num_layers": LAYERS, "num_heads": HEADS, "d_kv": HIDDEN // HEADS, "d_ff": 4 * HIDDEN}
    special = {"decoder_start_token_id": 0, "dropout_rate": dropout, "use_cache": False}
    return T5ForConditionalGeneration(T5Config(vocab_size=vocab_size, **sizes, **special))


def bert(vocab_size: int, length: int, dropout: float = 0.0) -> BertForMaskedLM:
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    more = {"intermediate_size": 4 * HIDDEN, "max_position_embeddings": length, "vocab_size": vocab_size}
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return BertForMaskedLM(BertConfig(**sizes, **more, **drop, attn_implementation="sdpa"))


Table = Iterator[tuple[str, Tensor, Tensor | None]]


def _affine(ours: str, theirs: nn.Module, rows: slice = slice(None), transposed: bool = False) -> Table:
    """Our name, their weight and its gradient's place; rows are those of our matrix (out, in)."""

    def part(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        return tensor.t()[rows] if transposed and tensor.ndim == 2 else tensor[rows]

    for kind in ("weight", "bias"):
        tensor = getattr(theirs, kind, None)
        if tensor is not None:
            yield f"{ours}.{kind}", part(tensor), part(tensor.grad)


def _fused(ours: str, names: tuple[str, ...], theirs: nn.Module, transposed: bool = False) -> Table:
    for index, name in enumerate(names):
        yield from _affine(f"{ours}.{name}", theirs, slice(index * HIDDEN, (index + 1) * HIDDEN), transposed)


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
