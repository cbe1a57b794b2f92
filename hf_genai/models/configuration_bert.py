"""Sizes and choices of the bidirectional Transformers."""

from typing import Any, ClassVar, Literal, Self

from huggingface_hub.dataclasses import strict

from .configuration_transformer import GenaiTransformerConfig, initial_std, parallel_plan
from .fields import check_after, positive_int_field


@strict
class GenaiBertConfig(GenaiTransformerConfig):
    """Configuration of the BERT-style models; see `GenaiTransformerConfig` for the fields that all Transformers share.

    Args:
        type_vocab_size: Number of segments that `token_type_ids` tell apart; 0: none.
        norm_embeddings: Normalise the embeddings before the first layer, as BERT does, and Warner et al. (2024) in a
            modern layout: tokens then weigh as much as what the first layers add to them.
        position_offset: Row of the table of learned positions that the first token takes. RoBERTa's is
            `pad_token_id + 1`, and its positions count the tokens that are not `pad_token_id`.
        is_decoder: Causal: each token looks at itself and those before it.
        add_cross_attention: Give each layer of a causal model attention over the output of an encoder, as
            transformers' `EncoderDecoderModel` needs.
        pooler_act: Activation of the projection that a text is classified from: "tanh" (BERT) or "relu" (DistilBERT).
    """

    model_type = "genai_bert"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "GenaiBertModel",
        "AutoModelForMaskedLM": "GenaiBertForMaskedLM",
        "AutoModelForCausalLM": "GenaiBertForCausalLM",
        "AutoModelForPreTraining": "GenaiBertForPreTraining",
        "AutoModelForNextSentencePrediction": "GenaiBertForNextSentencePrediction",
        "AutoModelForSequenceClassification": "GenaiBertForSequenceClassification",
        "AutoModelForTokenClassification": "GenaiBertForTokenClassification",
        "AutoModelForQuestionAnswering": "GenaiBertForQuestionAnswering",
        "AutoModelForMultipleChoice": "GenaiBertForMultipleChoice",
    }
    base_model_tp_plan: ClassVar[dict[str, str]] = parallel_plan()

    max_position_embeddings: int = positive_int_field(default=512)
    type_vocab_size: int = 2
    norm_embeddings: bool = True
    position_offset: int = 0
    is_decoder: bool = False
    add_cross_attention: bool = False
    pooler_act: Literal["tanh", "relu"] = "tanh"

    @classmethod
    def classic(cls, **kwargs: Any) -> Self:
        """The layout of BERT: learned positions, LayerNorm after each sub-layer, GELU, biases, dropout 0.1.

        The defaults are the published base size (110 million parameters); any field can be given. Weights start
        with the published deviation of 0.02 up to this size and, against the paper, with less beyond (`initial_std`).

        Reference: Devlin et al. (2019), arXiv:1810.04805, section 3.
        """
        heads, size = kwargs.get("num_attention_heads", 12), kwargs.get("hidden_size", 768)
        layout = {
            **{"vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": heads},
            **{"num_key_value_heads": heads, "hidden_act": "gelu", "gated_mlp": False, "norm_embeddings": True},
            **{"position_embedding_type": "learned", "norm_type": "layer_norm", "layer_norm_eps": 1e-12},
            **{"norm_position": "post", "attention_bias": True, "mlp_bias": True, "hidden_dropout_prob": 0.1},
            **{"initializer_range": initial_std(size, 768), "attention_probs_dropout_prob": 0.1},
            **{"bos_token_id": None, "eos_token_id": None},
        }
        return cls(**{**layout, **kwargs})

    def validate_architecture(self):
        super().validate_architecture()
        for name in ("type_vocab_size", "position_offset"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        check_after(self, ("type_vocab_size", "hidden_size"))
        if self.add_cross_attention and not self.is_decoder:
            raise ValueError("add_cross_attention=True needs is_decoder=True: a decoder is what looks at a source")
        if self.position_offset and self.pad_token_id is None:
            raise ValueError("position_offset counts the tokens that are not pad_token_id, which is None")
        if self.position_offset and self.position_embedding_type != "learned":
            raise ValueError(
                "position_offset is a row of the table of learned positions: it must be 0 with"
                f" position_embedding_type={self.position_embedding_type!r}, not {self.position_offset}"
            )
        if self.position_offset >= self.max_position_embeddings:
            raise ValueError(
                f"position_offset must be below max_position_embeddings ({self.max_position_embeddings}), not"
                f" {self.position_offset}"
            )


__all__ = ["GenaiBertConfig"]
