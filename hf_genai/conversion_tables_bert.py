"""The tables of BERT, RoBERTa and DistilBERT; see conversion_tables.py."""

from dataclasses import replace
from typing import Any

from transformers.utils import logging

from .conversion_layout import ANSWERS, CLASSIFIER, ONE_KIND_OF_HEADS, TWO_OUTPUTS, Head, Layout, Rows, same

logger = logging.get_logger(__name__)

BERT_CONSTANTS = {
    **ONE_KIND_OF_HEADS,
    **{"gated_mlp": False, "attention_type": "scaled_dot", "position_embedding_type": "learned"},
    **{"norm_type": "layer_norm", "norm_position": "post", "norm_embeddings": True, "attention_bias": True},
    **{"mlp_bias": True, "activation_dropout_prob": 0.0},
}
BERT_ROWS: Rows = (
    ("embeddings.word_embeddings", "embed_tokens"),
    ("embeddings.position_embeddings", "embed_positions"),
    ("embeddings.token_type_embeddings", "embed_token_types"),
    ("embeddings.LayerNorm", "embed_norm"),
    ("encoder.layer.*.attention.self.query", "layers.*.self_attn.q_proj"),
    ("encoder.layer.*.attention.self.key", "layers.*.self_attn.k_proj"),
    ("encoder.layer.*.attention.self.value", "layers.*.self_attn.v_proj"),
    ("encoder.layer.*.attention.output.dense", "layers.*.self_attn.o_proj"),
    ("encoder.layer.*.attention.output.LayerNorm", "layers.*.self_attn_norm"),
    ("encoder.layer.*.crossattention.self.query", "layers.*.cross_attn.q_proj"),
    ("encoder.layer.*.crossattention.self.key", "layers.*.cross_attn.k_proj"),
    ("encoder.layer.*.crossattention.self.value", "layers.*.cross_attn.v_proj"),
    ("encoder.layer.*.crossattention.output.dense", "layers.*.cross_attn.o_proj"),
    ("encoder.layer.*.crossattention.output.LayerNorm", "layers.*.cross_attn_norm"),
    ("encoder.layer.*.intermediate.dense", "layers.*.mlp.up_proj"),
    ("encoder.layer.*.output.dense", "layers.*.mlp.down_proj"),
    ("encoder.layer.*.output.LayerNorm", "layers.*.mlp_norm"),
    ("pooler.dense", "pooler.dense"),
)


def bert_heads(name: str, *more: Head, sequence: Rows = CLASSIFIER, choice: Rows = CLASSIFIER) -> tuple[Head, ...]:
    """Return the heads of BERT and its kin: a base model, those given, and those that differ in little.

    Args:
        sequence: Weights of the classifier of texts.
        choice: Those of multiple choice.
    """
    prefix = f"{name.lower()}."
    return (
        *more,
        Head("GenaiBertForSequenceClassification", f"{name}ForSequenceClassification", prefix, sequence),
        Head("GenaiBertForTokenClassification", f"{name}ForTokenClassification", prefix, CLASSIFIER),
        Head(
            *("GenaiBertForQuestionAnswering", f"{name}ForQuestionAnswering", prefix, ANSWERS),
            constants=TWO_OUTPUTS,
        ),
        Head("GenaiBertForMultipleChoice", f"{name}ForMultipleChoice", prefix, choice),
    )


