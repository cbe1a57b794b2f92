"""Sequence-to-sequence models and what grew out of them, as plug-ins for Hugging Face transformers.

`import hf_genai` registers every model class in the Auto classes; nothing heavy is loaded until it is used.
"""

import importlib
from typing import Any

from .registry import register

__version__ = "0.1.0"

# public name -> the module that defines it
_LAZY = {
    "GenaiBertConfig": "models.configuration_bert",
    "GenaiBertForCausalLM": "models.modeling_bert",
    "GenaiBertForMaskedLM": "models.modeling_bert",
    "GenaiBertForMultipleChoice": "models.modeling_bert",
    "GenaiBertForNextSentencePrediction": "models.modeling_bert",
    "GenaiBertForPreTraining": "models.modeling_bert",
    "GenaiBertForQuestionAnswering": "models.modeling_bert",
    "GenaiBertForSequenceClassification": "models.modeling_bert",
    "GenaiBertForTokenClassification": "models.modeling_bert",
    "GenaiBertModel": "models.modeling_bert",
    "GenaiGPTConfig": "models.configuration_gpt",
    "GenaiGPTForCausalLM": "models.modeling_gpt",
    "GenaiGPTForQuestionAnswering": "models.modeling_gpt",
    "GenaiGPTForSequenceClassification": "models.modeling_gpt",
    "GenaiGPTForTokenClassification": "models.modeling_gpt",
    "GenaiGPTModel": "models.modeling_gpt",
    "GenaiRNNConfig": "models.configuration_rnn",
    "GenaiRNNForCausalLM": "models.modeling_rnn",
    "GenaiRNNForConditionalGeneration": "models.modeling_rnn",
    "GenaiRNNForSequenceClassification": "models.modeling_rnn",
    "GenaiRNNForTokenClassification": "models.modeling_rnn",
    "GenaiRNNModel": "models.modeling_rnn",
    "GenaiT5Config": "models.configuration_t5",
    "GenaiT5EncoderModel": "models.modeling_t5",
    "GenaiT5ForConditionalGeneration": "models.modeling_t5",
    "GenaiT5ForQuestionAnswering": "models.modeling_t5",
    "GenaiT5ForSequenceClassification": "models.modeling_t5",
    "GenaiT5ForTokenClassification": "models.modeling_t5",
    "GenaiT5Model": "models.modeling_t5",
    "fast_generate": "decoding",
    "from_transformers": "conversion",
    "pipeline": "pipelines",
    "plain_kernels": "kernels.switch",
    "to_transformers": "conversion",
}

__all__ = [
    "GenaiBertConfig",
    "GenaiBertForCausalLM",
    "GenaiBertForMaskedLM",
    "GenaiBertForMultipleChoice",
    "GenaiBertForNextSentencePrediction",
    "GenaiBertForPreTraining",
    "GenaiBertForQuestionAnswering",
    "GenaiBertForSequenceClassification",
    "GenaiBertForTokenClassification",
    "GenaiBertModel",
    "GenaiGPTConfig",
    "GenaiGPTForCausalLM",
    "GenaiGPTForQuestionAnswering",
    "GenaiGPTForSequenceClassification",
    "GenaiGPTForTokenClassification",
    "GenaiGPTModel",
    "GenaiRNNConfig",
    "GenaiRNNForCausalLM",
    "GenaiRNNForConditionalGeneration",
    "GenaiRNNForSequenceClassification",
    "GenaiRNNForTokenClassification",
    "GenaiRNNModel",
    "GenaiT5Config",
    "GenaiT5EncoderModel",
    "GenaiT5ForConditionalGeneration",
    "GenaiT5ForQuestionAnswering",
    "GenaiT5ForSequenceClassification",
    "GenaiT5ForTokenClassification",
    "GenaiT5Model",
    "fast_generate",
    "from_transformers",
    "pipeline",
    "plain_kernels",
    "to_transformers",
]

register()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'hf_genai' has no attribute {name!r}")
    return getattr(importlib.import_module(f"hf_genai.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
