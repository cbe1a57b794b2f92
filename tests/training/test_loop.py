"""The pretraining loop: the same curve however the work is divided, and whether or not it was stopped."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from safetensors import SafetensorError

import hf_genai
from hf_genai.objectives.causal_lm import CausalLMCollator
from hf_genai.training import loop
from hf_genai.training.trainer import TrainingInterrupted

FSDP2 = Path(__file__).parents[2] / "recipes" / "accelerate" / "fsdp2.yaml"


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


def test_an_evaluation_does_not_change_what_is_drawn_for_the_next_step():
    """Which a thread collates at the same time, by the same collator."""

    class Draws:
        generator = meanwhile = None

        def __call__(self, examples):
            if self.meanwhile is not None:
                self.meanwhile()
            return torch.rand(3, generator=self.generator).tolist()

    collate = Draws()
    expected = loop.Batches(rows(10), collate, 4, seed=1)[2]
    batches, evaluation = loop.Batches(rows(10), collate, 4, seed=1), loop.Batches(rows(10), collate, 4, seed=7)
    batches.collate.meanwhile = lambda: (setattr(batches.collate, "meanwhile", None), evaluation[0])
    assert batches[2] == expected
    assert batches[3] != expected  # drawn anew


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


@pytest.mark.parametrize(("name", "nth"), [("gradient_step", 12), ("evaluate", 3)])  # the last step, what follows it
def test_a_signal_at_the_end_costs_no_training(tmp_path, monkeypatch, name, nth):
    real, calls = getattr(loop, name), []

    def signalled(*args):
        calls.append(1)
        if len(calls) == nth:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(loop, name, signalled)
    with pytest.raises(TrainingInterrupted, match=r"after step 12 of 12; .*checkpoint-12 is whole"):
        run(tmp_path, validation=rows(9, 1), eval_steps=4)
    monkeypatch.undo()
    trained, history = run(tmp_path, resume_from=str(tmp_path / "checkpoint-12"), validation=rows(9, 1), eval_steps=4)
    whole, expected = run(tmp_path / "whole", validation=rows(9, 1), eval_steps=4)
    assert (history.losses, history.evaluations) == (expected.losses, expected.evaluations)
    assert all(torch.equal(weight, whole.state_dict()[name]) for name, weight in trained.state_dict().items())


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    accelerator, history = cpu(), loop.History(losses=[1.0])
    accelerator.prepare(model())
    loop.save_checkpoint(accelerator, history, str(tmp_path), 1, {})

    for error in (OSError, RuntimeError, SafetensorError):  # of a file, of torch.save, of the weights

        def full(folder, error=error):
            Path(folder).mkdir()
            raise error("No space left on device")

        monkeypatch.setattr(accelerator, "save_state", full)
        with pytest.raises(OSError, match="could not save .*No space left"):
            loop.save_checkpoint(accelerator, history, str(tmp_path), 2, {})
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert json.loads((tmp_path / "checkpoint-1" / "history.json").read_text())["losses"] == [1.0]


def test_a_new_checkpoint_takes_the_place_of_the_loops_own_and_of_no_other_folder(tmp_path):
    accelerator = cpu()
    accelerator.prepare(model())
    for name in ("checkpoint-1", "checkpoint-2.unfinished", "checkpoint-1-kept", "checkpoint-best"):
        (tmp_path / name).mkdir()
    loop.save_checkpoint(accelerator, loop.History(), str(tmp_path), 3, {})
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-3", "checkpoint-1-kept", "checkpoint-best"}


def test_the_held_out_loss_is_the_mean_over_all_tokens(tmp_path):
    held_out = rows(7, seed=1)
    trained = model(dropout=0.5)
    found = loop.evaluate(trained, cpu(), held_out, CausalLMCollator(0), 3)
    total, count = 0.0, 0
    assert trained.training
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


def test_the_cost_of_a_run_is_that_of_its_steps_alone(tmp_path, monkeypatch):
    clock, real = [0.0], loop.gradient_step
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    wait = lambda seconds: clock.__setitem__(0, clock[0] + seconds)  # noqa: E731
    monkeypatch.setattr(loop, "gradient_step", lambda *args: (wait(2), real(*args))[1])
    monkeypatch.setattr(loop, "evaluate", lambda *args: (wait(100), 1.0)[1])
    _, history = run(tmp_path, validation=rows(7), eval_steps=5, save_steps=5, max_steps=10)
    assert history.seconds == 20
    assert history.tokens == 2 * sum(len(ids) - 1 for ids in rows()["input_ids"])  # ten steps are two epochs


def test_each_option_of_the_optimiser_has_its_effect(tmp_path):
    first = run(tmp_path)[1].losses
    options = {"max_grad_norm": 0.1, "warmup_steps": 0, "lr_scheduler_type": "linear", "weight_decay": 0.9}
    for name, value in {**options, "adam_betas": (0.5, 0.5), "learning_rate": 1e-2}.items():
        assert run(tmp_path, **{name: value})[1].losses != first, name
    with pytest.raises(ValueError, match="learning_rate must be a number above 0, not 0"):
        run(tmp_path, learning_rate=0)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match=r"lower learning_rate \(1e\+30\)"):
        run(tmp_path, learning_rate=1e30, max_grad_norm=0.0, warmup_steps=0)
    unread, history = list(torch.tensor([2.0, math.nan, 3.0])), loop.History(losses=[1.0])
    with pytest.raises(FloatingPointError, match="the loss of step 3 is nan"):
        loop.read_losses(unread, history, options(tmp_path))


TWO_PROCESSES = """
import json, os, signal, sys
import torch
import yaml
import test_loop as t
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

