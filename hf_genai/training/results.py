"""What a run leaves besides the model: scores against baselines, samples, attention pictures, results.json."""

import dataclasses
import json
import os
import platform
import shlex
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments
from transformers.utils import logging

from ..evaluation.bleu_tokenizers import USUAL
from ..evaluation.generation import default_length, encode_texts, generate_texts, inference, length_limit
from ..evaluation.metrics import baseline_scores, translation_scores
from ..evaluation.prefixes import prefix_of
from ..private_names import attention_of
from .arguments import NOISE_BELOW, RecipeArguments

logger = logging.get_logger(__name__)

METRICS = ("bleu", "chrf", "exact_match")


def metrics_of_outputs(
    tokenizer: Any, references: Sequence[str], bleu_tokenizer: str | None = None
) -> Callable[[Any], dict[str, float]]:
    """Return the Trainer's compute_metrics: ids (B, T), padded with -100, to bleu, chrf (0-100), exact_match (0-1).

    With them come `bleu_or_chrf` and `exact_match_or_chrf`, by which the best model is chosen: chrF (0 to 100) while
    the metric is below its entry in `NOISE_BELOW`, and from there on the metric + 100, so that a model whose metric
    counts is better than all whose metric does not.

    Args:
        tokenizer: of the outputs.
        references: the texts of all rows that are evaluated, in their order: as users wrote them, and not decoded from
            the labels, which are cut, and in which what the tokenizer does not know is gone.
        bleu_tokenizer: sacreBLEU's tokenizer of the target language, "13a" if None.
    """

    def compute(prediction: Any) -> dict[str, float]:
        rows = prediction.predictions
        if len(rows) != len(references):
            raise ValueError(f"{len(rows)} outputs cannot be compared with {len(references)} references")
        outputs = tokenizer.batch_decode(
            np.where(rows == -100, tokenizer.pad_token_id, rows), skip_special_tokens=True
        )
        scores = translation_scores(outputs, references, bleu_tokenizer)
        choices = {
            f"{name}_or_chrf": scores["chrf"] if scores[name] < least else 100 + scores[name]
            for name, least in NOISE_BELOW.items()
        }
        return {**{key: scores[key] for key in METRICS}, **choices}

    return compute


def score_model(
    model: Any,
    tokenizers: tuple[Any, Any],
    sources: Sequence[str],
    references: Sequence[str],
    training_targets: Sequence[str],
    bleu_tokenizer: str | None = None,
    **generate_kwargs: Any,
) -> dict[str, Any]:
    """Translate and score, at the end of a training and in `hf-genai evaluate` alike.

    Args:
        tokenizers: of the source and of the target.
        training_targets: the commonest of them is one baseline; copying the source is the other.
        bleu_tokenizer: sacreBLEU's tokenizer of the target language, "13a" if None.
        generate_kwargs: for `generate_texts`: batch_size, num_beams, ...

    Returns:
        What `translation_scores` returns, the same of each baseline under "baselines", seconds and sentences per
        second of decoding, and the predictions.

    Raises:
        ValueError: if there is nothing to translate.
    """
    start = time.perf_counter()
    predictions = generate_texts(model, tokenizers[0], sources, target_tokenizer=tokenizers[1], **generate_kwargs)
    seconds = time.perf_counter() - start
    return {
        **translation_scores(predictions, references, bleu_tokenizer),
        "baselines": baseline_scores(sources, references, training_targets, bleu_tokenizer),
        "bleu_tokenize": bleu_tokenizer or USUAL,
        "generate_seconds": round(seconds, 3),
        "sentences_per_second": round(len(sources) / seconds, 1),
        "predictions": predictions,
    }


