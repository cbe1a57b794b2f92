"""The config of the model to train: what the arguments give, and what the tokenizers decide."""

import dataclasses
import difflib
import re
from collections.abc import Collection
from typing import Any

from ..private_names import models_of
from .parsing import COMMAND_LINE, unknown_key
from .saving import drop_unused_generation


def build_config(arguments: Any, source_tokenizer: Any, target_tokenizer: Any) -> Any:
    """Return the model's config: the fields given, then what the tokenizers decide (sizes and special ids).

    With `model_name_or_path`, the fields given override those of the config found there.

    Args:
        arguments: of any recipe: `model` (a mapping and a name), `data`, and `where` each was set.

    Raises:
        ValueError: for an unknown field or model_type, a value that the config refuses, or a vocabulary that is
            smaller than the tokenizer's; names where it was set.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoConfig

    given, where, name = dict(arguments.model.model), arguments.where, arguments.model.model_name_or_path
    model_type = given.pop("model_type", None)
    origin = where.get("model.model_type", where.get("model", COMMAND_LINE))
    old = AutoConfig.from_pretrained(name) if name else None
    if old is None and model_type is None:
        raise ValueError(
            f"{origin}: model.model_type is missing; name one (genai_rnn, t5, ...), or give model_name_or_path to "
            "fine-tune a trained model"
        )
    if old is not None and model_type not in (None, old.model_type):
        raise ValueError(f"{origin}: model.model_type is {model_type!r}, but {name} holds a {old.model_type!r}")
    if old is None and model_type not in CONFIG_MAPPING:
        near = difflib.get_close_matches(str(model_type), list(CONFIG_MAPPING), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{origin}: unknown model.model_type {model_type!r}{hint}")
    config_class = type(old) if old is not None else CONFIG_MAPPING[model_type]
    fields = {f.name for f in dataclasses.fields(config_class)}
    # T5's config takes the last two without declaring them
    known = fields | set(config_class.attribute_map) | {"decoder_start_token_id", "tie_word_embeddings"}
    for key in given:
        if key not in known:
            raise unknown_key(key, known, where[f"model.{key}"], "model.")
    if old is None:
        decided = _from_tokenizers(source_tokenizer, target_tokenizer, fields)
        for key in ("vocab_size", "source_vocab_size", "decoder_vocab_size"):
            if given.get(key) is not None and given[key] < decided.get(key, 0):
                raise ValueError(
                    f"{where[f'model.{key}']}: model.{key} ({given[key]}) is smaller than the tokenizer's "
                    f"{decided[key]} tokens; leave it out to take the tokenizer's size"
                )
        given = {**decided, **{key: value for key, value in given.items() if value is not None}}
    try:
        config = config_class(**given) if old is None else config_class.from_dict({**old.to_dict(), **given})
    except (StrictDataclassError, TypeError) as error:
        named = re.search(r"field '(\w+)'", str(error))
        origin = where.get(f"model.{named.group(1)}" if named else "model", where.get("model", COMMAND_LINE))
        raise ValueError(f"{origin}: model: {' '.join(str(error).split())}") from error
    positions = getattr(config, "max_position_embeddings", None)
    for key in ("max_source_length", "max_target_length"):
        length = getattr(arguments.data, key, None)  # of recipes on pairs
        if positions is not None and length is not None and length > positions:
            raise ValueError(f"{key} ({length}) must be at most the model's max_position_embeddings ({positions})")
    return config


def set_generation(model: Any, arguments: Any, max_new_tokens: int | None) -> None:
    """Give the model the generation settings of the run, which are checked as they are when it is saved.

    Args:
        arguments: of a recipe with a mapping `generation`, and `where` each was set.
        max_new_tokens: where the mapping has none; None keeps the model's own, and nothing that it writes is scored.

    Raises:
        ValueError: for a value, or two that do not go together; names the fields and where they were set.
    """
    given = arguments.generation.generation
    try:
        model.generation_config.update(
            **({} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}) | given
        )
        drop_unused_generation(model, kept=given)
        model.generation_config.validate(strict=True)
    except (TypeError, ValueError) as error:
        keys = [key for key in given if re.search(rf"\b{key}\b", str(error))] or list(given)
        places = ", ".join(f"generation.{key} ({arguments.where[f'generation.{key}']})" for key in keys)
        places = places or "the base model's generation_config.json"
        raise ValueError(f"{places}: {' '.join(str(error).split())}") from error
    beams = model.generation_config.num_beams
    if beams is not None and (not isinstance(beams, int) or beams < 1):  # which transformers finds out in generate
        raise ValueError(f"generation.num_beams must be a whole number of at least 1, got {beams!r}")
    scored = max_new_tokens is not None or given
    if scored and model.generation_config.num_return_sequences not in (None, 1):
        number = model.generation_config.num_return_sequences
        raise ValueError(
            f"generation.num_return_sequences must be 1, as one output of each text is scored, got {number}"
        )


def _from_tokenizers(source_tokenizer: Any, target_tokenizer: Any, fields: set[str]) -> dict[str, Any]:
    """Return the config fields that follow from the tokenizers, as far as the config has them."""
    start = target_tokenizer.bos_token_id
    decided = {
        "vocab_size": len(source_tokenizer),
        "pad_token_id": target_tokenizer.pad_token_id,
        "bos_token_id": start,
        "eos_token_id": target_tokenizer.eos_token_id,
    }
    if target_tokenizer is not source_tokenizer:
        if "source_vocab_size" in fields:  # genai_rnn
            decided |= {"vocab_size": len(target_tokenizer), "source_vocab_size": len(source_tokenizer)}
        elif "decoder_vocab_size" in fields:  # marian
            decided |= {"decoder_vocab_size": len(target_tokenizer)}
        else:
            raise ValueError("separate_vocabularies must be false: this model_type has one vocabulary for both sides")
        decided |= {"share_encoder_decoder_embeddings": False}
    decided = {key: value for key, value in decided.items() if key in fields}
    # a tokenizer without <s>, such as T5's, starts the decoder with padding
    return decided | {"decoder_start_token_id": target_tokenizer.pad_token_id if start is None else start}


def check_model_type(config: Any, auto: Any, task: str, without: Collection[str] = (), foreign: bool = True) -> None:
    """Refuse a model whose family has no head for the task.

    Args:
        auto: the Auto class of the task's head.
        without: families of ours that have one, and yet cannot learn the task.
        foreign: whether transformers' own families will do.

    Raises:
        ValueError: names the families of ours that can.
    """
    fits = type(config) in models_of(auto) and config.model_type not in without
    if not fits or not (foreign or config.model_type.startswith("genai")):
        known = {c.model_type for c in models_of(auto) if c.model_type.startswith("genai")} - set(without)
        raise ValueError(
            f"model_type {config.model_type!r} cannot learn {task}; of ours, {', '.join(sorted(known))} can"
        )
