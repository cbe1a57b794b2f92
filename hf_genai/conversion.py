"""From transformers' BERT, RoBERTa, DistilBERT, GPT-2, Llama, Mistral and T5 to our classes, and back.

    model = hf_genai.from_transformers("gpt2")              # a Hub name, a folder or a model -> GenaiGPTForCausalLM
    hf_genai.to_transformers(model).save_pretrained("out")  # a GPT2LMHeadModel, which every engine knows

What corresponds to what stands in conversion_tables.py. Only safetensors are read, and no code of a checkpoint is run.
"""

import copy
import dataclasses
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import transformers
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .conversion_layout import RENAME, Head, Layout, Operation
from .conversion_tables import ACTIVATIONS, COMMON, LAYOUTS, UNFIT
from .loading import load_model, quiet
from .model_folder import foreign_code
from .private_names import attention_of, file_if_there, models_of
from .registry import FAMILIES, load

logger = logging.get_logger(__name__)

# One of these is in a folder that has a tokenizer.
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


def from_transformers(source: str | Path | PreTrainedModel, *, auto_class: str | None = None, **options: Any) -> Any:
    """Return a model of ours with the weights and the function of one of transformers.

    Configuration, dtype, device, labels, token ids and generation settings come along. Dropout does too, with two
    exceptions that only training meets: RoBERTa's text classifier drops its input once more than ours, and
    DistilBERT's question answering has one that ours lacks.

    Args:
        source: A model, which stays as it is and shares no memory with the result; or the folder or Hub name of one.
        auto_class: Name of the Auto class to load a folder or Hub name by, such as "AutoModelForCausalLM". None: the
            class that its config.json names.
        options: For the `from_pretrained` of transformers' class, such as `dtype`, `revision` or `num_labels`.

    Raises:
        ValueError: The model is of no family named above, or has a part or a setting that our layout cannot express;
            the message names it.
    """
    if isinstance(source, str | Path):
        source = load_foreign(str(source), auto_class, options)
    elif not isinstance(source, PreTrainedModel):
        raise ValueError(f"source must be a model of transformers, or a folder or Hub name, not {type(source)}")
    elif auto_class is not None or options:
        given = ", ".join(sorted([*options, *(["auto_class"] if auto_class else [])]))
        raise ValueError(
            f"{given}: a model that is loaded has its class and settings; give its name or folder instead"
        )
    layout = layout_of(source.config)
    head = their_head(layout, type(source).__name__)
    config = load(layout.family, FAMILIES[layout.family][1])(**read_config(layout, head, source))
    return transfer(source, load(layout.family, head.ours), config, layout, head, forward=True)


def to_transformers(model: PreTrainedModel) -> Any:
    """Return transformers' own model with the weights and the function of one of ours, which stays as it is.

    Raises:
        ValueError: The model is not in the layout of a class of transformers; the message names the fields that stand
            in the way.
    """
    ours, config = type(model).__name__, model.config
    obstacles = []
    for layout in LAYOUTS:
        head = next((head for head in layout.heads if head.ours == ours), None)
        if not layout.writable or layout.family != config.model_type or head is None:
            continue
        needed = find_obstacles({**layout.constants, **head.constants}, config)
        if not needed:
            theirs = getattr(transformers, layout.config)(**write_config(layout, head, model))
            return transfer(model, getattr(transformers, head.theirs), theirs, layout, head, forward=False)
        obstacles.append(f"{head.theirs} would need {', '.join(needed)}")
    if not obstacles:
        families = ", ".join(dict.fromkeys(layout.family for layout in LAYOUTS))
        raise ValueError(f"model must be of {families}, not {ours}: transformers has no class like that")
    raise ValueError(f"this {ours} is in no layout that transformers has a class for: {'; '.join(obstacles)}")


