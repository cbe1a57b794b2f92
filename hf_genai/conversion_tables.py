"""What of a transformers model is what of ours: for each layout one table of fields, one of weights and one of heads,
each read in both directions by conversion.py.

In a row of weights, "*" stands for the number of a layer, and a module's name stands for its weight and its bias. Rows
are tried in order; one applies where all that it names is there, and nothing yet on the other side.
"""

from dataclasses import replace
from typing import Any

from transformers.utils import logging

from .conversion_layout import (
    ANSWERS,
    CLASSIFIER,
    CONV1D,
    ONE_KIND_OF_HEADS,
    TWO_OUTPUTS,
    Head,
    Layout,
    Rows,
    same,
    whole_heads,
)
from .conversion_tables_bert import BERT, DISTILBERT, ROBERTA

logger = logging.get_logger(__name__)


# Their names of the activations that ours have; the tanh approximation of GELU has several.
ACTIVATIONS = {
    **{"relu": "relu", "gelu": "gelu", "gelu_python": "gelu", "silu": "silu", "swish": "silu"},
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "gelu_pytorch_tanh"),
}
# What both sides call by one name, in every layout that has it.
COMMON = (
    *("vocab_size", "initializer_range", "tie_word_embeddings", "use_cache", "pad_token_id", "bos_token_id"),
    *("eos_token_id", "decoder_start_token_id", "id2label", "label2id", "problem_type"),
)


def read_token_dropout(config: Any, head: str) -> dict[str, Any]:
    """Their token classifiers look for two fields that they do not declare, and fall back on 0.1."""
    if "Token" not in head:
        return {}
    found = [getattr(config, name, None) for name in ("classifier_dropout", "hidden_dropout")]
    dropout = next((value for value in found if value is not None), 0.1)
    return {"classifier_dropout": None if dropout == getattr(config, "resid_pdrop", 0.0) else dropout}


def write_token_dropout(config: Any, head: str) -> dict[str, Any]:
    dropout = config.head_dropout_prob
    return {"classifier_dropout": dropout} if "Token" in head and dropout != 0.1 else {}


def read_gpt2(config: Any, head: str) -> dict[str, Any]:
    if config.embd_pdrop != config.resid_pdrop:
        raise ValueError(
            f"embd_pdrop ({config.embd_pdrop}) and resid_pdrop ({config.resid_pdrop}) must be equal: genai_gpt has one"
            " hidden_dropout_prob for both; set them before converting"
        )
    return {
        "intermediate_size": 4 * config.n_embd if config.n_inner is None else config.n_inner,
        "attention_type": "scaled_dot" if config.scale_attn_weights else "dot",
        **read_token_dropout(config, head),
    }


def write_gpt2(config: Any, head: str) -> dict[str, Any]:
    return {
        "n_inner": None if config.intermediate_size == 4 * config.hidden_size else config.intermediate_size,
        "embd_pdrop": config.hidden_dropout_prob,
        "scale_attn_weights": config.attention_type == "scaled_dot",
        **write_token_dropout(config, head),
    }


def gpt_heads(name: str, causal: str, prefix: str, answers: str, tokens: str = "classifier") -> tuple[Head, ...]:
    """Return the heads of a causal family.

    Args:
        causal: Name of the language model.
        prefix: What stands before the base model's weights; `answers`: before those of question answering.
        tokens: Name of the classifier of tokens.
    """
    return (
        Head("GenaiGPTModel", f"{name}Model"),
        Head("GenaiGPTForCausalLM", causal, prefix, (("lm_head", "lm_head"),)),
        Head("GenaiGPTForSequenceClassification", f"{name}ForSequenceClassification", prefix, (("score", "score"),)),
        Head("GenaiGPTForTokenClassification", f"{name}ForTokenClassification", prefix, ((tokens, "classifier"),)),
        Head("GenaiGPTForQuestionAnswering", f"{name}ForQuestionAnswering", answers, ANSWERS),
    )