folder, found, weights = sys.argv[1], {}, {}
kind, options = t.hf_genai.GenaiGPTForCausalLM, {}


def run(name, resume_from=None, **more):
    accelerator = Accelerator(cpu=True, **options)
    t.cpu = lambda: accelerator
    model, history = t.run(f"{folder}/{name}", resume_from=resume_from, per_device_batch_size=4, **more)
    found[name] = [history.losses, history.evaluations]
    whole = t.loop.whole_model(kind, model, accelerator)
    weights[name] = None if whole is None else {key: value.clone() for key, value in whole.state_dict().items()}
    return whole


def same(one, two):
    assert found[one][0] == found[two][0], (one, two)
    assert weights[one] is None or all(torch.equal(weights[one][key], weights[two][key]) for key in weights[one])


run("ddp", validation=t.rows(9, 1))  # 9: of the last batch, one row is left for two processes
accelerator = Accelerator(cpu=True)
model = accelerator.prepare(t.model())
t.loop.gradient_step(model, accelerator, t.loop.Batches(t.rows(), t.CausalLMCollator(0), 8, 0)[0], 2)
found["gradients"] = {name: p.grad.tolist() for name, p in accelerator.unwrap_model(model).named_parameters()}
run("dropped", dropout=0.2)
run("stopped", dropout=0.2, save_steps=5)
run("stopped", f"{folder}/stopped/checkpoint-10", dropout=0.2)
same("dropped", "stopped")

# one process alone gets a signal
real, steps = t.loop.gradient_step, []
def signal_in_the_second_step(*args):
    steps.append(1)
    if len(steps) == 2 and PartialState().process_index == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return real(*args)
t.loop.gradient_step = signal_in_the_second_step
try:
    run("signal", logging_steps=3)
except t.TrainingInterrupted as interruption:
    assert interruption.exit_code == 128 + signal.SIGTERM and "after step 3 of 12" in str(interruption)
else:
    raise AssertionError("the signal stopped nothing")
t.loop.gradient_step = real

