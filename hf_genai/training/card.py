"""What the model card says about a run."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..cards import CardData, usage_snippet
from ..data.plain_text import join_words
from ..evaluation.bleu_tokenizers import USUAL
from ..evaluation.scripts import without_spaces_between_words
from .arguments import DataArguments, RecipeArguments
from .results import METRICS, bare

logger = logging.get_logger(__name__)

# Options of `hf-genai evaluate` that mean what they mean in training, with the same defaults.
_DATA_OPTIONS = (
    *("source_column", "target_column", "validation_data", "test_data", "train_size"),
    *("max_length_chars", "data_config", "data_revision"),
)


def data_fields(where: Any) -> dict[str, Any]:
    """Return what a card says of the data, given its `Provenance`."""
    return {
        "languages": where.languages,
        "data_name": where.name,
        "data_description": where.description,
        "data_source": where.origin,
        "data_license": where.licence,
        "data_synthetic": where.synthetic,
        "dataset_id": where.dataset_id,
    }


def license_of_weights(asked: str | None, where: Any) -> str | None:
    """Return the licence that a card may state: the one asked for, and none where that of the data is not known.

    Args:
        asked: by the user or a config.
        where: the data's `Provenance`.
    """
    if asked is None or where.licence.lower() not in ("", "not stated", "unknown"):
        return asked
    logger.warning(
        f"model_license: the card does not say {asked}, as nothing is known of the licence of the training data"
        f" ({where.name}); --data_license states it"
    )
    return None


def name_on_hub(model: str | None) -> str | None:
    """Return what a card's metadata call the model that was trained further; None for a folder, which stays here."""
    return None if model is None or Path(model).is_dir() else model


def flat_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Return what was set for a run, `model.FIELD` for the fields of the model's mapping, without its folder."""
    flat = {f"model.{key}": value for key, value in given.get("model", {}).items()}
    left_out = ("model", "generation", "output_dir", "overwrite_output_dir", "resume_from_checkpoint")
    return {**flat, **{key: value for key, value in given.items() if key not in left_out}}


def prefix_setting(prefix: str) -> dict[str, str]:
    """Return a card's line about what is put before each source, quoted as its last space counts."""
    return {"prefix": json.dumps(prefix, ensure_ascii=False)} if prefix else {}


_TAGGING = """from transformers import AutoModelForTokenClassification, AutoTokenizer

model_id = "MODEL_ID"
tokenizer = AutoTokenizer.from_pretrained(model_id, trust_remote_code=True)
model = AutoModelForTokenClassification.from_pretrained(model_id, trust_remote_code=True)
words = {words}
text, begin, found = {text!r}, 0, []
inputs = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
ends = inputs.pop("offset_mapping")[0, :, 1].tolist()
tags = model(**inputs).logits[0].argmax(-1).tolist()
for word in words:  # its tag stands at its first token
    begin = text.index(word, begin)
    first = next(place for place, end in enumerate(ends) if end > begin)
    found.append((word, model.config.id2label[tags[first]]))
    begin += len(word)
print(found)"""


def pipeline_usage(
    task: str, samples: Sequence[Sequence[str]], example: Mapping[str, Any] | None = None
) -> str | None:
    """Return code that runs a model by a pipeline on the first sample; None for tasks that none of them is for.

    Args:
        task: the model's pipeline tag.
        samples: what was given, expected and found.
        example: a row of the data, where more than a sample is given: a question with its context, messages, words, a
            text that may have several labels, or one that a word is taken out of.
    """
    calls = {
        "text-generation": ("transformers", "model({given}, max_new_tokens=20, do_sample=False)[0]['generated_text']"),
        "fill-mask": ("transformers", "model({given})[0]"),
        "text-classification": ("transformers", "model({given})"),
        "summarization": ("hf_genai", "model({given})"),
        "question-answering": ("hf_genai", "model({given})"),
        "text2text-generation": ("hf_genai", "model({given})"),
    }
    if task == "token-classification" and example is not None:  # the pipeline's words are pieces, or run together
        words = example["tokens"][:20]
        return _TAGGING.format(words=words, text=join_words(words)[0])
    if task not in calls or not samples:
        return None
    package, call = calls[task]
    if task in ("fill-mask", "question-answering", "text2text-generation"):
        if example is None:
            return None
        if task == "question-answering":
            given = f"question={example['question']!r}, context={example['context']!r}"
        else:
            words, space = example["text"].split()[:12], " "
            if without_spaces_between_words(words):
                words, space = list("".join(words)[:24]), ""
            half = len(words) // 2
            before, after = (space.join(part)[:60] for part in (words[:half], words[half + 1 :]))
            gap = "model.tokenizer.mask_token" if task == "fill-mask" else "'<extra_id_0>'"
            given = f"{before + space!r} + {gap} + {space + after!r}"
    elif task == "text-classification" and example is not None:
        given = repr(example["text"][:60].strip())
        call = "[row for row in model({given}, top_k=None) if row['score'] > 0.5]"
    elif example is not None and "messages" in example:
        given = repr(example["messages"])  # in which control tokens are text
        as_text = ", tokenizer_encode_kwargs={{'sanitize_control_tokens': True}})[0]"
        call = call.replace(")[0]", as_text) + "[-1]['content']"
    else:
        given = repr(samples[0][0][: 300 if task == "summarization" else 60].strip())
    lines = [f"from {package} import pipeline", "", 'model_id = "MODEL_ID"']
    lines.append(f'model = pipeline("{task}", model=model_id, trust_remote_code=True)')
    lines.append(f"print({call.format(given=given)})")
    return "\n".join(lines)