def draw_attention(
    model: Any, tokenizers: tuple[Any, Any], text: str, stem: str | os.PathLike, **generate_kwargs: Any
) -> tuple[list[Path], str]:
    """Translate one text and write STEM.png and STEM.html: what the decoder looked at for each word it wrote.

    Returns:
        The files, and the translation.

    Raises:
        ValueError: if the model has no attention to draw.
    """
    from ..evaluation.attention_maps import attention_maps
    from ..evaluation.attention_plots import attention_html, plot_attention

    source_tokenizer, target_tokenizer = tokenizers
    rows = encode_texts(
        source_tokenizer, [prefix_of(model.config) + text], length_limit(model, source_tokenizer, None)
    )
    batch = source_tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(model.device)
    generate_kwargs = {**default_length(model, generate_kwargs), **generate_kwargs}
    implementation = attention_of(model.config)
    if implementation not in (None, "eager"):
        model.set_attn_implementation("eager")  # fused kernels keep no weights
    try:
        with inference(model):
            output = model.generate(**batch, **generate_kwargs, output_attentions=True, return_dict_in_generate=True)
    finally:
        if implementation not in (None, "eager"):
            model.set_attn_implementation(implementation)
    (attention,) = attention_maps(output, batch["input_ids"], source_tokenizer, target_tokenizer)
    files = [Path(f"{stem}{end}") for end in (".png", ".html")]
    translation = target_tokenizer.decode(output.sequences[0], skip_special_tokens=True)
    plot_attention(attention).savefig(files[0], dpi=150, bbox_inches="tight")
    # the isolates (U+2068, U+2069) keep each text in its own direction
    caption = f"\u2068{text}\u2069 \u2192 \u2068{translation}\u2069"
    files[1].write_text(attention_html(attention, captions=[caption]), encoding="utf-8")
    return files, translation


def draw_some(model: Any, tokenizers: tuple[Any, Any], texts: Sequence[str], folder: str | os.PathLike) -> list[str]:
    """Draw the attention of each text as attention-1.png, ...; return the file names (a model may have none)."""
    names: list[str] = []
    for number, text in enumerate(texts, start=1):
        try:
            files, _ = draw_attention(model, tokenizers, text, Path(folder) / f"attention-{number}")
        except Exception as error:  # a picture that fails must not cost the trained model, which is not saved yet
            logger.warning(f"no attention picture of {text!r}: {type(error).__name__}: {error}")
            continue
        names += [path.name for path in files]
    return names


def versions() -> dict[str, str]:
    """Return the versions that decide about the figures."""
    packages = ("hf_genai", "torch", "transformers", "tokenizers", "datasets", "accelerate", "sacrebleu", "babel")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # run from a checkout that is not installed
    return found


def hardware(device: torch.device, processes: int = 1, dtype: str = "float32") -> str:
    """Return where the run took place, in general words, and the precision it was trained in."""
    if device.type == "cuda":
        return f"{processes} x {torch.cuda.get_device_name(device)}, {dtype}"
    each = f"{processes} processes of " if processes > 1 else ""
    return f"{each}{torch.get_num_threads()} thread(s) of a {platform.machine()} CPU, {dtype}"


def training_dtype(training: TrainingArguments) -> str:
    """Return the precision of a run in words: bfloat16 and float16 are mixed with float32."""
    return {"bf16": "bfloat16", "fp16": "float16"}.get(training.mixed_precision, "float32")


def architecture(config: Any) -> str:
    """Return a sentence about a translator of ours: its layers, sizes and attention; "" for other families."""
    describe = {"genai_rnn": _recurrent_architecture, "genai_t5": _transformer_architecture}.get(config.model_type)
    return describe(config) if describe else ""


def _recurrent_architecture(config: Any) -> str:
    cell = config.cell_type.upper()
    ways = "bidirectional " if config.bidirectional_encoder else ""
    attention = f"{config.attention_type.replace('_', ' ')} attention {config.attention_position} the cell"
    if config.attention_type == "none":
        attention = "no attention"
    if config.input_feeding:
        attention += " and input feeding"
    return (
        f"Its {ways}encoder of {config.encoder_layers} {cell} layer(s) gives {config.encoder_hidden_size} numbers a "
        f"token; its decoder has {config.decoder_layers} {cell} layer(s) of {config.hidden_size} units with "
        f"{attention}; embeddings have {config.embedding_size} numbers."
    )


def _transformer_architecture(config: Any) -> str:
    words = {"rms_norm": "RMSNorm", "layer_norm": "LayerNorm", "pre": "before", "post": "after"}
    gated = "gated " if config.gated_mlp else ""
    activation = config.hidden_act.removesuffix("_pytorch_tanh")  # tanh-GELU is GELU to a reader of the card
    return (
        f"A Transformer of {config.encoder_layers} encoder and {config.decoder_layers} decoder layer(s) of "
        f"{config.hidden_size} numbers a token; {config.num_attention_heads} query and {config.num_key_value_heads} "
        f"key/value heads with {config.attention_type.replace('_', '-')} attention and "
        f"{config.position_embedding_type.replace('_', ' ')} positions; {gated}{activation.upper()} feed-forward "
        f"layers of {config.intermediate_size}; {words[config.norm_type]} {words[config.norm_position]} each "
        f"sub-layer."
    )


