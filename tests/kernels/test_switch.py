"""HF_GENAI_KERNELS=0 and `plain_kernels` turn every twin off, and change no output."""

import json
import os
import subprocess
import sys

import pytest
import tiny_rnn
import tiny_transformer as tiny

import hf_genai
from hf_genai import kernels
from hf_genai.models import ops

# every class is trained for a step, and writes a few tokens
STEP = """
import json, sys

import torch
import hf_genai

results = {}
for name, fields in json.loads(sys.argv[1]).items():
    torch.manual_seed(0)
    config = getattr(hf_genai, name.split("For")[0] + "Config")(**fields)
    model = getattr(hf_genai, name)(config).eval()
    ids = torch.tensor([[4, 5, 6, 7, 8, 2], [9, 10, 2, 0, 0, 0]])
    loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=ids.masked_fill(ids == 0, -100)).loss
    loss.backward()
    slopes = [parameter.grad.norm().item() for parameter in model.parameters()]
    written = model.generate(ids[:1], max_new_tokens=5, do_sample=False).tolist() if model.can_generate() else None
    results[name] = {"loss": loss.item(), "slopes": slopes, "written": written}
"""
MODELS = {
    "GenaiRNNForConditionalGeneration": {**tiny_rnn.SIZES, "attention_type": "additive"},
    "GenaiBertForMaskedLM": {**tiny.SIZES, **tiny.PLAIN, **tiny.BERTS["modern"]},
    "GenaiGPTForCausalLM": {**tiny.SIZES, **tiny.PLAIN, **tiny.GPTS["modern"]},
    "GenaiT5ForConditionalGeneration": {**tiny.SIZES, **tiny.PLAIN, **tiny.T5S["modern"]},
}


def results_of_process(**environment: str) -> tuple[dict, list[str]]:
    """Return the results of STEP in a new process, and the names of the twins that it installed."""
    code = STEP + "\nfrom hf_genai.models import ops\nprint(json.dumps([results, sorted(ops.TWINS)]))"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(MODELS)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_GENAI_KERNELS": "", **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return tuple(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def without_twins() -> tuple[dict, list[str]]:
    return results_of_process(HF_GENAI_KERNELS="0")


def assert_same(results: dict, wanted: dict) -> None:
    assert results.keys() == wanted.keys() == MODELS.keys()
    for name, result in results.items():
        assert result["written"] == wanted[name]["written"]
        for key in ("loss", "slopes"):
            assert result[key] == pytest.approx(wanted[name][key], rel=1e-5, abs=1e-5), name


def test_the_environment_turns_every_twin_off_and_the_outputs_stay_the_same(without_twins):
    results, twins = results_of_process()
    assert without_twins[1] == []
    assert twins == sorted({operation for table in kernels.TWINS.values() for operation in table})
    assert_same(results, without_twins[0])


@pytest.mark.parametrize(("setting", "allowed"), [("0", "False"), ("1", "True")])
def test_the_environment_decides_whether_any_kernel_may_run(setting, allowed):
    script = (
        "import torch, hf_genai; hf_genai.GenaiGPTModel; from hf_genai.kernels.switch import fast_path_allowed;"
        " print(fast_path_allowed(torch.ones(2)))"
    )
    environment = {**os.environ, "HF_GENAI_KERNELS": setting}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == [allowed], done.stderr[-3000:]


def test_within_plain_kernels_every_twin_calls_its_plain_function(without_twins, monkeypatch):
    called: set[str] = set()
    plain_called: set[str] = set()

    def recorded(operation, twin):
        def run(plain, *args, **kwargs):
            called.add(operation)
            return twin(lambda *a, **k: (plain_called.add(operation), plain(*a, **k))[1], *args, **kwargs)

        return run

    for family in kernels.TWINS:
        kernels.install(family)
    for operation, twin in ops.TWINS.items():
        monkeypatch.setitem(ops.TWINS, operation, recorded(operation, twin))
    monkeypatch.setattr(sys, "argv", ["", json.dumps(MODELS)])
    names: dict = {}
    with hf_genai.plain_kernels():
        exec(STEP, names)
    assert plain_called == called
    assert_same(names["results"], without_twins[0])