def card_of_run(arguments: RecipeArguments, results: dict[str, Any], pairs: Any, two_tokenizers: bool) -> CardData:
    """Return what the model card says about a run; `results` is what results.json holds."""
    where, count = pairs.provenance, results["num_examples"]
    family = results["model_type"]
    sizes = {key: value for key, value in arguments.model.model.items() if key != "model_type"}
    languages = " to ".join(where.languages) or "source to target"
    trained = arguments.model.model_name_or_path
    summary = f"An encoder-decoder ({family}) that translates {languages}, trained from scratch by hf_genai."
    if trained:
        summary = f"{Path(trained).name} ({family}), trained further by hf_genai on {where.name}."
    pictures = [name for name in results["attention_maps"] if name.endswith(".png")]
    return CardData(
        title=arguments.training.model_title or f"{family} {'-'.join(where.languages) or 'seq2seq'}",
        summary=f"{summary} {results['architecture']}".strip(),
        model_type=family,
        parameters=results["parameters"],
        license=license_of_weights(arguments.training.model_license, where),
        base_model=name_on_hub(trained),
        usage=usage_snippet(results["prefix"] + results["samples"][0]["source"], two_tokenizers)
        if results["samples"]
        else None,
        **data_fields(where),
        data_counts=dict(line.split(": ", 1) for line in str(pairs.report).splitlines()),
        training_command=results["command"],
        training_seconds=results["train_seconds"],
        hyperparameters=flat_settings({**results["settings"], "model": sizes, **prefix_setting(results["prefix"])}),
        versions=results["versions"],
        hardware=results["hardware"],
        speed={"Decoding of the test pairs": f"{results['sentences_per_second']} sentences per second"},
        evaluation_data=f"{count} test pairs of {where.name}, none of them seen in training",
        evaluation_command=_evaluation_command(arguments, results["bleu_tokenize"]),
        scores={metric: results[metric] for metric in METRICS},
        baselines={
            name.replace("_", " "): {metric: row[metric] for metric in METRICS}
            for name, row in results["baselines"].items()
        },
        signatures={"bleu": results["bleu_signature"], "chrf": results["chrf_signature"]},
        samples=[tuple(row.values()) for row in results["samples"]],
        samples_note="Of the first pairs of the test split, not chosen:",
        attention_picture=pictures[0] if pictures else None,
        limits=(
            f"Trained on {pairs.report.kept['train']:,} pairs of the kind described above: other text comes "
            f"out wrong, often fluently so. Sources longer than {arguments.data.max_source_length} tokens are cut. "
            "Scores are of pairs from the same source as the training text, and say nothing about others."
        ),
        bias=(
            "Names of countries, languages and currencies are those that CLDR chose, disputed ones included; "
            "few of the texts speak of people. Nothing further was studied."
            if where.synthetic
            else "Not studied. The model repeats what its training text says about people and places, and how."
        ),
    )


def _evaluation_command(arguments: RecipeArguments, bleu_tokenizer: str) -> str:
    """Return the command that scores the model on the same test pairs, against the same baselines."""
    data, usual = arguments.data, DataArguments()
    options = [word for source in data.data for word in ("--data", source)] + ["--seed", str(arguments.training.seed)]
    for key in _DATA_OPTIONS:
        if getattr(data, key) != getattr(usual, key):
            options += [f"--{key}", str(getattr(data, key))]
    if bleu_tokenizer != USUAL:
        options += ["--bleu_tokenize", bleu_tokenizer]
    options += ["--split", "test", "--max_source_length", str(data.max_source_length)]
    if data.max_test_samples:
        options += ["--max_samples", str(data.max_test_samples)]
    return shlex.join(["hf-genai", "evaluate", Path(str(arguments.training.output_dir)).name, *bare(options)])