def bare(value: Any) -> Any:
    """Return a setting with absolute paths cut down to their last part: where files lie on a machine is private."""
    if isinstance(value, dict):
        return {key: bare(item) for key, item in value.items()}
    if isinstance(value, list):
        return [bare(item) for item in value]
    if isinstance(value, str) and value.startswith("--"):  # a word of a command, --data=/srv/me/pairs.tsv
        name, equals, value = value.partition("=")
        return name + equals + bare(value)
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def command(argv: Sequence[str], processes: int = 1) -> str:
    """Return the command that repeats a run from its first step, with bare names for shipped configs and paths."""
    from . import shipped_configs

    shipped = {str(path): name for name, path in shipped_configs().items()}
    launch = ["hf-genai"]
    if processes > 1:
        launch = ["torchrun", "--nproc_per_node", str(processes), "-m", "hf_genai.cli"]  # on CPUs too
    resume = ("--resume_from_checkpoint", "--resume-from-checkpoint")
    words: list[str] = []
    for before, word in zip(["", *argv], argv, strict=False):
        if word.partition("=")[0] not in resume and (before not in resume or word.startswith("--")):
            words.append(word)
    return shlex.join([*launch, "train", *(shipped.get(str(Path(word).resolve()), bare(word)) for word in words)])


def pairs_of_split(
    split: str, max_samples: int | None = None, **load_options: Any
) -> tuple[list[str], list[str], list[str], dict[str, int], Sequence[str]]:
    """Return sources and references of a split, the training targets (for the baseline), the rows left out, and the
    data's languages.

    "all" is every pair of every split that the data has. Then all targets count as training targets, so that the
    baseline looks better than it is.

    Args:
        load_options: arguments of `hf_genai.data.load_pairs`.

    Returns:
        Sources, references, training targets, reason -> number of rows of the split that are not scored, and the
        languages of source and target, none if they are not known.

    Raises:
        ValueError: if there is no such split.
    """
    from datasets import concatenate_datasets

    from ..data import load_pairs

    splits = ("train", "validation", "test")
    if split not in (*splits, "all"):
        raise ValueError(f"split must be one of {', '.join(splits)}, all, got {split!r}")
    pairs = load_pairs(**load_options, hold_out=split != "all")
    chosen = splits if split == "all" else (split,)
    rows = concatenate_datasets([getattr(pairs, name) for name in chosen])
    training_targets = (rows if split == "all" else pairs.train)["target"][:]
    left_out: Counter[str] = Counter()
    for name in chosen:
        left_out.update(pairs.report.left_out[name])
    rows = rows.select(range(min(max_samples or len(rows), len(rows))))
    return rows["source"][:], rows["target"][:], training_targets, dict(left_out), pairs.provenance.languages


def summary_of_run(
    arguments: RecipeArguments, argv: Sequence[str], model: Any, pairs: Any, scores: dict
) -> dict[str, Any]:
    """Return what results.json says about a run, without its times.

    Args:
        pairs: the PairData of the run.
        scores: what `score_model` returned for the first pairs of the test split.
    """
    training = arguments.training
    outputs = scores["predictions"]
    rows = list(zip(pairs.test["source"][: len(outputs)], pairs.test["target"][: len(outputs)], outputs, strict=True))
    return {
        **{key: value for key, value in scores.items() if key != "predictions"},
        "samples": [
            dict(zip(("source", "reference", "output"), row, strict=True)) for row in rows[: training.num_samples]
        ],
        "architecture": architecture(model.config),
        "data": {
            **dataclasses.asdict(pairs.provenance),
            "languages": list(pairs.provenance.languages),
            **dataclasses.asdict(pairs.report),
        },
        **facts_of_run(
            *(arguments, argv, model, training.device, training.world_size), dtype=training_dtype(training)
        ),
    }


def facts_of_run(
    arguments: Any, argv: Sequence[str], model: Any, device: torch.device, processes: int, dtype: str = "float32"
) -> dict[str, Any]:
    """Return what results.json says about every run, whatever the recipe; nothing private is in it.

    Args:
        arguments: of any recipe: `training`, and `given`, the mapping that reproduces the run.
        argv: the recipe's command line, as `take_token` returns it.
    """
    return {
        "model_type": model.config.model_type,
        "parameters": model.num_parameters(),
        "command": command(argv, processes),
        "settings": bare(arguments.given),
        "hardware": hardware(device, processes, dtype),
        "versions": versions(),
    }


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a file that is either the old one or the whole new one."""
    path = Path(path)
    unfinished = path.with_name(path.name + ".incomplete")
    unfinished.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
