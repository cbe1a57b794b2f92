"""What a training leaves, whatever goes wrong: saving is rehearsed before the first step, and weights come first."""

import logging
import re
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_model
from transformers import GenerationConfig

from ..cards import CardData
from ..hub import save_for_hub
from ..loading import quiet

logger = logging.getLogger(__name__)

# where the weights go if the folder of the run cannot be written as a whole
RESCUED = "trained_weights"


def drop_unused_generation(model: Any, kept: Any = ()) -> None:
    """Unset, with a warning, what a generation config says and generation does not use: it could not be saved.

    A temperature without do_sample=True, as in Llama 2's, or a length_penalty without beams.

    Args:
        kept: fields that the user gave, which are not dropped.
    """
    config = model.generation_config
    try:
        config.validate(strict=True)
    except ValueError as error:
        unused = [
            key for key in re.findall(r"(?m)^- `(\w+)`:", str(error)) if hasattr(config, key) and key not in kept
        ]
        if unused:
            said = ", ".join(f"{key}={getattr(config, key)}" for key in unused)
            logger.warning("generation config: %s has no effect beside its other settings, and is left out", said)
            plain = GenerationConfig()
            config.update(**{key: getattr(plain, key) for key in unused})


def rehearse_saving(model: Any, tokenizers: Any, title: str | None) -> None:
    """Save all but the weights for a try, in a folder that goes away: what fails would cost the training.

    Raises:
        ValueError: says that the model could not be saved, and why.
    """
    without = partial(model.save_pretrained, state_dict={"rehearsal": torch.zeros(1)})
    stand_in = SimpleNamespace(config=model.config, save_pretrained=without, parameters=model.parameters)
    with tempfile.TemporaryDirectory() as folder, quiet():
        try:
            save_for_hub(folder, stand_in, tokenizers, _card(model, title))
        except Exception as error:
            raise ValueError(
                f"this model could not be saved after training: {type(error).__name__}: {error}"
            ) from error


def save_unscored(folder: str, model: Any, tokenizers: Any, title: str | None) -> None:
    """Save a model that has just been trained: what fails from here on must not cost the training.

    Raises:
        RuntimeError: something other than the weights could not be saved; says where the weights are.
        OSError: the disk is full.
    """
    try:
        save_for_hub(folder, model, tokenizers, _card(model, title), overwrite=True)
    except Exception as error:
        place = _rescue(model, Path(folder) / RESCUED)
        if place is None:
            raise
        raise RuntimeError(
            f"the trained model could not be saved as a whole ({type(error).__name__}: {error}); its weights are in"
            f" {place}"
        ) from error


def _rescue(model: Any, folder: Path) -> Path | None:
    """Write the model alone, else its weights alone; None where neither can be written."""
    with suppress(Exception):
        model.save_pretrained(folder)
        return folder
    with suppress(Exception):
        folder.mkdir(exist_ok=True)
        save_model(model, str(folder / "model.safetensors"))
        return folder
    return None


def _card(model: Any, title: str | None) -> CardData:
    name = model.config.model_type
    return CardData(title=title or name, summary="Trained, but not scored.", model_type=name)
