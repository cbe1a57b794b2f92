"""Sizes and choices of the causal Transformers."""

from typing import Any, ClassVar, Self

from huggingface_hub.dataclasses import strict

from .configuration_transformer import GenaiTransformerConfig, initial_std, parallel_plan


@strict
class GenaiGPTConfig(GenaiTransformerConfig):
    """Configuration of the GPT-style models; see `GenaiTransformerConfig` for the fields that all Transformers share.

    Args:
        add_cross_attention: Give each layer attention over the output of an encoder, as transformers'
            `EncoderDecoderModel` and its kin need.
    """

    model_type = "genai_gpt"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": "GenaiGPTModel",
        "AutoModelForCausalLM": "GenaiGPTForCausalLM",
        "AutoModelForSequenceClassification": "GenaiGPTForSequenceClassification",
        "AutoModelForTokenClassification": "GenaiGPTForTokenClassification",
        "AutoModelForQuestionAnswering": "GenaiGPTForQuestionAnswering",
    }
    base_model_tp_plan: ClassVar[dict[str, str]] = {"embed_tokens": "embedding_rowwise", **parallel_plan()}
    base_model_pp_plan: ClassVar[dict[str, Any]] = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    is_decoder: bool = True
    add_cross_attention: bool = False

    @classmethod
    def classic(cls, **kwargs: Any) -> Self:
        """The layout of GPT-2: learned positions, LayerNorm, tanh-GELU, biases, dropout 0.1.

        The defaults are the smallest published size (124 million parameters); any field can be given. Weights start
        with the published deviation of 0.02 up to this size and, against the paper, with less beyond (`initial_std`).

        Reference: Radford et al. (2019), "Language Models are Unsupervised Multitask Learners", section 2.3.
        """
        heads, size = kwargs.get("num_attention_heads", 12), kwargs.get("hidden_size", 768)
        layout = {
            **{"vocab_size": 50257, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": heads},
            **{"num_key_value_heads": heads, "hidden_act": "gelu_pytorch_tanh", "gated_mlp": False},
            **{"position_embedding_type": "learned", "norm_type": "layer_norm", "layer_norm_eps": 1e-5},
            **{"attention_bias": True, "mlp_bias": True, "hidden_dropout_prob": 0.1},
            **{"initializer_range": initial_std(size, 768), "attention_probs_dropout_prob": 0.1, "pad_token_id": None},
            **{"bos_token_id": 50256, "eos_token_id": 50256},
        }
        return cls(**{**layout, **kwargs})


__all__ = ["GenaiGPTConfig"]
