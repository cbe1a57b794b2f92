"""What the recipes share: arguments, the trainer, checkpoints, results. Light at import: no torch here.

parsing.py                  defaults < YAML < command line, into dataclasses
arguments.py                those dataclasses of the sequence-to-sequence recipe
model_config.py             the model's config: what the arguments give, and what the tokenizers decide
trainer.py                  Seq2SeqTrainer with labels smoothed in the model, checkpoints that are whole, and a stop on
                            Ctrl-C
loop.py                     the Accelerate loop of the pretraining recipe
optim.py                    what its optimiser is told about the weights
launch.py                   whether a run is what its launcher was asked for: processes, devices, precision
checkpoints.py              which checkpoint may be resumed, which output folder may be used
saving.py                   saving tried before training, and weights that outlive what fails after it
results.py                  scores against baselines, attention pictures, results.json
card.py                     what the model card says about a run
pretraining.py              the pretraining recipe's arguments, rows, objective and model
pretraining_tokenizer.py    its tokenizer
pretraining_card.py         its card
finetuning.py               the fine-tuning recipe's arguments, data and card
finetuning_tasks.py         its tasks
"""

from importlib import util
from pathlib import Path
from types import ModuleType

__all__ = ["load_recipe", "recipes_dir", "shipped_configs"]


def recipes_dir() -> Path:
    """Return the folder of the recipes: inside the package (wheel) or next to it (editable checkout).

    Raises:
        FileNotFoundError: if neither is there.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "recipes", package.parent / "recipes"):
        if (folder / "configs").is_dir():
            return folder
    raise FileNotFoundError(
        f"recipes: found neither {package / 'recipes'} nor {package.parent / 'recipes'}; reinstall hf_genai"
    )


def shipped_configs() -> dict[str, Path]:
    """Return the configs that come with hf_genai: by the stem of the file, or by RECIPE/STEM where two share it."""
    paths = sorted((recipes_dir() / "configs").rglob("*.yaml"))
    stems = [path.stem for path in paths]
    names = (path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}/{path.stem}" for path in paths)
    return dict(zip(names, paths, strict=True))


def load_recipe(name: str) -> ModuleType:
    """Import `recipes/<name>.py`, whose `main(argv)` trains.

    Raises:
        ValueError: if there is no recipe of that name.
    """
    path = recipes_dir() / f"{name}.py"
    spec = util.spec_from_file_location(f"hf_genai_recipe_{name}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        known = sorted(p.stem for p in recipes_dir().glob("*.py"))
        raise ValueError(f"recipe must be one of {', '.join(known)}, got {name!r}")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
