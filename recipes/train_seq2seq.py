"""Train an encoder-decoder on pairs of sentences, score it, and leave a folder that is ready for the Hub.

CPU, two minutes:  python recipes/train_seq2seq.py recipes/configs/train_seq2seq/rnn_tiny.yaml --output_dir DIR
                   hf-genai train rnn_tiny --output_dir DIR     (the same)
One GPU:           python recipes/train_seq2seq.py recipes/configs/train_seq2seq/rnn_base.yaml --output_dir DIR \
                       --data pairs.tsv --source_column en --target_column fr
Many GPUs:         accelerate launch --num_processes 8 recipes/train_seq2seq.py (the rest as for one GPU)
Go on after an interruption: the same command and --resume_from_checkpoint true

Any AutoModelForSeq2SeqLM can be trained: `model: {model_type: t5, d_model: 256, ...}` in the YAML is all it takes.
Expected results and costs stand in recipes/README.md and on top of each config.
"""

import logging
import sys
import time

import torch
from accelerate.utils import broadcast_object_list
from transformers import AutoModelForSeq2SeqLM, EarlyStoppingCallback, set_seed

import hf_genai  # noqa: F401 (registers the model types)
from hf_genai.data import load_pairs, load_tokenizers, train_tokenizer
from hf_genai.data.plain_text import read_prompts_as_text
from hf_genai.data.tokenizers import let_texts_end
from hf_genai.evaluation.bleu_tokenizers import choose_bleu_tokenizer
from hf_genai.evaluation.prefixes import prefix_of, set_prefix
from hf_genai.hub import push, save_for_hub
from hf_genai.loading import load_model
from hf_genai.model_folder import opening
from hf_genai.objectives.seq2seq import Seq2SeqCollator, check_vocabulary, tokenize_pairs
from hf_genai.training.arguments import RecipeArguments, parse_arguments, take_token
from hf_genai.training.card import card_of_run
from hf_genai.training.checkpoints import checkpoint_to_resume, delete_earlier_run, prepare_output_dir, sole_run
from hf_genai.training.launch import check_launch, run_script
from hf_genai.training.model_config import build_config, set_generation
from hf_genai.training.results import bare, draw_some, metrics_of_outputs, score_model, summary_of_run, write_json
from hf_genai.training.saving import rehearse_saving, save_unscored
from hf_genai.training.trainer import GenaiSeq2SeqTrainer, StopOnDivergence, StopOnSignal, TrainingClock

logger = logging.getLogger("hf_genai.recipes.train_seq2seq")


def make_tokenizers(arguments: RecipeArguments, pairs, made_before: str | None):
    """Return source and target tokenizer: those made before by this run, those named, or new ones."""
    options = arguments.tokenizer
    name = made_before or options.tokenizer_name_or_path or arguments.model.model_name_or_path
    if name:
        tokenizers = load_tokenizers(name)
        for tokenizer in tokenizers:
            let_texts_end(tokenizer)
            read_prompts_as_text(tokenizer)
        return tokenizers
    sources, targets = pairs.train["source"][:], pairs.train["target"][:]
    longest = max(arguments.data.max_source_length, arguments.data.max_target_length)
    settings = {"kind": options.tokenizer_kind, "model_max_length": longest}
    if not options.separate_vocabularies:
        tokenizer = train_tokenizer([*sources, *targets], vocab_size=options.vocab_size, **settings)
        return tokenizer, tokenizer
    size = options.target_vocab_size or options.vocab_size
    source_tokenizer = train_tokenizer(sources, vocab_size=options.vocab_size, **settings)
    return source_tokenizer, train_tokenizer(targets, vocab_size=size, **settings)