GPT2 = Layout(
    name="GPT-2",
    model_type="gpt2",
    family="genai_gpt",
    config="GPT2Config",
    fields={
        **{"n_positions": "max_position_embeddings", "n_embd": "hidden_size", "n_layer": "num_hidden_layers"},
        **{"n_head": "num_attention_heads", "activation_function": "hidden_act", "resid_pdrop": "hidden_dropout_prob"},
        **{"attn_pdrop": "attention_probs_dropout_prob", "layer_norm_epsilon": "layer_norm_eps"},
        **same("add_cross_attention"),
    },
    constants={
        **ONE_KIND_OF_HEADS,
        **{"gated_mlp": False, "position_embedding_type": "learned", "norm_type": "layer_norm"},
        **{"norm_position": "pre", "attention_bias": True, "mlp_bias": True, "activation_dropout_prob": 0.0},
        "attention_type": lambda config: (
            "scaled_dot" if config.attention_type == "additive" else config.attention_type
        ),
    },
    refused={"scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False},
    elsewhere=(
        *("n_inner", "embd_pdrop", "scale_attn_weights", "summary_type", "summary_use_proj", "summary_activation"),
        *("summary_proj_to_labels", "summary_first_dropout"),
    ),
    activations={"gelu_pytorch_tanh": "gelu_new"},
    read=read_gpt2,
    write=write_gpt2,
    rows=(
        ("wte", "embed_tokens"),
        ("wpe", "embed_positions"),
        ("h.*.ln_1", "layers.*.self_attn_norm"),
        (
            "h.*.attn.c_attn",
            ("layers.*.self_attn.q_proj", "layers.*.self_attn.k_proj", "layers.*.self_attn.v_proj"),
            CONV1D,
        ),
        ("h.*.attn.c_proj", "layers.*.self_attn.o_proj", CONV1D),
        ("h.*.ln_cross_attn", "layers.*.cross_attn_norm"),
        ("h.*.crossattention.q_attn", "layers.*.cross_attn.q_proj", CONV1D),
        ("h.*.crossattention.c_attn", ("layers.*.cross_attn.k_proj", "layers.*.cross_attn.v_proj"), CONV1D),
        ("h.*.crossattention.c_proj", "layers.*.cross_attn.o_proj", CONV1D),
        ("h.*.ln_2", "layers.*.mlp_norm"),
        ("h.*.mlp.c_fc", "layers.*.mlp.up_proj", CONV1D),
        ("h.*.mlp.c_proj", "layers.*.mlp.down_proj", CONV1D),
        ("ln_f", "norm"),
    ),
    heads=gpt_heads("GPT2", "GPT2LMHeadModel", "transformer.", "transformer."),
)


def read_rope(config: Any, head: str) -> dict[str, Any]:
    rope = dict(config.rope_parameters)
    if rope.get("partial_rotary_factor") not in (None, 1.0):
        raise ValueError(
            f"rope_parameters['partial_rotary_factor']={rope['partial_rotary_factor']} cannot be expressed by"
            " genai_gpt, which turns the whole head: it must be 1.0"
        )
    return {"rope_parameters": rope, **read_token_dropout(config, head)}


def write_rope(config: Any, head: str) -> dict[str, Any]:
    return {"rope_parameters": dict(config.rope_parameters), **write_token_dropout(config, head)}


LLAMA = Layout(
    name="Llama",
    model_type="llama",
    family="genai_gpt",
    config="LlamaConfig",
    fields={
        **same("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        **same("hidden_act", "max_position_embeddings", "attention_bias", "mlp_bias", "head_dim"),
        **{"rms_norm_eps": "layer_norm_eps", "attention_dropout": "attention_probs_dropout_prob"},
    },
    constants={
        **{"hidden_size": whole_heads, "gated_mlp": True, "attention_type": "scaled_dot"},
        **{"position_embedding_type": "rotary", "norm_type": "rms_norm", "norm_position": "pre"},
        **{"hidden_dropout_prob": 0.0, "activation_dropout_prob": 0.0, "add_cross_attention": False},
    },
    refused={},
    elsewhere=("pretraining_tp", "rope_parameters"),
    read=read_rope,
    write=write_rope,
    rows=(
        ("embed_tokens", "embed_tokens"),
        ("layers.*.input_layernorm", "layers.*.self_attn_norm"),
        ("layers.*.self_attn.q_proj", "layers.*.self_attn.q_proj"),
        ("layers.*.self_attn.k_proj", "layers.*.self_attn.k_proj"),
        ("layers.*.self_attn.v_proj", "layers.*.self_attn.v_proj"),
        ("layers.*.self_attn.o_proj", "layers.*.self_attn.o_proj"),
        ("layers.*.post_attention_layernorm", "layers.*.mlp_norm"),
        ("layers.*.mlp.gate_proj", "layers.*.mlp.gate_proj"),
        ("layers.*.mlp.up_proj", "layers.*.mlp.up_proj"),
        ("layers.*.mlp.down_proj", "layers.*.mlp.down_proj"),
        ("norm", "norm"),
    ),
    heads=gpt_heads("Llama", "LlamaForCausalLM", "model.", "transformer.", "score"),
)
MISTRAL = replace(
    LLAMA,
    name="Mistral",
    model_type="mistral",
    config="MistralConfig",
    fields={ours: name for ours, name in LLAMA.fields.items() if not ours.endswith("_bias")},
    constants={**LLAMA.constants, "attention_bias": False, "mlp_bias": False},
    refused={"sliding_window": None},
    heads=gpt_heads("Mistral", "MistralForCausalLM", "model.", "model.", "score"),
    writable=False,
)


def read_t5(config: Any, head: str) -> dict[str, Any]:
    name = config.dense_act_fn
    if name not in ACTIVATIONS:
        raise ValueError(
            f"feed_forward_proj={config.feed_forward_proj!r} cannot be expressed by genai_t5: the activation must be"
            f" one of {', '.join(ACTIVATIONS)}"
        )
    return {
        "hidden_act": ACTIVATIONS[name],
        "gated_mlp": config.is_gated_act,
        "attention_probs_dropout_prob": config.dropout_rate,
        "activation_dropout_prob": config.dropout_rate,
        "scale_decoder_outputs": config.scale_decoder_outputs,
        "max_position_embeddings": getattr(config, "n_positions", 512),
    }


def write_t5(config: Any, head: str) -> dict[str, Any]:
    name = config.hidden_act
    more = {key: getattr(config, key) for key in ("bos_token_id", "decoder_start_token_id")}
    if config.max_position_embeddings != 512:
        more["n_positions"] = config.max_position_embeddings  # a hint of the old configurations
    if config.gated_mlp:  # "gated-gelu" is their name of the tanh approximation
        name = {"gelu_pytorch_tanh": "gated-gelu", "gelu": "gated-gelu_python"}.get(name, f"gated-{name}")
    return {
        "feed_forward_proj": name,
        "scale_decoder_outputs": config.scale_decoder_outputs,
        "classifier_dropout": (config.head_dropout_prob),
        **{key: value for key, value in more.items() if value is not None},
    }


def t5_stack(side: str) -> Rows:
    """Return the rows of "encoder" or "decoder"."""
    block, layer = f"{side}.block.*.layer", f"{side}.layers.*"
    last = 1 if side == "encoder" else 2
    dense = f"{block}.{last}.DenseReluDense"
    return (
        *((f"{block}.0.SelfAttention.{name}", f"{layer}.self_attn.{name}_proj") for name in "qkvo"),
        (f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias", f"{side}.relative_bias"),
        (f"{block}.0.layer_norm", f"{layer}.self_attn_norm"),
        *((f"{block}.1.EncDecAttention.{name}", f"{layer}.cross_attn.{name}_proj") for name in "qkvo" if last == 2),
        *([(f"{block}.1.layer_norm", f"{layer}.cross_attn_norm")] if last == 2 else []),
        ((f"{dense}.wi_0", f"{dense}.wi_1"), (f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj")),
        (f"{dense}.wi", f"{layer}.mlp.up_proj"),
        (f"{dense}.wo", f"{layer}.mlp.down_proj"),
        (f"{block}.{last}.layer_norm", f"{layer}.mlp_norm"),
        (f"{side}.final_layer_norm", f"{side}.norm"),
    )


T5_CLASSIFIER = tuple((f"classification_head.{name}", f"classification_head.{name}") for name in ("dense", "out_proj"))
T5 = Layout(
    name="T5",
    model_type="t5",
    family="genai_t5",
    config="T5Config",
    fields={
        **{"d_model": "hidden_size", "d_kv": "head_dim", "d_ff": "intermediate_size", "num_layers": "encoder_layers"},
        **{"num_decoder_layers": "decoder_layers", "num_heads": "num_attention_heads"},
        **same("relative_attention_num_buckets", "relative_attention_max_distance", "classifier_dropout"),
        **{"dropout_rate": "hidden_dropout_prob", "layer_norm_epsilon": "layer_norm_eps"},
    },
    constants={
        "num_key_value_heads": lambda config: config.num_attention_heads,
        **{"attention_type": "dot", "position_embedding_type": "relative_bias", "norm_type": "rms_norm"},
        **{"norm_position": "pre", "attention_bias": False, "mlp_bias": False},
        "attention_probs_dropout_prob": lambda config: config.hidden_dropout_prob,
        "activation_dropout_prob": lambda config: config.hidden_dropout_prob,
    },
    refused={"is_decoder": False},
    elsewhere=("initializer_factor", "feed_forward_proj"),
    read=read_t5,
    write=write_t5,
    rows=(("shared", "encoder.embed_tokens"), *t5_stack("encoder"), *t5_stack("decoder")),
    heads=(
        Head("GenaiT5Model", "T5Model"),
        Head("GenaiT5EncoderModel", "T5EncoderModel"),
        Head("GenaiT5ForConditionalGeneration", "T5ForConditionalGeneration", "", (("lm_head", "lm_head"),)),
        Head("GenaiT5ForSequenceClassification", "T5ForSequenceClassification", "transformer.", T5_CLASSIFIER),
        Head("GenaiT5ForTokenClassification", "T5ForTokenClassification", "transformer.", CLASSIFIER),
        Head("GenaiT5ForQuestionAnswering", "T5ForQuestionAnswering", "", ANSWERS, constants=TWO_OUTPUTS),
    ),
)

LAYOUTS = (BERT, ROBERTA, DISTILBERT, GPT2, LLAMA, MISTRAL, T5)
# Near misses, and what keeps them out.
UNFIT = {
    "qwen2": "its attention has biases of queries, keys and values but none of the output, where attention_bias is"
    " for all four",
}