def convert_folder(
    source: str, target: str | Path, *, to: str | None = None, auto_class: str | None = None
) -> PreTrainedModel:
    """Convert a folder or Hub name into a new folder: model, configuration and, where there is one, the tokenizer.

    Args:
        source: A model of ours or of transformers.
        target: A folder that does not exist or is empty. It is there in full, or not at all.
        to: "transformers" or "hf_genai". None: whichever source is not.
        auto_class: As in `from_transformers`.

    Raises:
        ValueError: `target` holds files, source is in the wanted form already, or it cannot be converted.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"target folder {target} is there and not empty; give another one")
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    form = "hf_genai" if config.model_type in FAMILIES else "transformers"
    if to not in (None, "transformers", "hf_genai"):
        raise ValueError(f"to must be transformers or hf_genai, not {to!r}")
    if to == form:
        raise ValueError(f"to={to}: {source} is a model of {form} already ({config.model_type})")
    if form == "transformers":
        model = from_transformers(source, auto_class=auto_class)
    elif auto_class is not None:
        raise ValueError("auto_class is for models of transformers; one of hf_genai is converted with the head it has")
    else:
        name = (config.architectures or list(config.auto_classes.values()))[0]
        ours = load_model(load(config.model_type, name), source, use_safetensors=True)
        model = to_transformers(ours)
    part = target.with_name(f".{target.name}.part")
    try:
        model.save_pretrained(part)
        if any(file_if_there(source, name) for name in TOKENIZERS):
            AutoTokenizer.from_pretrained(source, trust_remote_code=False).save_pretrained(part)
        foreign_code(part, remove=True)
        if target.exists():
            target.rmdir()
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return model


def load_foreign(name: str, auto_class: str | None, options: dict[str, Any]) -> PreTrainedModel:
    """Load a folder or Hub name by transformers' own class, from safetensors and without running code of it."""
    if Path(name).is_dir() and not any((Path(name) / options.get("subfolder", "")).glob("*.safetensors")):
        raise ValueError(
            f"{name} has no .safetensors file: weights in another format (pickles can run code when they are read) are"
            " not taken; save the model by transformers' save_pretrained first"
        )
    hub_options = {key: options[key] for key in HUB_OPTIONS if key in options}
    config = AutoConfig.from_pretrained(name, trust_remote_code=False, **hub_options)
    layout = layout_of(config)
    if auto_class is not None:
        mapping = models_of(getattr(transformers, auto_class, None))
        if type(config) not in mapping:
            raise ValueError(f"auto_class: {auto_class!r} is no Auto class of transformers that opens {layout.name}")
        architecture = mapping[type(config)].__name__
    else:
        architecture = (config.architectures or [layout.heads[0].theirs])[0]
    head = their_head(layout, architecture)
    model_class = getattr(transformers, head.theirs)
    # another head than that of the files is asked for by auto_class, to be trained
    heads = auto_class is not None
    return load_model(model_class, name, new_heads=heads, use_safetensors=True, trust_remote_code=False, **options)


def layout_of(config: PreTrainedConfig) -> Layout:
    for layout in LAYOUTS:
        if config.model_type == layout.model_type:
            return layout
    if config.model_type in FAMILIES:
        raise ValueError(f"source is a {config.model_type} model, so it is ours already; to_transformers goes back")
    known = ", ".join(layout.model_type for layout in LAYOUTS)
    why = UNFIT.get(config.model_type)
    raise ValueError(
        f"model_type must be one of {known}, not {config.model_type!r}" + (f": {why}" if why is not None else "")
    )


def their_head(layout: Layout, name: str) -> Head:
    for head in layout.heads:
        if head.theirs == name:
            return head
    known = ", ".join(head.theirs for head in layout.heads)
    raise ValueError(
        f"{name} has no counterpart; of {layout.name} these have: {known}. A folder or Hub name can be loaded with"
        " another head: auto_class='AutoModel', say"
    )


def find_obstacles(constants: dict[str, Any], config: Any) -> list[str]:
    """Return "field=needed (not found)" of each field of our configuration that has another value."""
    found = []
    for name, value in constants.items():
        needed = value(config) if callable(value) else value
        if getattr(config, name) != needed:
            found.append(f"{name}={needed!r} (not {getattr(config, name)!r})")
    return found


def read_config(layout: Layout, head: Head, source: PreTrainedModel) -> dict[str, Any]:
    """Return the fields of our configuration for a model of theirs."""
    theirs, family = source.config, layout.family
    for name, allowed in layout.refused.items():
        if getattr(theirs, name, allowed) != allowed:
            raise ValueError(f"{name} must be {allowed!r} for {family}, not {getattr(theirs, name)!r}")
    declared = {field.name for field in dataclasses.fields(load(family, FAMILIES[family][1]))}
    fields = {name: value for name, value in layout.constants.items() if not callable(value)}
    # what they leave open stays open; only what they do not know at all is our default
    fields |= {name: None for name in COMMON if name.endswith("_token_id") and name in declared}
    for name, our_name in {**{name: name for name in COMMON}, **layout.fields}.items():
        if our_name in declared and hasattr(theirs, name):
            fields[our_name] = copy.deepcopy(getattr(theirs, name))
            if our_name == "pad_token_id" and fields[our_name] == -1:  # as Llama's first configurations had it
                fields[our_name] = None
            if our_name == "hidden_act":
                if fields[our_name] not in ACTIVATIONS:
                    known = ", ".join(ACTIVATIONS)
                    raise ValueError(f"{name} must be one of {known} for {family}, not {fields[our_name]!r}")
                fields[our_name] = ACTIVATIONS[fields[our_name]]
    fields |= {**layout.read(theirs, head.ours), "tie_word_embeddings": is_tied(source)}
    for name, value in layout.constants.items():
        if callable(value) and name not in fields:
            fields[name] = value(SimpleNamespace(**fields))
    fields |= said_of_tasks(theirs)
    if wrong := find_obstacles(head.constants, SimpleNamespace(**fields, num_labels=theirs.num_labels)):
        raise ValueError(f"{head.ours} would need {', '.join(wrong)}")
    return fields