def main(argv: list[str] | None = None) -> dict:
    """Run the recipe; return output_dir and what results.json holds (of a distributed run, in its first process)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = parse_arguments(argv, __doc__)
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

    pairs = load_pairs(**data.load_options(), seed=training.seed)
    with opening(arguments.model.model_name_or_path, arguments.tokenizer.tokenizer_name_or_path):
        # made once, and handed to the other processes: in one piece, as the two may be one
        (tokenizers,) = broadcast_object_list([make_tokenizers(arguments, pairs, checkpoint) if is_main else None])
        source_tokenizer, target_tokenizer = tokenizers

        config = build_config(arguments, *tokenizers)
        if arguments.model.model_name_or_path:
            check_vocabulary(source_tokenizer, config, target_tokenizer)
            model = load_model(
                AutoModelForSeq2SeqLM, arguments.model.model_name_or_path, new_heads=True, config=config
            )
        else:
            model = AutoModelForSeq2SeqLM.from_config(config)
    prefix = prefix_of(config, languages=pairs.provenance.languages) if data.prefix is None else data.prefix
    set_prefix(model.config, prefix)
    set_generation(model, arguments, data.max_target_length)

    few = pairs.validation.select(range(min(data.max_eval_samples, len(pairs.validation))))
    sets = {}
    for split, rows in {"train": pairs.train, "validation": few}.items():
        if not len(rows):  # of validation, with eval_strategy=no
            continue
        sets[split], cut = tokenize_pairs(rows, *tokenizers, data.max_source_length, data.max_target_length, prefix)
        if cut.truncated_sources or cut.truncated_targets:
            logger.warning("%s: %s", split, cut)

    if is_main:
        rehearse_saving(model, tokenizers, training.model_title)
        if training.overwrite_output_dir:
            delete_earlier_run(folder)
    publish, training.push_to_hub = training.push_to_hub, False  # once, at the end, and not every checkpoint
    stop, clock = StopOnSignal(), TrainingClock()
    callbacks = [stop, StopOnDivergence(), clock]
    if training.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(training.early_stopping_patience, training.early_stopping_threshold))
    training_targets = pairs.train["target"][:]
    bleu_tokenizer = choose_bleu_tokenizer(data.bleu_tokenize, pairs.provenance.languages, training_targets)
    measure = metrics_of_outputs(target_tokenizer, few["target"][:], bleu_tokenizer)
    trainer = GenaiSeq2SeqTrainer(
        model=model,
        args=training,
        train_dataset=sets["train"],
        eval_dataset=sets.get("validation"),
        data_collator=Seq2SeqCollator(source_tokenizer, model=model),
        compute_metrics=measure if training.predict_with_generate else None,
        callbacks=callbacks,
        tokenizers=tokenizers,
    )
    with stop:
        clock.begin(checkpoint)
        trainer.train(resume_from_checkpoint=checkpoint)
        train_seconds = clock.seconds
        if is_main:
            save_unscored(folder, model, tokenizers, training.model_title)
    if not is_main:
        return {}
    test = pairs.test[: data.max_test_samples]
    scores = score_model(
        model,
        tokenizers,
        test["source"],
        test["target"],
        training_targets=training_targets,
        bleu_tokenizer=bleu_tokenizer,
        batch_size=training.per_device_eval_batch_size,
        max_source_length=data.max_source_length,
    )
    results = summary_of_run(arguments, argv, model, pairs, scores)
    longest = sorted(test["source"][:20], key=len, reverse=True)  # on a short text there is little to see
    results["attention_maps"] = draw_some(model, tokenizers, longest[: training.num_attention_maps], folder)
    results["prefix"] = prefix
    results["train_steps"], results["resumed_from"] = trainer.state.global_step, bare(checkpoint)
    results["train_seconds"] = round(train_seconds, 1)
    results["total_seconds"] = round(clock.before + time.perf_counter() - started, 1)
    write_json(f"{folder}/results.json", results)
    card = card_of_run(arguments, results, pairs, two_tokenizers=target_tokenizer is not source_tokenizer)
    save_for_hub(folder, model, tokenizers, card, attachments=[f"{folder}/results.json"], overwrite=True)
    if publish:
        private, revision = bool(training.hub_private_repo), training.hub_revision
        push(folder, training.hub_model_id, private=private, token=token, revision=revision)
    return {**results, "output_dir": folder}


if __name__ == "__main__":
    run_script(main)
