"""Sequence-to-sequence models and what grew out of them, as plug-ins for Hugging Face transformers.

`import hf_genai` registers every model class in the Auto classes; nothing heavy is loaded until it is used.
"""

import importlib
from typing import Any

from .registry import register

__version__ = "0.1.0"

# public name -> the module that defines it
_LAZY = {
    "GenaiRNNConfig": "models.configuration_rnn",
    "GenaiRNNForCausalLM": "models.modeling_rnn",
    "GenaiRNNForConditionalGeneration": "models.modeling_rnn",
    "GenaiRNNForSequenceClassification": "models.modeling_rnn",
    "GenaiRNNForTokenClassification": "models.modeling_rnn",
    "GenaiRNNModel": "models.modeling_rnn",
    "pipeline": "pipelines",
}

__all__ = [
    "GenaiRNNConfig",
    "GenaiRNNForCausalLM",
    "GenaiRNNForConditionalGeneration",
    "GenaiRNNForSequenceClassification",
    "GenaiRNNForTokenClassification",
    "GenaiRNNModel",
    "pipeline",
]

register()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'hf_genai' has no attribute {name!r}")
    return getattr(importlib.import_module(f"hf_genai.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
