"""The model card: what a README.md on the Hub says about a model, and the metadata in its head."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .identifiers import check_languages, check_license

TARGET_TOKENIZER = "target_tokenizer"
_METRIC_NAMES = {"bleu": "BLEU", "chrf": "chrF", "exact_match": "Exact match", "f1": "F1", "entity_f1": "Entity F1"}


@dataclass(kw_only=True)
class CardData:
    """What a model card says. What is left out is shown as missing; nothing is filled in by guess.

    Args:
        title: Name of the model, also in the `model-index`.
        summary: The architecture in a sentence or two.
        model_type: As in config.json.
        parameters: Number of trained numbers, shared ones counted once. None: counted by `save_for_hub`.
        license: Licence of the weights by its Hub name ("apache-2.0").
        base_model: Name on the Hub of the model that was trained further.
        languages: Language codes, source first.
        repo_id: The model's name on the Hub, if it is known; else the folder's name, which `push` replaces.
        usage: Code with a line `model_id = "MODEL_ID"`, which is given the model's name, by `push` that on the Hub.
        usage_output: What the code printed. None: `save_for_hub` runs the code on the saved folder.
        data_synthetic: True: made by a program. False: written by people. None: not known.
        dataset_id: Name of the data set on the Hub, only if it lies there.
        data_counts: Per split, its size and its bad rows, in words.
        hyperparameters: Setting -> value.
        versions: Package -> version.
        hardware: In general words ("2 CPU cores"); never a host name.
        speed: What was timed -> value with its unit.
        evaluation_data: What the scores are about, in words ("512 held-out combinations").
        scores: Metric ("bleu", "chrf", "exact_match") -> value, None if it was not measured.
        baselines: Name -> the same metrics.
        signatures: Metric -> how it was computed (sacreBLEU's signature).
        samples: Rows of source, reference and output; `samples_note` says how they were chosen.
        attention_picture: File name of a picture in the folder.
    """

    title: str
    summary: str
    model_type: str
    parameters: int | None = None
    license: str | None = None
    base_model: str | None = None
    languages: Sequence[str] = ()
    pipeline_tag: str = "translation"
    tags: Sequence[str] = ()
    repo_id: str | None = None
    usage: str | None = None
    usage_output: str | None = None
    data_name: str | None = None
    data_description: str | None = None
    data_source: str | None = None
    data_license: str | None = None
    data_synthetic: bool | None = None
    dataset_id: str | None = None
    data_counts: Mapping[str, Any] = field(default_factory=dict)
    training_command: str | None = None
    training_seconds: float | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: str | None = None
    speed: Mapping[str, Any] = field(default_factory=dict)
    evaluation_data: str | None = None
    evaluation_split: str = "test"
    evaluation_command: str | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    signatures: Mapping[str, str] = field(default_factory=dict)
    samples: Sequence[Sequence[str]] = ()
    samples_note: str = ""
    attention_picture: str | None = None
    limits: str | None = None
    bias: str | None = None
    citation: str | None = None


def name_model(text: str, name: str) -> str:
    """Return code, or a card with code, whose line `model_id = "..."` names the model, quoted as code needs it."""
    return re.sub(r'(?m)^model_id = ".*"$', lambda _: f"model_id = {quoted(name)}", text, count=1)


def quoted(text: str) -> str:
    """Return a text as code has it, in double quotes."""
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", json.dumps(text, ensure_ascii=False))


def usage_snippet(text: str, two_tokenizers: bool = False) -> str:
    """Return code that opens a sequence-to-sequence model by the Auto classes and prints its output for `text`.

    A tokenizer has no code of its own, but AutoTokenizer reads the configuration, which has, and would stop to ask.
    """
    lines = [
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
        "",
        'model_id = "MODEL_ID"',
        "tokenizer = AutoTokenizer.from_pretrained(model_id, trust_remote_code=True)",
        "model = AutoModelForSeq2SeqLM.from_pretrained(model_id, trust_remote_code=True)",
        f'inputs = tokenizer({quoted(text)}, return_tensors="pt")',
        "output_ids = model.generate(**inputs, num_beams=5, max_new_tokens=100)",
        "print(tokenizer.decode(output_ids[0], skip_special_tokens=True))",
    ]
    if two_tokenizers:
        lines[-1] = lines[-1].replace("tokenizer", "target_tokenizer")
        options = f'subfolder="{TARGET_TOKENIZER}", trust_remote_code=True'
        lines.insert(4, f"target_tokenizer = AutoTokenizer.from_pretrained(model_id, {options})")
    return "\n".join(lines)


def render_card(card: CardData) -> str:
    """Return the README.md of a model, with metadata that huggingface_hub reads back.

    Raises:
        ValueError: The title is empty, or the Hub would refuse the licence, a language or other metadata.
    """
    import jinja2
    from huggingface_hub import ModelCard

    if not card.title.strip():
        raise ValueError(f"title ({card.title!r}) must not be empty: it names the model in its metadata")
    metrics = list(dict.fromkeys([*card.scores, *(metric for row in card.baselines.values() for metric in row)]))
    rows = {"This model": card.scores, **{f"Baseline: {name}": row for name, row in card.baselines.items()}}
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"cell": _cell, "text": _text, "code": _code, "fenced": _fenced, "quote": quote}
    template = environment.from_string((Path(__file__).parent / "templates" / "model_card.md").read_text("utf-8"))
    text = template.render(
        card=replace(card, usage=card.usage and name_model(card.usage, card.repo_id or "MODEL_ID")),
        card_data=_metadata(card).to_yaml(),
        metrics=[_METRIC_NAMES.get(metric, metric) for metric in metrics],
        rows={name: [_figure(row.get(metric)) for metric in metrics] for name, row in rows.items()} if metrics else {},
    )
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    text = text.encode("utf-8", "replace").decode()  # half a character cannot be written
    return str(ModelCard(text))  # parses the metadata once more, and raises if it does not come back


def _metadata(card: CardData) -> Any:
    """Return the ModelCardData of a card; only scores that were measured become its `model-index`."""
    from huggingface_hub import EvalResult, ModelCardData

    measured = {metric: value for metric, value in card.scores.items() if _is_number(value)}
    name = " ".join((card.data_name or card.dataset_id or "unnamed").split())
    results = [
        EvalResult(
            task_type=card.pipeline_tag,
            dataset_type=card.dataset_id or name,
            dataset_name=name,
            dataset_split=card.evaluation_split,
            metric_type=metric,
            metric_name=_METRIC_NAMES.get(metric, metric),
            metric_value=round(float(value), 4),  # type: ignore[arg-type]
            metric_args={"signature": card.signatures[metric]} if metric in card.signatures else None,
        )
        for metric, value in measured.items()
    ]
    metadata = ModelCardData(
        language=check_languages(card.languages) or None,
        license=None if card.license is None else check_license(card.license),
        library_name="transformers",
        base_model=card.base_model,
        pipeline_tag=card.pipeline_tag,
        tags=["hf_genai", card.model_type, *card.tags],
        datasets=card.dataset_id,
        metrics=list(measured) or None,
    )
    if results:  # else the name would stand in the metadata as a key of its own
        metadata.model_name, metadata.eval_results = " ".join(card.title.split()), results
    return metadata


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _figure(value: Any) -> str:
    # 0.9987 is not 1.00
    return f"{value:.{3 if abs(value) <= 1 else 2}f}" if _is_number(value) else "not measured"


def _line(value: Any) -> str:
    """Return text on one line that looks in Markdown and HTML as it is written."""
    text = re.sub(r"([\\`*\[\]|~$]|\b_|_\b)", r"\\\1", " ".join(str(value).split()))
    return re.sub(r"&(?=#?\w+;)", "&amp;", text).replace("<", "&lt;")


def _cell(value: Any) -> str:
    """Return text that stays in one cell of a Markdown table and looks as it is written, or says that it is empty."""
    return _line(value) or "(empty)"


def _text(value: Any) -> str:
    """Return paragraphs that look in Markdown and HTML as they are written: none begins a heading, list or table."""
    paragraphs = [_line(part) for part in re.split(r"\n\s*\n", str(value))]
    return "\n\n".join(re.sub(r"^(\d*)([-+=>.):#])", r"\1\\\2", part) for part in paragraphs if part)


def _code(value: Any) -> str:
    """Return text as code within a line."""
    text = " ".join(str(value).split())
    fence = "`" * (_longest_run(text) + 1)
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def _fenced(value: Any, language: str) -> str:
    """Return a block of code that ends nowhere but behind its text."""
    fence = "`" * max(3, _longest_run(str(value)) + 1)
    return f"{fence}{language}\n{value}\n{fence}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
