import os
import signal
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from tiny_cases import cases
from transformers import T5Config, T5ForConditionalGeneration, Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_genai.training.checkpoints import checkpoint_fault
from hf_genai.training.trainer import (
    ShuffledLengthGroupedSampler,
    StopOnDivergence,
    StopOnSignal,
    TrainingInterrupted,
)


def losses_of(trainer):
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    modes = {}
    for mode in (True, False):
        trainer.model.train(mode)
        torch.manual_seed(0)
        modes[mode] = trainer.compute_loss(trainer.model, dict(inputs)).item()
    return modes


def test_a_model_that_smooths_its_labels_is_asked_to_in_training_alone(tmp_path, tiny_trainer):
    plain = losses_of(tiny_trainer(tmp_path / "plain"))
    smooth = losses_of(tiny_trainer(tmp_path / "smooth", label_smoothing_factor=0.3))
    assert abs(smooth[True] - plain[True]) > 1e-4
    assert smooth[False] == plain[False]


def test_smoothing_inside_the_model_equals_the_smoother_of_transformers(tmp_path, tiny_trainer):
    trainer = tiny_trainer(tmp_path, label_smoothing_factor=0.3)
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    model = trainer.model.train()
    torch.manual_seed(0)
    inside = trainer.compute_loss(model, dict(inputs))
    torch.manual_seed(0)
    logits = model(**inputs, skip_logits=False).logits
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), inputs["labels"].flatten(), ignore_index=-100, label_smoothing=0.3
    )
    torch.testing.assert_close(inside, expected)


@pytest.mark.parametrize("strategy", ["group_by_length", "random"])
def test_every_row_is_scored_in_its_place_however_training_makes_its_batches(tmp_path, tiny_trainer, strategy):
    options = {"per_device_eval_batch_size": 4, "train_sampling_strategy": strategy, "dataloader_drop_last": True}
    trainer = tiny_trainer(tmp_path, **options)
    rows = [{"input_ids": [4 + n] * (1 + n % 5), "labels": [4 + n] * (1 + n % 5), "length": n % 5} for n in range(10)]
    found = trainer.predict(Dataset.from_list(rows))
    assert found.label_ids[:, 0].tolist() == list(range(4, 14))
    assert len(found.predictions) == 10


def test_a_batch_that_the_training_rows_do_not_fill_is_refused_where_it_would_be_dropped(tmp_path, tiny_trainer):
    assert tiny_trainer(tmp_path, dataloader_drop_last=True).train_dataset  # two batches of 4
    with pytest.raises(ValueError, match="dataloader_drop_last must be false.*8 training rows .* one batch of 9"):
        tiny_trainer(tmp_path, dataloader_drop_last=True, per_device_train_batch_size=9)


def test_any_other_model_gets_the_smoother_of_transformers(tmp_path, tiny_trainer):
    config = T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=1)
    trainer = tiny_trainer(tmp_path, model=T5ForConditionalGeneration(config), label_smoothing_factor=0.3)
    assert trainer.label_smoother is not None
    assert losses_of(trainer)[True] > 0


@pytest.mark.parametrize(
    "name", ["GenaiRNNForCausalLM-lstm, untied, one way", "GenaiBertForCausalLM-modern", "GenaiGPTForCausalLM-modern"]
)
def test_a_plain_trainer_smooths_the_next_tokens_of_a_causal_model(tmp_path, name):
    case = dict(cases())[name]
    model, batch = case.model(dropout=0.0).train(), case.batch("right", labels=True)
    arguments = TrainingArguments(str(tmp_path), label_smoothing_factor=0.3, use_cpu=True, report_to="none")
    loss = Trainer(model, arguments).compute_loss(model, dict(batch))
    logits = model(**batch, skip_logits=False).logits
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100, label_smoothing=0.3
    )
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_after_a_whole_checkpoint(tmp_path, tiny_trainer, number, capsys):
    stop = StopOnSignal()
    trainer = tiny_trainer(tmp_path, callbacks=[stop], max_steps=10, save_steps=100)
    step, count = trainer.training_step, iter(range(10))

    def step_with_a_signal(*args, **kwargs):
        if next(count) == 2:
            os.kill(os.getpid(), number)
        return step(*args, **kwargs)

    trainer.training_step = step_with_a_signal
    before = signal.getsignal(number)
    with (
        pytest.raises(
            TrainingInterrupted, match="after step 3 of 10.*checkpoint-3.*resume_from_checkpoint"
        ) as stopped,
        stop,
    ):
        trainer.train()
    assert stopped.value.exit_code == 128 + number
    assert checkpoint_fault(tmp_path / "checkpoint-3") is None
    assert signal.getsignal(number) is before
    assert "saving after this step" in capsys.readouterr().err


