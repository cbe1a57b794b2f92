"""The pretraining loop: the same curve however the work is divided, and whether or not it was stopped."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset

import hf_genai
from hf_genai.objectives.causal_lm import CausalLMCollator
from hf_genai.training import loop
from hf_genai.training.trainer import TrainingInterrupted


def rows(count: int = 40, seed: int = 0) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 12, (count,), generator=generator).tolist()
    return Dataset.from_dict(
        {"input_ids": [torch.randint(3, 30, (length,), generator=generator).tolist() for length in lengths]}
    )


def model(dropout: float = 0.0):
    torch.manual_seed(0)
    config = hf_genai.GenaiGPTConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, hidden_dropout_prob=dropout
    )
    return hf_genai.GenaiGPTForCausalLM(config)


def options(folder, **more):
    return loop.LoopOptions(
        **{"output_dir": str(folder), "max_steps": 12, "per_device_batch_size": 8, "warmup_steps": 2, **more}
    )


def cpu() -> Accelerator:
    return Accelerator(cpu=True)


def run(folder, dropout=0.0, resume_from=None, validation=None, **more):
    trained = model(dropout)
    history = loop.train(
        *(trained, rows(), CausalLMCollator(0), options(folder, **more)),
        validation=validation,
        accelerator=cpu(),
        resume_from=resume_from,
    )
    return trained, history


def test_every_epoch_takes_every_row_once_in_another_order():
    batches = loop.Batches(rows(10), CausalLMCollator(0), 4, seed=1)
    taken = [place for step in range(5) for place in batches.places(step)]
    assert sorted(taken[:10]) == sorted(taken[10:]) == list(range(10))
    assert taken[:10] != taken[10:]
    assert batches.places(3) == taken[12:16]


def test_one_batch_of_eight_and_two_parts_of_four_give_the_same_curve(tmp_path):
    one = run(tmp_path)[1].losses
    two = run(tmp_path, per_device_batch_size=4, gradient_accumulation_steps=2)[1].losses
    eight = run(tmp_path, per_device_batch_size=1, gradient_accumulation_steps=8)[1].losses
    assert one == pytest.approx(two, abs=1e-5)
    assert one == pytest.approx(eight, abs=1e-5)
    assert one[-1] < one[0]


def test_ragged_parts_give_the_gradient_of_the_whole_batch():
    batch = loop.Batches(rows(), CausalLMCollator(0), 8, 0)[0]
    found = []
    for size in (8, 3, 1):
        trained = model()
        loop.gradient_step(trained, cpu(), batch, size)
        found.append({name: parameter.grad.clone() for name, parameter in trained.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found[2][name], gradient, atol=1e-6, rtol=1e-5)


def test_a_stopped_run_goes_on_to_the_very_weights_of_one_that_was_not(tmp_path):
    whole, history = run(tmp_path / "whole", dropout=0.2)
    run(tmp_path / "part", dropout=0.2, save_steps=5)
    checkpoint = tmp_path / "part" / "checkpoint-10"
    assert checkpoint.is_dir()
    assert [path.name for path in (tmp_path / "part").iterdir()] == ["checkpoint-10"]
    resumed, again = run(tmp_path / "part", dropout=0.2, resume_from=str(checkpoint))
    assert again.losses == history.losses
    for name, parameter in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], parameter), name


def test_draws_depend_on_the_seed_and_the_step_and_not_on_what_was_drawn_before(tmp_path, monkeypatch):
    _, history = run(tmp_path / "one", dropout=0.2)
    real = loop.gradient_step
    monkeypatch.setattr(loop, "gradient_step", lambda *args: (real(*args), torch.rand(7))[0])
    assert run(tmp_path / "two", dropout=0.2)[1].losses == history.losses
    monkeypatch.undo()
    assert run(tmp_path / "three", dropout=0.2, seed=7)[1].losses != history.losses


def test_a_signal_saves_a_checkpoint_that_can_be_gone_on_from(tmp_path, monkeypatch):
    real, calls = loop.gradient_step, []

    def step_and_signal(*args):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(loop, "gradient_step", step_and_signal)
    with pytest.raises(TrainingInterrupted, match=r"stopped by SIGTERM after step 4 of 12"):
        run(tmp_path)
    monkeypatch.undo()
    _, history = run(tmp_path, resume_from=str(tmp_path / "checkpoint-4"))
    assert history.losses == run(tmp_path / "whole")[1].losses


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    accelerator, history = cpu(), loop.History(losses=[1.0])
    accelerator.prepare(model())
    loop.save_checkpoint(accelerator, history, str(tmp_path), 1, {})

    def full(folder):
        Path(folder).mkdir()
        raise OSError("No space left on device")

    monkeypatch.setattr(accelerator, "save_state", full)
    with pytest.raises(OSError, match="could not save .*No space left"):
        loop.save_checkpoint(accelerator, history, str(tmp_path), 2, {})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert json.loads((tmp_path / "checkpoint-1" / "history.json").read_text())["losses"] == [1.0]


def test_the_held_out_loss_is_the_mean_over_all_tokens(tmp_path):
    held_out = rows(7, seed=1)
    trained = model()
    found = loop.evaluate(trained, cpu(), held_out, CausalLMCollator(0), 3)
    total, count = 0.0, 0
    trained.eval()
    for row in held_out:
        ids = torch.tensor([row["input_ids"]])
        total += trained(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert found == pytest.approx(total / count, abs=1e-5)
    _, history = run(tmp_path, validation=held_out, eval_steps=5)
    assert list(history.evaluations) == [5, 10, 12]
    summary = loop.summary(history)
    assert summary["perplexity"] == pytest.approx(math.exp(history.evaluations[12]), rel=1e-3)
    assert (summary["steps"], summary["tokens"]) == (12, history.tokens)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match=r"lower learning_rate \(1e\+30\)"):
        run(tmp_path, learning_rate=1e30, max_grad_norm=0.0, warmup_steps=0)


def test_two_processes_draw_the_curve_of_one(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(
        "import json, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_loop as t\n"
        "_, history = t.run(sys.argv[1], per_device_batch_size=4, validation=t.rows(7, 1))\n"
        "accelerator = t.cpu()\n"
        "model = accelerator.prepare(t.model())\n"
        "t.loop.gradient_step(model, accelerator, t.loop.Batches(t.rows(), t.CausalLMCollator(0), 8, 0)[0], 2)\n"
        "gradients = {name: p.grad.tolist() for name, p in accelerator.unwrap_model(model).named_parameters()}\n"
        "if accelerator.is_main_process:\n"
        "    json.dump([history.losses, history.evaluations, gradients], open(sys.argv[1] + '.json', 'w'))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29731"]
    subprocess.run([*command, str(script), str(tmp_path / "out")], check=True, env=environment, timeout=120)
    losses, evaluations, gradients = json.loads((tmp_path / "out.json").read_text())
    _, history = run(tmp_path / "one", validation=rows(7, 1))
    assert losses == pytest.approx(history.losses, abs=1e-5)
    assert evaluations["12"] == pytest.approx(history.evaluations[12], abs=1e-5)
    # AdamW would not show gradients that are all too small by one factor
    alone = model()
    loop.gradient_step(alone, cpu(), loop.Batches(rows(), CausalLMCollator(0), 8, 0)[0], 8)
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(torch.tensor(gradients[name]), parameter.grad, atol=1e-6, rtol=1e-5)