def write_config(layout: Layout, head: Head, model: PreTrainedModel) -> dict[str, Any]:
    """Return the fields of their configuration for a model of ours."""
    declared = {field.name for field in dataclasses.fields(getattr(transformers, layout.config))}
    fields = {}
    for name, our_name in {**{name: name for name in COMMON}, **layout.fields}.items():
        if name in declared and hasattr(model.config, our_name):
            value = copy.deepcopy(getattr(model.config, our_name))
            fields[name] = layout.activations.get(value, value) if our_name == "hidden_act" else value
    if "tie_word_embeddings" in fields:
        fields["tie_word_embeddings"] = is_tied(model)
    return {**fields, **said_of_tasks(model.config), **layout.write(model.config, head.ours)}


def said_of_tasks(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what a configuration says of the prefixes and settings of tasks, which pipelines go by."""
    names = ("task_specific_params", "prefix")
    return {name: copy.deepcopy(value) for name in names if (value := getattr(config, name, None)) is not None}


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the vocabulary is scored with the embedding table; of a model that scores none, what it says."""
    head = model.get_output_embeddings()
    if head is None:
        return getattr(model.config, "tie_word_embeddings", True)
    return head.weight is model.get_input_embeddings().weight


def rows_of(layout: Layout, head: Head) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], Operation]]:
    """Yield all rows for a head, with the names as they stand in the two models."""
    our_prefix = "model." if head.rows else ""
    for rows, theirs, ours in ((head.rows, "", ""), (layout.rows, head.prefix, our_prefix)):
        for row in rows:
            their_names, our_names = ((names,) if isinstance(names, str) else names for names in row[:2])
            yield (
                tuple(theirs + name for name in their_names),
                tuple(ours + name for name in our_names),
                row[2] if len(row) == 3 else RENAME,
            )


def translate(
    tensors: Mapping[str, Tensor], layout: Layout, head: Head, forward: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors under their names on the other side, and those that no row names.

    Args:
        tensors: name -> parameter, or anything of its shape, such as its gradient; one name of those that are tied.
        forward: from theirs to ours, else back.
    """
    left: dict[str, Tensor] = dict(tensors)
    found: dict[str, Tensor] = {}
    for theirs, ours, operation in rows_of(layout, head):
        sources, targets = (theirs, ours) if forward else (ours, theirs)
        pattern = re.compile(re.escape(sources[0]).replace(r"\*", r"(\d+)") + r"(\.weight|\.bias)?")
        for match in [match for name in left if (match := pattern.fullmatch(name))]:
            *layers, suffix = match.groups(default="")

            def named(names: tuple[str, ...], layer: str = "".join(layers), suffix: str = suffix) -> list[str]:
                return [name.replace("*", layer) + suffix for name in names]

            if all(name in left for name in named(sources)) and not any(name in found for name in named(targets)):
                values = [left.pop(name) for name in named(sources)]
                change = operation.read if forward else operation.write
                found.update(zip(named(targets), change(values, len(targets)), strict=True))
    return found, left


def transfer(
    source: PreTrainedModel, target_class: Any, config: PreTrainedConfig, layout: Layout, head: Head, forward: bool
) -> Any:
    """Return a target_class with the weights of source, and what else belongs to a model.

    Raises:
        ValueError: A weight has no counterpart.
    """
    weights = dict(source.named_parameters())
    if any(weight.is_meta for weight in weights.values()) or getattr(source, "is_quantized", False):
        raise ValueError("the weights must be in memory and not quantised: load the model without device_map and such")
    if len(dtypes := {weight.dtype for weight in weights.values()}) > 1:
        logger.warning("the weights are %s; all become %s", " and ".join(map(str, dtypes)), source.dtype)
    state, left = translate(weights, layout, head, forward)
    with quiet():
        target, info = target_class.from_pretrained(
            None,
            config=config,
            state_dict={name: weight.detach().clone().contiguous() for name, weight in state.items()},
            dtype=source.dtype,
            attn_implementation=attention_of(source.config),
            output_loading_info=True,
        )
    # what a row names and this class has no place for goes back under its old name
    left |= translate({name: state[name] for name in info["unexpected_keys"]}, layout, head, not forward)[0]
    mine, new = (head.only_theirs, head.only_ours) if forward else (head.only_ours, head.only_theirs)
    if unknown := [name for name in left if not name.startswith(mine)]:
        raise ValueError(f"{type(source).__name__} has weights without counterpart: {', '.join(unknown)}")
    if lacking := [name for name in info["missing_keys"] if not name.startswith(new)]:
        raise ValueError(f"{type(source).__name__} has no weights for {target_class.__name__}: {', '.join(lacking)}")
    if left:
        logger.warning("%s has no place for %s: left out", target_class.__name__, ", ".join(left))
    if info["missing_keys"]:
        logger.warning(
            "%s has no %s: newly initialised", type(source).__name__, ", ".join(sorted(info["missing_keys"]))
        )
    if target.can_generate() and source.generation_config is not None:
        target.generation_config = copy.deepcopy(source.generation_config)
    target.config.name_or_path = target.name_or_path = source.config.name_or_path
    return target.to(source.device).train(source.training)
