"""What the model card says about a pretraining run."""

from pathlib import Path
from typing import Any

from ..cards import CardData
from .card import data_fields, flat_settings, license_of_weights, name_on_hub, pipeline_usage

_TASKS = {
    "clm": ("text-generation", "predicts each next token"),
    "prefix_lm": ("text-generation", "continues a text whose beginning it reads in both directions"),
    "fim": ("text-generation", "continues a text, or fills in its middle"),
    "mlm": ("fill-mask", "fills in masked tokens"),
    "span_corruption": ("text2text-generation", "writes the spans that were taken out of a text"),
}


def card_of_pretraining(arguments: Any, results: dict[str, Any], texts: Any) -> CardData:
    """Return what the model card says about a run; `results` is what results.json holds."""
    where, objective = texts.provenance, results["objective"]
    task, does = _TASKS[objective]
    before = arguments.model.model_name_or_path
    held_out = texts.validation[arguments.data.text_column]
    how = f"{Path(before).name}, trained further" if before else "trained from scratch"
    return CardData(
        title=arguments.model.model_title or f"{results['model_type']} {objective}",
        summary=f"A {results['model_type']} model that {does}, {how} by hf_genai on {where.name}.",
        model_type=results["model_type"],
        parameters=results["parameters"],
        license=license_of_weights(arguments.model.model_license, where),
        pipeline_tag=task,
        base_model=name_on_hub(before),
        usage=pipeline_usage(task, results["samples"], next(({"text": text} for text in held_out), None)),
        **data_fields(where),
        data_counts={split: f"{count:,} rows" for split, count in results["rows"].items()},
        training_command=results["command"],
        training_seconds=results["train_seconds"],
        hyperparameters=flat_settings(results["settings"]),
        versions=results["versions"],
        hardware=results["hardware"],
        speed={"Throughput in training": f"{results['tokens_per_second']:,} predicted tokens per second"},
        evaluation_data=f"{results['rows']['validation']} rows of held-out texts of {where.name}",
        evaluation_split="validation",
        evaluation_command=results["command"],
        scores={"loss": results["loss"], "perplexity": results["perplexity"]},
        baselines=results["baselines"],
        samples=results["samples"],
        samples_note="The first held-out rows, not chosen: what the model was given, what stood there, what it wrote.",
        limits=(
            f"Trained on {results['tokens']:,} predicted tokens of the texts named above, and measured on such texts"
            " alone. What it writes need not be true, nor sensible. Loss is in nats per predicted token of its own"
            " tokenizer, and not to be compared across tokenizers."
        ),
        bias="Not studied. The model repeats what its training texts say about people and places, and how.",
    )
