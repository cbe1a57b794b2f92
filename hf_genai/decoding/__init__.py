"""A decode loop of our own, for `model.generate(..., custom_generate=hf_genai.fast_generate)`.

    generate.py    `fast_generate`: what it takes, what it refuses, which steps and which search it uses
    search.py      greedy search, sampling and beam search over steps
    steps.py       one token more for all rows: by the model itself, or by packed weights over keys and values in slots
    weights.py     a model's weights packed for few rows: float32, bfloat16 or int8

The searches decide as transformers' do, token for token, and know nothing of models.
"""

from .generate import fast_generate

__all__ = ["fast_generate"]
