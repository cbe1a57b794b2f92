"""Sizes and choices of the encoder-decoder Transformers."""

from typing import Any, ClassVar, Self

from huggingface_hub.dataclasses import strict

from .configuration_transformer import GenaiTransformerConfig
from .fields import layers_field, positive_int_field


@strict
class GenaiT5Config(GenaiTransformerConfig):
    """Configuration of the T5-style models; see `GenaiTransformerConfig` for the fields that all Transformers share.

    Positions are those of the self-attention, in both halves; attention over the source has none.

    Args:
        encoder_layers: Layers of the encoder.
        decoder_layers: Layers of the decoder; `num_hidden_layers` is another name for it, since caches are made from
            it.
        scale_decoder_outputs: Divide the decoder's output by the square root of `hidden_size` before the vocabulary is
            scored, as the first T5 does.
    """

    model_type = "genai_t5"
    attribute_map: ClassVar[dict[str, str]] = {"num_hidden_layers": "decoder_layers"}
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "GenaiT5Model",
        "AutoModelForTextEncoding": "GenaiT5EncoderModel",
        "AutoModelForSeq2SeqLM": "GenaiT5ForConditionalGeneration",
        "AutoModelForSequenceClassification": "GenaiT5ForSequenceClassification",
        "AutoModelForTokenClassification": "GenaiT5ForTokenClassification",
        "AutoModelForQuestionAnswering": "GenaiT5ForQuestionAnswering",
    }

    encoder_layers: int = layers_field(default=4)
    decoder_layers: int = layers_field(default=4)
    scale_decoder_outputs: bool = False
    max_position_embeddings: int = positive_int_field(default=512)
    is_encoder_decoder: bool = True
    decoder_start_token_id: int | None = 1

    @classmethod
    def classic(cls, **kwargs: Any) -> Self:
        """The layout of T5: relative position biases, RMSNorm, ReLU, scores without division, dropout 0.1.

        The defaults are the published small size (60 million parameters); any field can be given.

        Reference: Raffel et al. (2020), arXiv:1910.10683, section 2.1; RMSNorm, the unscaled scores and the scaled
        output are in the published code.
        """
        heads = kwargs.get("num_attention_heads", 8)
        layout = {
            **{"vocab_size": 32128, "hidden_size": 512, "encoder_layers": 6, "decoder_layers": 6},
            **{"num_attention_heads": heads, "num_key_value_heads": heads, "hidden_act": "relu", "gated_mlp": False},
            **{"position_embedding_type": "relative_bias", "attention_type": "dot", "scale_decoder_outputs": True},
            **{"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "activation_dropout_prob": 0.1},
            **{"initializer_range": 0.02, "classifier_dropout": 0.0},
            **{"bos_token_id": None, "eos_token_id": 1, "decoder_start_token_id": 0},
        }
        return cls(**{**layout, **kwargs})


__all__ = ["GenaiT5Config"]
