"""Fine-tune a model, or train one from scratch, for a task on texts: classification, tagging, question answering,
summarisation, dialogue or code.

On a CPU, a few minutes, with built-in rows:
    python recipes/finetune_text.py recipes/configs/finetune_text/classification.yaml --output_dir outputs/languages
A pretrained model, and rows of your own (csv, tsv, json, jsonl, parquet; a file or a folder) or a data set on the Hub:
    python recipes/finetune_text.py recipes/configs/finetune_text/classification.yaml --model null \
        --model_name_or_path outputs/bert --data reviews.csv --columns '{text: review, label: stars}' --output_dir DIR
One GPU, or all of a machine:
    accelerate launch --config_file recipes/accelerate/ddp.yaml recipes/finetune_text.py CONFIG --output_dir DIR
Go on after an interruption: the same command and --resume_from_checkpoint true

Expected results and costs stand in recipes/README.md and on top of each config.
"""

import sys
import time

import torch
import transformers
from accelerate.utils import broadcast_object_list
from transformers import AutoConfig, AutoTokenizer, set_seed

import hf_genai
from hf_genai.data import train_tokenizer
from hf_genai.data.plain_text import read_prompts_as_text
from hf_genai.data.tokenizers import let_texts_end
from hf_genai.hub import push, save_for_hub
from hf_genai.loading import load_model
from hf_genai.model_folder import opening
from hf_genai.objectives.dialogue import add_chat_template, make_room_for_roles
from hf_genai.training.arguments import take_token
from hf_genai.training.checkpoints import checkpoint_to_resume, delete_earlier_run, prepare_output_dir, sole_run
from hf_genai.training.finetuning import (
    card_of_finetuning,
    check_fit,
    load_rows,
    parse_finetune_arguments,
    texts_of,
    tokenize_splits,
)
from hf_genai.training.finetuning_tasks import TASKS
from hf_genai.training.launch import check_launch, run_script
from hf_genai.training.model_config import build_config, check_model_type, set_generation
from hf_genai.training.results import bare, facts_of_run, training_dtype, write_json
from hf_genai.training.saving import rehearse_saving, save_unscored
from hf_genai.training.trainer import GenaiTrainer, StopOnDivergence, StopOnSignal, TrainingClock


def make_tokenizer(arguments, texts, made_before: str | None):
    """Return the tokenizer made before by this run, that named, the model's, or one trained on the texts."""
    name = made_before or arguments.model.tokenizer_name_or_path or arguments.model.model_name_or_path
    causal = TASKS[arguments.data.task].auto_class == "AutoModelForCausalLM"
    prepare = add_chat_template if arguments.data.task == "dialogue" else read_prompts_as_text
    if name:
        tokenizer = AutoTokenizer.from_pretrained(name)
        if not causal:
            let_texts_end(tokenizer)
        if tokenizer.pad_token is None:  # GPT-2's and Llama's; padding is never predicted and never seen
            tokenizer.pad_token = tokenizer.eos_token
        prepare(tokenizer)
        return tokenizer
    tokenizer = train_tokenizer(
        texts_of(texts),
        vocab_size=arguments.model.vocab_size,
        ends_texts=not causal,
        unspaced_alone=arguments.data.task in ("qa", "tagging"),
    )
    tokenizer.model_max_length = arguments.data.max_length
    prepare(tokenizer)
    return tokenizer


def make_model(arguments, task, tokenizer, decided):
    """Return the model: a pretrained one with the task's head, or a new one."""
    auto = getattr(transformers, task.auto_class)
    name = arguments.model.model_name_or_path
    config = build_config(arguments, tokenizer, tokenizer) if name is None else AutoConfig.from_pretrained(name)
    check_model_type(config, auto, arguments.data.task)
    if name is None:
        return auto.from_config(type(config).from_dict({**config.to_dict(), **decided}))
    # a head for other classes is made anew, and a table says so
    other_head = {"ignore_mismatched_sizes": True} if "num_labels" in decided else {}
    model = load_model(auto, name, new_heads=True, pad_token_id=tokenizer.pad_token_id, **decided, **other_head)
    if not model.config.model_type.startswith("genai"):
        model = hf_genai.from_transformers(model)
    if arguments.data.task == "dialogue":
        make_room_for_roles(model, tokenizer)
    return model


