import numpy as np
import pytest
import torch

from hf_genai.models import matmul, packed_linear


@pytest.fixture
def through_numpy(monkeypatch):
    """Small products go through numpy, whatever processor and threads there are."""
    monkeypatch.setattr(matmul, "numpy_is_faster", lambda: True)
    monkeypatch.setattr(packed_linear, "_panels_are_faster", lambda: True)
    monkeypatch.setattr(matmul, "SMALLEST_BATCH", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    calls = []
    multiply = np.matmul
    monkeypatch.setattr(np, "matmul", lambda *args, **kwargs: calls.append(1) or multiply(*args, **kwargs))
    return calls
