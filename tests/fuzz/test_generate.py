"""Whatever generate() is asked for, there are tokens of the vocabulary or an error that names an option."""

from functools import cache

import pytest
import tiny_cases
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_forward import changed, says_what_is_wrong

from hf_genai.registry import FAMILIES

CASES = {
    family: [case for _, case in tiny_cases.cases() if case.family == family and case.generates] for family in FAMILIES
}
ODD = st.sampled_from(
    [
        None,
        0,
        -1,
        1,
        2,
        3,
        5,
        19,
        10**6,
        10**9,
        2**40,
        "2",
        "",
        True,
        False,
        0.5,
        2.0,
        -1.0,
        1e300,
        float("nan"),
        [],
        [99],
    ]
)
OPTIONS = {
    **dict.fromkeys(("num_beams", "num_return_sequences", "top_k", "no_repeat_ngram_size"), st.integers(0, 4)),
    **dict.fromkeys(("min_new_tokens", "min_length", "max_length"), st.integers(0, 6)),
    **dict.fromkeys(("temperature", "top_p", "min_p", "typical_p", "length_penalty"), st.floats(-1, 2)),
    **dict.fromkeys(("repetition_penalty", "epsilon_cutoff", "eta_cutoff"), st.floats(0, 2)),
    **dict.fromkeys(("do_sample", "use_cache", "early_stopping", "renormalize_logits"), st.booleans()),
    **dict.fromkeys(
        ("forced_bos_token_id", "forced_eos_token_id", "eos_token_id", "pad_token_id"), st.integers(-1, 20)
    ),
    **dict.fromkeys(("bos_token_id", "decoder_start_token_id"), st.integers(-1, 20)),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens"), st.lists(st.integers(-1, 20), max_size=3)),
}


@cache
def model_and_prompt(family: str, number: int):
    case = CASES[family][number]
    prompt = {name: tensor for name, tensor in case.batch("left").items() if not name.startswith("decoder")}
    return case.loud_model(std=0.1), prompt


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_generate_gives_tokens_or_names_the_option(family, data):
    model, prompt = model_and_prompt(family, data.draw(st.integers(0, len(CASES[family]) - 1)))
    names = data.draw(
        st.lists(st.sampled_from([*OPTIONS, "max_new_tokens", *prompt]), min_size=1, max_size=3, unique=True)
    )
    call = {**prompt, "max_new_tokens": 3, "max_time": 2.0}
    for name in names:
        if name in prompt:
            call[name] = data.draw(changed(prompt[name]))
        else:
            call[name] = data.draw(OPTIONS.get(name, st.integers(1, 4)) | ODD)
    if data.draw(st.booleans()):
        call["do_sample"] = True
    torch.manual_seed(0)
    ids = says_what_is_wrong(lambda: model.generate(**call), {*call, *names, "penalty"})
    if ids is not None:
        assert ids.dtype == torch.int64 and ids.ndim == 2
        assert ids.shape[1] <= max(20, call["max_new_tokens"] or 0) + tiny_cases.SOURCE


def test_an_amount_that_no_memory_holds_is_refused_at_once():
    model, prompt = model_and_prompt("genai_gpt", 1)  # with a table of 32 positions
    for options, message in (
        ({"max_new_tokens": 10**9}, "max_new_tokens must be a whole number from 1 to"),
        ({"max_new_tokens": 33}, r"max_new_tokens must be at most 32 \(max_position_embeddings\), not 33"),
        ({"num_beams": 10**6}, "num_beams must be a whole number from 1 to 4096, not 1000000"),
        ({"num_beams": 4096, "max_new_tokens": 2**20}, "max_new_tokens must be at most 65536 with 4096 beams"),
        ({"num_beams": "2"}, "num_beams must be a whole number from 1 to 4096, not '2'"),
        ({"num_beams": None}, "num_beams must be a whole number from 1 to 4096, not None"),
        ({"temperature": 1e-40, "do_sample": True}, "temperature must be at least 1e-6"),
        ({"repetition_penalty": 1e-40}, "repetition_penalty must be at least 1e-6"),
        ({"length_penalty": 10**6, "num_beams": 2}, "length_penalty must be a number from -30 to 30, not 1000000"),
        ({"early_stopping": []}, r"early_stopping must be True, False or 'never', not \[\]"),
        ({"pad_token_id": 19}, "pad_token_id must be token ids from 0 to 18, not 19"),
        ({"forced_bos_token_id": 19}, "forced_bos_token_id must be token ids from 0 to 18, not 19"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(**{**prompt, **options})


def test_an_end_of_minus_one_is_no_end():
    model, prompt = model_and_prompt("genai_gpt", 0)
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(
        model.generate(**prompt, **options, eos_token_id=-1, pad_token_id=0),
        model.generate(**prompt, **options, eos_token_id=None, pad_token_id=0),
    )