def main(argv: list[str] | None = None) -> dict:
    """Run the recipe; return output_dir and what results.json holds (of a distributed run, in its first process)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = parse_finetune_arguments(argv, __doc__)
    training = arguments.training
    argv, token = take_token(training, argv)
    check_launch(training.distributed_state, training.mixed_precision, whole_weights=True)
    with sole_run(training.output_dir, training.process_index == 0):
        return run(arguments, argv, token)


def run(arguments, argv: list[str], token: str | None) -> dict:
    """Run the recipe in a folder that no other run uses; `token` is for the push."""
    data, training, folder = arguments.data, arguments.training, arguments.training.output_dir
    checkpoint = checkpoint_to_resume(folder, training.resume_from_checkpoint)
    is_main = training.process_index == 0
    if is_main:
        prepare_output_dir(folder, training.overwrite_output_dir, checkpoint)
    if training.num_threads and training.device.type == "cpu":
        torch.set_num_threads(training.num_threads)
    set_seed(training.seed)
    started = time.perf_counter()

    texts = load_rows(data, training.seed)
    # made once, and handed to the other processes
    with opening(arguments.model.model_name_or_path, arguments.model.tokenizer_name_or_path):
        tokenizer = make_tokenizer(arguments, texts.train, checkpoint) if is_main else None
        (tokenizer,) = broadcast_object_list([tokenizer])
        task = TASKS[data.task](arguments, tokenizer)
        model = make_model(arguments, task, tokenizer, task.config(texts.train))
    task.prepare(model)
    check_fit(model, tokenizer, data)
    if model.can_generate():
        set_generation(model, arguments, data.max_target_length if data.task == "summarisation" else None)
    rows = tokenize_splits(task, texts)
    if is_main:
        rehearse_saving(model, tokenizer, arguments.model.model_title)
        if training.overwrite_output_dir:
            delete_earlier_run(folder)

    publish, training.push_to_hub = training.push_to_hub, False  # once, at the end, and not every checkpoint
    training.label_names = list(task.label_names)
    stop, clock = StopOnSignal(), TrainingClock()
    trainer = GenaiTrainer(
        model=model,
        args=training,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        data_collator=task.collator(model),
        processing_class=tokenizer,
        callbacks=[stop, StopOnDivergence(), clock],
    )
    with stop:
        clock.begin(checkpoint)
        trainer.train(resume_from_checkpoint=checkpoint)
        seconds = clock.seconds
        if is_main:
            save_unscored(folder, model, tokenizer, arguments.model.model_title)
    task.calibrate(trainer, texts.validation, rows["validation"])
    scores, samples = task.score(trainer, texts.test, rows["test"])
    if not is_main:
        return {}
    results = {
        "task": data.task,
        "scores": {name: round(value, 4) for name, value in scores.items()},
        "baselines": {
            name: {metric: round(value, 4) for metric, value in row.items()}
            for name, row in task.baselines(texts.train, texts.test).items()
        },
        "rows": {split: len(getattr(texts, split)) for split in rows},
        "samples": samples,
        "prefix": getattr(model.config, "prefix", None) or "",
        "train_seconds": round(seconds, 1),
        "train_steps": trainer.state.global_step,
        "resumed_from": bare(checkpoint),
        **facts_of_run(arguments, argv, model, training.device, training.world_size, training_dtype(training)),
        "total_seconds": round(clock.before + time.perf_counter() - started, 1),
    }
    write_json(f"{folder}/results.json", results)
    card = card_of_finetuning(arguments, results, texts, task)
    save_for_hub(folder, model, tokenizer, card, attachments=[f"{folder}/results.json"], overwrite=True)
    if publish:
        private, revision = bool(training.hub_private_repo), training.hub_revision
        push(folder, training.hub_model_id, private=private, token=token, revision=revision)
    return {**results, "output_dir": folder}


if __name__ == "__main__":
    run_script(main)
