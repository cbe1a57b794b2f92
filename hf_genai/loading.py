"""Open models whose weights are all there: transformers fills up what a file lacks with random numbers, and goes on.

All commands, recipes and pipelines open models here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers import AutoConfig, GenerationConfig, PreTrainedModel
from transformers.utils import logging

from .files import read_json
from .model_folder import weight_files
from .private_names import models_of
from .registry import FAMILIES, load


def load_model(auto_class: Any, name: str | Path, *, new_heads: bool = False, **options: Any) -> Any:
    """Return `auto_class.from_pretrained(name, **options)`, all of whose weights came from the files.

    Args:
        auto_class: an Auto class, or a model class.
        name: folder, or name on the Hub.
        new_heads: a head may be made anew, as training follows.
        options: of `from_pretrained`.

    Raises:
        ValueError: the files lack weights of the model, an index names a file outside of the folder, or
            generation_config.json has a value that is not possible.
    """
    if (Path(name) / "model.safetensors.index.json").is_file():
        weight_files(Path(name))  # none of another folder
    if (settings := Path(name) / "generation_config.json").is_file():
        try:
            GenerationConfig.from_pretrained(name)
        except (ValueError, TypeError) as error:  # which does not say where it comes from
            raise ValueError(f"{settings}: {error}") from error
    model, info = auto_class.from_pretrained(name, output_loading_info=True, **options)
    # with ignore_mismatched_sizes=True, weights of another shape are made anew, too
    shapes = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    lacking = sorted({*info["missing_keys"], *shapes})
    if wrong := [key for key in lacking if not _may_be_new(model, key, new_heads)]:
        others = sorted(info["unexpected_keys"])
        instead = f"; what it has, and the model does not: {_some(others)}" if others else ""
        why = "its .safetensors, their index or its config.json are those of another model"
        if all(_may_be_new(model, key, True) for key in wrong):
            why = "this head was not trained, fine-tune the model first"
        raise ValueError(
            f"{name} lacks {len(wrong)} weights of a {type(model).__name__}: {_some(wrong)}{instead}; {why}"
        )
    return model


def check_weights(auto_class: Any, name: str | Path, **options: Any) -> None:
    """Refuse a model as `load_model` does, without reading its weights.

    Raises:
        ValueError: as of `load_model`.
    """
    with quiet():
        load_model(auto_class, name, **{**options, "device_map": "meta"})


def check_folder(folder: str | Path) -> None:
    """Refuse a saved model whose weights are not those of the class that its config.json names.

    A class that neither transformers nor this package has is left unchecked, as its code is not run here.

    Raises:
        ValueError: as of `load_model`.
    """
    config = read_json(Path(folder) / "config.json")
    name, family = (config.get("architectures") or [""])[0], config.get("model_type")
    saved = load(family, name) if family in FAMILIES else getattr(transformers, name, None)
    if saved is not None:
        check_weights(saved, folder)


def check_for_task(task: str | None, name: str | Path, **options: Any) -> None:
    """Refuse what `transformers.pipeline(task, model=name)` would open with weights that are missing.

    Models that quantise themselves, adapters, and tasks that transformers does not know are left to it.

    Args:
        options: of `from_pretrained`.

    Raises:
        ValueError: as of `load_model`.
    """
    from transformers.pipelines import PIPELINE_REGISTRY

    if task is None or (Path(name) / "adapter_config.json").is_file():
        return
    if task not in PIPELINE_REGISTRY.get_supported_tasks():
        return
    classes = PIPELINE_REGISTRY.check_task(task)[1]["pt"]
    config = AutoConfig.from_pretrained(name, **options)
    fitting = [auto for auto in classes if type(config) in models_of(auto)]
    if fitting and getattr(config, "quantization_config", None) is None:
        check_weights(fitting[0], name, **options)


def _may_be_new(model: PreTrainedModel, key: str, new_heads: bool) -> bool:
    """Tell whether a weight may be missing from the files of a model."""
    alone = model.base_model is model and not isinstance(getattr(model, key.split(".")[0], None), nn.Linear)
    if alone:  # T5's families have their stacks beside the head
        return key.startswith("pooler.")  # which models with a head of their own have none of
    return new_heads and (not key.startswith(f"{model.base_model_prefix}.") or ".pooler." in key)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' report on loading, where what matters of it is told otherwise."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
