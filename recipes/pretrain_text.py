"""Pretrain a BERT-, GPT- or T5-style model from raw text: next tokens, masked ones, spans, suffixes or middles.

On a CPU, about two minutes, with texts of the interpreter's own:
    python recipes/pretrain_text.py recipes/configs/pretrain_text/gpt_tiny.yaml --output_dir outputs/gpt
With your own texts (txt, csv, tsv, json, jsonl, parquet; a file or a folder), or a data set on the Hub:
    python recipes/pretrain_text.py recipes/configs/pretrain_text/bert_small.yaml --data texts.parquet --output_dir DIR
One GPU, or all of a machine:
    accelerate launch --config_file recipes/accelerate/ddp.yaml recipes/pretrain_text.py CONFIG --output_dir DIR
Many machines: torchrun --nnodes 4 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint HOST:PORT \
recipes/pretrain_text.py CONFIG --output_dir DIR
Go on after an interruption: the same command and --resume_from_checkpoint true

Expected results and costs stand in recipes/README.md and on top of each config.
"""

import logging
import sys
import time

import torch
from accelerate import Accelerator
from transformers import set_seed

import hf_genai  # noqa: F401 (registers the model types)
from hf_genai.data.texts import load_texts
from hf_genai.hub import push, save_for_hub
from hf_genai.model_folder import opening
from hf_genai.training import loop
from hf_genai.training.arguments import take_token
from hf_genai.training.checkpoints import checkpoint_to_resume, delete_earlier_run, prepare_output_dir, sole_run
from hf_genai.training.launch import check_launch, run_script
from hf_genai.training.parsing import number_or_text
from hf_genai.training.pretraining import (
    baselines,
    check_fit,
    check_texts,
    make_collator,
    make_rows,
    new_model,
    parse_pretrain_arguments,
    samples,
)
from hf_genai.training.pretraining_card import card_of_pretraining
from hf_genai.training.pretraining_tokenizer import in_turn, make_tokenizer
from hf_genai.training.results import facts_of_run, write_json
from hf_genai.training.saving import rehearse_saving, save_unscored
from hf_genai.training.trainer import StopOnSignal

logger = logging.getLogger("hf_genai.recipes.pretrain_text")


def main(argv: list[str] | None = None) -> dict:
    """Run the recipe; return output_dir and what results.json holds (of a distributed run, in its first process)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = parse_pretrain_arguments(argv, __doc__)
    training = arguments.training
    argv, token = take_token(training, argv)
    accelerator = Accelerator(mixed_precision=training.mixed_precision, cpu=not torch.cuda.is_available())
    check_launch(accelerator.state, accelerator.mixed_precision, training.num_processes)
    with sole_run(training.output_dir, accelerator.is_main_process):
        return run(arguments, argv, token, accelerator)


def run(arguments, argv: list[str], token: str | None, accelerator: Accelerator) -> dict:
    """Run the recipe in a folder that no other run uses; `token` is for the push."""
    data, training, folder = arguments.data, arguments.training, arguments.training.output_dir
    checkpoint = checkpoint_to_resume(folder, training.resume_from_checkpoint, loop.checkpoint_fault)
    if accelerator.is_main_process:
        prepare_output_dir(folder, training.overwrite_output_dir, checkpoint)
    accelerator.wait_for_everyone()
    if training.num_threads and accelerator.device.type == "cpu":
        torch.set_num_threads(training.num_threads)
    set_seed(training.seed)
    started = time.perf_counter()

    texts = load_texts(
        data.data[0] if len(data.data) == 1 else data.data,
        columns=[data.text_column],
        validation=number_or_text(data.validation_data),
        test=0.0,
        max_rows=data.max_rows,
        seed=training.seed,
        config_name=data.data_config,
        revision=data.data_revision,
        licence=data.data_license,
        languages=data.languages or (),
    )
    check_texts(texts.train, data.text_column)
    if not len(texts.validation):
        source = ", ".join(data.data)
        raise ValueError(
            f"validation_data ({data.validation_data}) holds no text: the trained model is scored on it. {source} has"
            f" {len(texts.train):,} to train on; give a larger share of it, or a file"
        )
    with opening(arguments.model.model_name_or_path, arguments.tokenizer.tokenizer_name_or_path):
        tokenizer = make_tokenizer(arguments, texts.train)
        # before the rows, which may take hours: what is wrong with it comes out
        model = new_model(arguments, tokenizer)
    check_fit(model, tokenizer, arguments)
    collate, model_class = make_collator(arguments, tokenizer), type(model)
    with in_turn(texts.train):
        rows, packed = make_rows(arguments, tokenizer, texts.train)
        validation, _ = make_rows(arguments, tokenizer, texts.validation)
    for split, own in {"training": rows, "validation": validation}.items():
        if not len(own):
            raise ValueError(f"no {split} text has enough tokens for the objective {arguments.objective.objective}")
    if packed:
        logger.warning("packed: %s", packed)

    if accelerator.is_main_process:
        rehearse_saving(model, tokenizer, arguments.model.model_title)
        if training.overwrite_output_dir:
            delete_earlier_run(folder)
    history = loop.train(model, rows, collate, training, validation, accelerator, checkpoint)
    with StopOnSignal():  # which waits until the weights are saved
        model = loop.whole_model(model_class, model, accelerator)
        if model is None:
            return {}
        save_unscored(folder, model, tokenizer, arguments.model.model_title)
    objective = arguments.objective.objective
    results = {
        **loop.summary(history),
        "objective": objective,
        "baselines": baselines(objective, rows, validation, collate, model.config.vocab_size),
        "fill_rate": None if packed is None else round(packed.fill_rate, 4),
        "rows": {"train": len(rows), "validation": len(validation)},
        "samples": samples(model, tokenizer, objective, validation, collate, training.num_samples),
        **facts_of_run(
            *(arguments, argv, model, accelerator.device, accelerator.num_processes),
            dtype={"bf16": "bfloat16", "fp16": "float16"}.get(accelerator.mixed_precision, "float32"),
        ),
        "losses": [round(loss, 6) for loss in history.losses],
        "total_seconds": round(time.perf_counter() - started, 1),
    }
    write_json(f"{folder}/results.json", results)
    card = card_of_pretraining(arguments, results, texts)
    save_for_hub(folder, model, tokenizer, card, attachments=[f"{folder}/results.json"], overwrite=True)
    if training.push_to_hub:
        private, revision = training.hub_private_repo, training.hub_revision
        push(folder, training.hub_model_id, private=private, token=token, revision=revision)
    return {**results, "output_dir": folder}


if __name__ == "__main__":
    run_script(main)
