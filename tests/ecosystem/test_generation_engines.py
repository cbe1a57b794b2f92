"""What transformers builds on generate(), its batching server, its pipelines and its Trainer, with models of ours."""

import pytest
import torch
from tiny_families import HEAD, batch_of, make
from transformers import ContinuousBatchingConfig, GenerationConfig, Trainer, TrainingArguments, pipeline

from hf_genai.data import train_tokenizer

GREEDY = {"max_new_tokens": 8, "do_sample": False}


def test_continuous_batching_gives_what_generate_gives(layout):
    model = make("GPT", layout)
    prompts = [[1, 5, 9], [1, 7, 8, 9, 10, 11], [1, 30]]
    # the paged cache has no place for "no token" in its settings
    settings = GenerationConfig(**GREEDY, eos_token_id=2, pad_token_id=0)
    pages = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64)
    outputs = model.generate_batch(prompts, generation_config=settings, continuous_batching_config=pages)
    answers = {tuple(output.prompt_ids): output.generated_tokens for output in outputs.values()}
    for prompt in prompts:
        alone = model.generate(torch.tensor([prompt]), **GREEDY)[0, len(prompt) :].tolist()
        assert answers[tuple(prompt)] == alone


@pytest.mark.parametrize("family", ["GPT", "T5"])
def test_guessing_ahead_gives_what_greedy_search_gives(family, layout):
    batch = batch_of(family)
    ids = {"input_ids": batch["input_ids"][:1]}
    model = make(family, layout)
    expected = model.generate(**ids, **GREEDY).tolist()
    assert model.generate(**ids, **GREEDY, prompt_lookup_num_tokens=3).tolist() == expected
    assistant = make(family, layout, hidden_size=16)
    assert model.generate(**ids, **GREEDY, assistant_model=assistant).tolist() == expected
    assert model.generate(**ids, **GREEDY, assistant_early_exit=1).tolist() == expected


@pytest.mark.parametrize(
    ("task", "family", "head", "answers"),
    [
        ("text-generation", "GPT", None, {"generated_text"}),
        ("fill-mask", "BERT", None, {"score", "token", "token_str", "sequence"}),
        ("text-classification", "BERT", "GenaiBertForSequenceClassification", {"label", "score"}),
        ("text-classification", "GPT", "GenaiGPTForSequenceClassification", {"label", "score"}),
        ("text-classification", "T5", "GenaiT5ForSequenceClassification", {"label", "score"}),
        ("token-classification", "BERT", "GenaiBertForTokenClassification", {"entity", "score", "word"}),
        ("token-classification", "GPT", "GenaiGPTForTokenClassification", {"entity", "score", "word"}),
        ("feature-extraction", "BERT", "GenaiBertModel", None),
    ],
)
def test_a_pipeline_of_transformers_opens_the_saved_folder_and_answers(task, family, head, answers, tmp_path):
    tokenizer = train_tokenizer(["one two three four five six"] * 3, kind="word", vocab_size=30)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    make(family, head=head, vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pipe = pipeline(task, model=str(tmp_path))
    assert type(pipe.model).__name__ == (head or HEAD[family])
    options = {"max_new_tokens": 3} if task == "text-generation" else {}
    found = pipe("one <mask> three" if task == "fill-mask" else "one two three", **options)
    if answers is None:
        assert len(found[0][0]) == pipe.model.config.hidden_size
    else:
        assert answers <= set(found[0])


def test_the_trainer_checkpoints_gradients_and_the_loss_falls(family, tmp_path):
    batch = batch_of(family)
    rows = [{name: values[row] for name, values in batch.items()} for row in (0, 1)] * 8
    model = make(family)
    arguments = TrainingArguments(
        *(str(tmp_path),),
        use_cpu=True,
        max_steps=8,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        logging_steps=1,
        gradient_checkpointing=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
