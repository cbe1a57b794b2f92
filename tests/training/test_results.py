"""What is scored during training is what users wrote."""

from types import SimpleNamespace

import numpy as np
import pytest

from hf_genai.data import train_tokenizer
from hf_genai.training.results import metrics_of_outputs


def test_outputs_are_compared_with_the_users_texts_and_not_with_what_the_tokenizer_makes_of_them():
    tokenizer = train_tokenizer(["ab ab", "<s>"], "char", 40)
    references = ["ab ж", "ab ab"]  # the first has a letter that is unknown, and would come back as nothing
    ids = tokenizer(references, padding=True)["input_ids"]
    outputs = np.where(np.array(ids) == 0, -100, ids)
    scores = metrics_of_outputs(tokenizer, references)(SimpleNamespace(predictions=outputs, label_ids=outputs))
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == "ab "
    assert scores["exact_match"] == 0.5
    with pytest.raises(ValueError, match="2 outputs cannot be compared with 1 references"):
        metrics_of_outputs(tokenizer, references[:1])(SimpleNamespace(predictions=outputs))