def test_a_second_signal_stops_at_once(tmp_path, tiny_trainer):
    stop = StopOnSignal()
    trainer = tiny_trainer(tmp_path, callbacks=[stop], max_steps=10, save_steps=100)
    trainer.training_step = lambda *args, **kwargs: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)]
    with pytest.raises(KeyboardInterrupt), stop:
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_signal_after_the_last_step_is_told_when_the_block_is_done(tmp_path, tiny_trainer):
    stop, done = StopOnSignal(), []
    trainer = tiny_trainer(tmp_path, callbacks=[stop], max_steps=2, save_strategy="no")
    with pytest.raises(TrainingInterrupted, match="SIGTERM after the last step: the trained weights are saved"), stop:
        trainer.train()
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("saved")
    assert done == ["saved"]


def test_evaluation_leaves_the_generation_config_as_it_was(tmp_path, tiny_trainer):
    trainer = tiny_trainer(tmp_path)
    trainer.model.generation_config.max_new_tokens = 4
    before = trainer.model.generation_config.to_dict()
    trainer.predict(trainer.eval_dataset)
    assert trainer.model.generation_config.to_dict() == before


def test_batches_of_similar_length_come_in_random_order_and_lose_nothing():
    lengths = torch.randint(1, 60, (1003,), generator=torch.Generator().manual_seed(0)).tolist()
    torch.manual_seed(0)
    order = list(ShuffledLengthGroupedSampler(10, lengths=lengths))
    assert sorted(order) == list(range(1003))
    batches = [[lengths[index] for index in order[start : start + 10]] for start in range(0, 1000, 10)]
    assert sum(max(batch) - min(batch) for batch in batches) / 100 < 8  # 55 in batches drawn at random
    tops = torch.tensor([max(batch) for batch in batches[1:]], dtype=torch.float)
    assert abs(torch.corrcoef(torch.stack([tops[1:], tops[:-1]]))[0, 1]) < 0.3  # near 1 from long to short
    assert max(lengths) in batches[0]
    torch.manual_seed(0)
    assert list(ShuffledLengthGroupedSampler(10, lengths=lengths)) == order


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8])
def test_few_rows_make_few_batches_and_none_is_lost(count):
    assert sorted(ShuffledLengthGroupedSampler(4, lengths=list(range(9, 9 + count)))) == list(range(count))


def test_the_sampling_strategy_chooses_the_sampler(tmp_path, tiny_trainer):
    loader = tiny_trainer(tmp_path / "a").get_train_dataloader()
    assert isinstance(loader.batch_sampler.sampler, ShuffledLengthGroupedSampler)
    other = tiny_trainer(tmp_path / "b", train_sampling_strategy="random").get_train_dataloader()
    assert isinstance(other.batch_sampler.sampler, torch.utils.data.RandomSampler)


@pytest.mark.parametrize(
    ("logging_steps", "message"), [(1, "gradients is (nan|inf) .step 2"), (50, "weights .*step 4")]
)
def test_a_training_that_diverges_is_stopped_and_not_saved(logging_steps, message, tmp_path, tiny_trainer):
    options = {"learning_rate": 1e38, "max_steps": 4, "logging_steps": logging_steps, "save_strategy": "no"}
    trainer = tiny_trainer(tmp_path, callbacks=[StopOnDivergence()], weight_decay=0.1, **options)
    with pytest.raises(FloatingPointError, match=message):
        trainer.train()
    fine = {**options, "learning_rate": 1e-3}
    tiny_trainer(tmp_path, callbacks=[StopOnDivergence()], **fine).train()


def test_what_processes_take_together_is_of_one_length(tmp_path, tiny_trainer, monkeypatch):
    trainer = tiny_trainer(tmp_path)
    monkeypatch.setattr(type(trainer.args), "world_size", 3)
    found = trainer.arrange(LengthGroupedSampler(trainer.args.train_batch_size, lengths=[3, 1, 2]))
    assert found.batch_size == 3 * trainer.args.train_batch_size


def test_gradients_that_overflow_float16_are_left_to_its_scaler():
    state, logs = SimpleNamespace(global_step=1), {"grad_norm": float("inf")}
    StopOnDivergence().on_log(SimpleNamespace(fp16=True), state, None, logs=logs)
    with pytest.raises(FloatingPointError, match="gradients is inf"):
        StopOnDivergence().on_log(SimpleNamespace(fp16=False, learning_rate=1.0), state, None, logs=logs)