# Accelerate divides weights (FSDP2) on GPUs only, torch on a CPU, too: call these processes GPUs
AcceleratorState._reset_state()
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
profile = yaml.safe_load(open(t.FSDP2))["fsdp_config"]
options["fsdp_plugin"] = FullyShardedDataParallelPlugin(
    fsdp_version=2,
    auto_wrap_policy=profile["fsdp_auto_wrap_policy"].lower(),
    transformer_cls_names_to_wrap=[profile["fsdp_transformer_layer_cls_to_wrap"]],
    reshard_after_forward=profile["fsdp_reshard_after_forward"],
    state_dict_type=profile["fsdp_state_dict_type"],
    cpu_ram_efficient_loading=profile["fsdp_cpu_ram_efficient_loading"],
)
assert Accelerator(cpu=True, **options).is_fsdp2
trained = run("fsdp", validation=t.rows(9, 1), save_steps=5)
run("resumed", f"{folder}/fsdp/checkpoint-10", validation=t.rows(9, 1))
same("fsdp", "resumed")
if accelerator.is_main_process:
    trained.save_pretrained(f"{folder}/saved")
    json.dump(found, open(f"{folder}/found.json", "w"))
torch.distributed.destroy_process_group()  # its threads, still there at exit, can abort the process
"""


def test_two_processes_draw_the_curve_of_one(tmp_path):
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = str(chosen.getsockname()[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    command += [str(tmp_path / "two.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    trained, history = run(tmp_path / "one", validation=rows(9, 1))
    for name in ("ddp", "fsdp"):
        losses, evaluations = found[name]
        assert losses == pytest.approx(history.losses, abs=1e-5), name
        assert evaluations["12"] == pytest.approx(history.evaluations[12], abs=1e-5), name
    # AdamW would not show gradients that are all too small by one factor
    alone = model()
    loop.gradient_step(alone, cpu(), loop.Batches(rows(), CausalLMCollator(0), 8, 0)[0], 8)
    for name, parameter in alone.named_parameters():
        gradient = torch.tensor(found["gradients"][name])
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-6, rtol=1e-5)
    # the weights that two processes held in halves come back whole
    saved = hf_genai.GenaiGPTForCausalLM.from_pretrained(tmp_path / "saved")
    ids = torch.arange(3, 12).unsqueeze(0)
    torch.testing.assert_close(saved(ids).logits, trained.eval()(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["optimizer.bin", "random_states_0.pkl", "custom_checkpoint_0.pkl", "x/.metadata"])
def test_no_pickle_of_a_checkpoint_runs_code(name, tmp_path):
    class Hostile:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    run(tmp_path, save_steps=10)
    path = tmp_path / "checkpoint-10" / name
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        torch.save({"last_epoch": 10, "hostile": Hostile()}, file)
    with pytest.raises(ValueError, match=name):
        run(tmp_path, resume_from=str(tmp_path / "checkpoint-10"))
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_goes_on_with_its_learning_rate_and_holds_no_pickle_of_the_schedule(tmp_path):
    run(tmp_path, save_steps=10)
    folder = tmp_path / "checkpoint-10"
    assert not list(folder.glob("custom_checkpoint*"))
    assert json.loads((folder / "history.json").read_text())["schedule"]["last_epoch"] == 10
    (folder / "history.json").write_text("[]")
    assert "must hold an object" in loop.checkpoint_fault(folder)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    run(tmp_path, save_steps=5)
    others = {"per_device_batch_size": 4, "learning_rate": 1e-2, "seed": 7, "weight_decay": 0.2}
    for name, value in {**others, "adam_betas": (0.8, 0.9)}.items():
        with pytest.raises(ValueError, match=f"belongs to a run whose (batch_size|{name}) is"):
            run(tmp_path, resume_from=str(tmp_path / "checkpoint-10"), **{name: value})
    with pytest.raises(ValueError, match="belongs to a run whose rows is 40, not 41"):
        loop.train(
            *(model(), rows(41), CausalLMCollator(0), options(tmp_path)),
            accelerator=cpu(),
            resume_from=str(tmp_path / "checkpoint-10"),
        )
    half = {"per_device_batch_size": 4, "gradient_accumulation_steps": 2}  # the same batches
    assert len(run(tmp_path, resume_from=str(tmp_path / "checkpoint-10"), **half)[1].losses) == 12
