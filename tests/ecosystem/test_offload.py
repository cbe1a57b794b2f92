"""Weights that accelerate keeps elsewhere (processor, disk) and brings where a module is called, for models beyond
the device: no code may read the weights of a module that it does not call."""

import pytest
import torch
from accelerate import cpu_offload
from tiny_cases import cases

from hf_genai import fast_generate

CASES = dict(cases())


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_a_model_whose_weights_are_elsewhere_gives_the_same(name, tmp_path):
    case = CASES[name]
    model, batch = case.model(), case.batch()
    offloaded = cpu_offload(case.model(), execution_device=torch.device("cpu"))
    assert all(parameter.device.type == "meta" for parameter in offloaded.parameters())
    wanted = model(**batch)[0]
    torch.testing.assert_close(offloaded(**batch)[0], wanted, atol=1e-5, rtol=1e-5)
    if case.has_head:
        labelled = case.batch(labels=True)
        torch.testing.assert_close(case.loss(offloaded, labelled), case.loss(model, labelled), atol=1e-5, rtol=1e-5)
    if case.generates:
        inputs = {key: value for key, value in batch.items() if not key.startswith("decoder")}
        for how in ({}, {"custom_generate": fast_generate, "num_beams": 2}):
            options = {**inputs, **how, "max_new_tokens": 6, "do_sample": False}
            assert offloaded.generate(**options).tolist() == model.generate(**options).tolist()

    model.save_pretrained(tmp_path / "model")
    on_disk = type(model).from_pretrained(
        tmp_path / "model", device_map={"": "disk"}, offload_folder=str(tmp_path / "weights")
    )
    torch.testing.assert_close(on_disk.eval()(**batch)[0], wanted, atol=1e-5, rtol=1e-5)