MASKED_LM: Rows = (
    ("cls.predictions.transform.dense", "prediction.dense"),
    ("cls.predictions.transform.LayerNorm", "prediction.norm"),
    ("cls.predictions.decoder.weight", "lm_head.weight"),
    # the two are one, but where nothing is tied the second is idle
    ("cls.predictions.decoder.bias", "lm_head.bias"),
    ("cls.predictions.bias", "lm_head.bias"),
)
NEXT_SENTENCE: Rows = (("cls.seq_relationship", "seq_relationship"),)
LOOKS_BACK = {"is_decoder": True}  # of ours, always; theirs is causal only where it says so
BERT = Layout(
    name="BERT",
    model_type="bert",
    family="genai_bert",
    config="BertConfig",
    fields={
        **same("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
        **same("hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size"),
        **same("layer_norm_eps", "classifier_dropout", "is_decoder", "add_cross_attention"),
    },
    constants={
        **BERT_CONSTANTS,
        **{"position_offset": 0, "pooler_act": "tanh"},
        "type_vocab_size": lambda config: max(config.type_vocab_size, 1),
    },
    refused={"position_embedding_type": "absolute"},
    elsewhere=(),
    rows=BERT_ROWS,
    heads=bert_heads(
        "Bert",
        Head("GenaiBertModel", "BertModel", only_ours=("pooler",), only_theirs=("pooler",)),
        Head("GenaiBertForMaskedLM", "BertForMaskedLM", "bert.", MASKED_LM, only_theirs=("cls.predictions.bias",)),
        Head(
            *("GenaiBertForCausalLM", "BertLMHeadModel", "bert.", MASKED_LM),
            only_theirs=("cls.predictions.bias",),
            constants=LOOKS_BACK,
        ),
        Head(
            *("GenaiBertForPreTraining", "BertForPreTraining", "bert.", (*MASKED_LM, *NEXT_SENTENCE)),
            only_theirs=("cls.predictions.bias",),
        ),
        Head("GenaiBertForNextSentencePrediction", "BertForNextSentencePrediction", "bert.", NEXT_SENTENCE),
    ),
)


def read_roberta(config: Any, head: str) -> dict[str, Any]:
    """Their multiple choice has the dropout of the layers, whatever classifier_dropout says."""
    return {"classifier_dropout": None} if "Choice" in head else {}


ROBERTA_HEAD: dict[str, Any] = {
    "rows": (
        ("lm_head.dense", "prediction.dense"),
        ("lm_head.layer_norm", "prediction.norm"),
        ("lm_head.decoder.weight", "lm_head.weight"),
        ("lm_head.decoder.bias", "lm_head.bias"),
        ("lm_head.bias", "lm_head.bias"),
    ),
    "only_theirs": ("lm_head.bias",),
    "constants": {"hidden_act": "gelu"},  # their head knows no other
}
ROBERTA = replace(
    BERT,
    name="RoBERTa",
    model_type="roberta",
    config="RobertaConfig",
    constants={**BERT.constants, "position_offset": lambda config: (config.pad_token_id or 0) + 1},
    read=read_roberta,
    heads=bert_heads(
        "Roberta",
        Head("GenaiBertModel", "RobertaModel", only_ours=("pooler",), only_theirs=("pooler",)),
        Head(*("GenaiBertForMaskedLM", "RobertaForMaskedLM", "roberta."), **ROBERTA_HEAD),
        Head(
            *("GenaiBertForCausalLM", "RobertaForCausalLM", "roberta."),
            **{**ROBERTA_HEAD, "constants": {**ROBERTA_HEAD["constants"], **LOOKS_BACK}},
        ),
        sequence=(("classifier.dense", "model.pooler.dense"), ("classifier.out_proj", "classifier")),
    ),
)


def read_distilbert(config: Any, head: str) -> dict[str, Any]:
    """Their token classifier has the dropout of the layers, the classifiers of texts one of their own."""
    if "Question" in head and config.qa_dropout:
        logger.warning("qa_dropout=%s is left out: genai_bert answers questions without dropout", config.qa_dropout)
    return {"classifier_dropout": None if "Token" in head else config.seq_classif_dropout}


def write_distilbert(config: Any, head: str) -> dict[str, Any]:
    dropout = config.head_dropout_prob
    return {"seq_classif_dropout": dropout} if "Sequence" in head or "Choice" in head else {}


POOLED_CLASSIFIER: Rows = (("pre_classifier", "model.pooler.dense"), *CLASSIFIER)
DISTILBERT = Layout(
    name="DistilBERT",
    model_type="distilbert",
    family="genai_bert",
    config="DistilBertConfig",
    fields={
        **{"dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads"},
        **{"hidden_dim": "intermediate_size", "activation": "hidden_act", "dropout": "hidden_dropout_prob"},
        **{"attention_dropout": "attention_probs_dropout_prob", **same("max_position_embeddings")},
    },
    constants={
        **BERT_CONSTANTS,
        **{"position_offset": 0, "type_vocab_size": 0, "layer_norm_eps": 1e-12, "pooler_act": "relu"},
        **{"is_decoder": False, "add_cross_attention": False},
    },
    refused={},
    # the second says how the table of positions begins
    elsewhere=("seq_classif_dropout", "sinusoidal_pos_embds", "qa_dropout"),
    read=read_distilbert,
    write=write_distilbert,
    rows=(
        ("embeddings.word_embeddings", "embed_tokens"),
        ("embeddings.position_embeddings", "embed_positions"),
        ("embeddings.LayerNorm", "embed_norm"),
        ("transformer.layer.*.attention.q_lin", "layers.*.self_attn.q_proj"),
        ("transformer.layer.*.attention.k_lin", "layers.*.self_attn.k_proj"),
        ("transformer.layer.*.attention.v_lin", "layers.*.self_attn.v_proj"),
        ("transformer.layer.*.attention.out_lin", "layers.*.self_attn.o_proj"),
        ("transformer.layer.*.sa_layer_norm", "layers.*.self_attn_norm"),
        ("transformer.layer.*.ffn.lin1", "layers.*.mlp.up_proj"),
        ("transformer.layer.*.ffn.lin2", "layers.*.mlp.down_proj"),
        ("transformer.layer.*.output_layer_norm", "layers.*.mlp_norm"),
    ),
    heads=bert_heads(
        "DistilBert",
        Head("GenaiBertModel", "DistilBertModel", only_ours=("pooler",)),
        Head(
            *("GenaiBertForMaskedLM", "DistilBertForMaskedLM", "distilbert."),
            rows=(
                ("vocab_transform", "prediction.dense"),
                ("vocab_layer_norm", "prediction.norm"),
                ("vocab_projector", "lm_head"),
            ),
        ),
        sequence=POOLED_CLASSIFIER,
        choice=POOLED_CLASSIFIER,
    ),
)
