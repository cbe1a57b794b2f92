"""What lies in a model's folder: which files belong on the Hub, whether they are whole, whose code is with them."""

import ast
import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .cards import TARGET_TOKENIZER
from .files import read_json, read_text
from .registry import FAMILIES

WEIGHTS = re.compile(r"(adapter_)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_PIECE = re.compile(r"\w[\w.-]*\.safetensors")  # a name without a folder
INCOMPLETE_MARKER = "checkpoint-is-incomplete.txt"  # transformers' own name for it
CONFIGS = {"config.json", "generation_config.json", "adapter_config.json"}
TOKENIZER_FILES = {
    *(
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
    ),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "source.spm", "target.spm", "sentencepiece.bpe.model"),
    *("processor_config.json", "preprocessor_config.json"),
}
_DOCUMENTS = {"README.md", "LICENSE", "results.json"}
_OWN_JSON = {*CONFIGS, *TOKENIZER_FILES, "results.json", "trainer_state.json", "history.json"}
_PICTURES = {".png", ".jpg", ".jpeg", ".svg", ".webp", ".html"}


def check_checkpoint(folder: str | Path) -> None:
    """Read enough of each file to know that it is whole: JSON, headers and lengths of weights, ends of torch archives.

    Works for a saved model and for a Trainer checkpoint, and reads no weights.

    Raises:
        ValueError: Names the file that is missing or broken.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"folder ({folder}) does not exist or is not a folder")
    if (folder / INCOMPLETE_MARKER).exists():
        raise ValueError(f"{folder} was not saved to its end: {INCOMPLETE_MARKER} is there")
    check_json(folder)
    _check_weights(folder / name for name in weight_files(folder))
    for path in sorted([*folder.glob("*.pt"), *folder.glob("*.pth")]):
        if not zipfile.is_zipfile(path):  # an archive's table of contents is at its end
            raise ValueError(f"{path} is broken or cut off: the end of the archive is missing")
    if (folder / "optimizer.pt").exists() and not (folder / "trainer_state.json").exists():
        raise ValueError(f"{folder} was not saved to its end: trainer_state.json, written last, is missing")


def check_json(folder: Path) -> None:
    """Refuse JSON of a model, its tokenizers or its training that cannot be read, or is no object; names the file."""
    for path in sorted([*folder.glob("*.json"), *folder.glob(f"{TARGET_TOKENIZER}/*.json")]):
        if path.name in _OWN_JSON or WEIGHTS.fullmatch(path.name):
            read_json(path)


def _check_weights(paths: Iterable[Path]) -> None:
    """Refuse weights whose header or length is wrong; names the file."""
    import safetensors

    for path in paths:
        try:
            with safetensors.safe_open(path, framework="np"):
                pass
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is broken or cut off: {error}") from error


@contextmanager
def opening(*names: str | Path | None) -> Iterator[None]:
    """Say which file is broken, or which name was not found, where a model or tokenizer cannot be opened.

    Args:
        names: folders, or names on the Hub, that are opened inside of the `with`.

    Raises:
        ValueError: Names the broken file.
        OSError: Names what is neither a folder nor to be had from the Hub.
    """
    paths = [Path(name) for name in names if name]
    for folder in filter(Path.is_dir, paths):
        check_json(folder)
    try:
        yield
    except Exception as error:
        for folder in filter(Path.is_dir, paths):
            _check_weights(sorted(folder.glob("*.safetensors")))
        if isinstance(error, OSError) and (elsewhere := [str(path) for path in paths if not path.is_dir()]):
            raise OSError(
                f"{', '.join(elsewhere)}: no folder here, and not to be had from the Hub: {error}"
            ) from error
        raise


def weight_files(folder: Path) -> list[str]:
    """Return the names of the weights that from_pretrained would read.

    Raises:
        ValueError: There are none, pieces are missing, or the index names something else than a file of the folder.
    """
    if single := [name for name in ("model.safetensors", "adapter_model.safetensors") if (folder / name).is_file()]:
        return single
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        raise ValueError(f"folder ({folder}) is not a saved model: model.safetensors is missing")
    pieces = read_json(index).get("weight_map")
    if not isinstance(pieces, dict) or not pieces:
        raise ValueError(f"{index} must have a weight_map of tensors and files, not {pieces!r:.80}")
    for tensor, name in pieces.items():
        if not isinstance(name, str) or not _PIECE.fullmatch(name):
            raise ValueError(f"{index}: weight_map[{tensor!r:.80}] must be a .safetensors file here, not {name!r:.80}")
    if lacking := sorted(name for name in set(pieces.values()) if not (folder / name).is_file()):
        raise ValueError(f"folder ({folder}) lacks {', '.join(lacking)}, named by {index.name}")
    return sorted(set(pieces.values()))


def files_to_push(folder: str | Path) -> dict[str, int]:
    """Return the files of a model that belong on the Hub, relative path -> bytes. Whatever is not known stays at home.

    Weights, configs, tokenizers, our code that `auto_map` names with what it imports, the card with its pictures and
    results.json. Never checkpoints, optimizer states, pickles, logs, hidden files, links, or code of others.

    Raises:
        ValueError: The folder is not a saved model, brings code that is not ours, or one of the files is a link.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"folder ({folder}) is not a saved model: config.json is missing")
    if foreign := foreign_code(folder):
        raise ValueError(
            f"folder ({folder}) brings code that is not hf_genai's: {'; '.join(foreign)}. Nothing was pushed; take it"
            " out, or save the model by save_for_hub"
        )
    names = weight_files(folder)
    if not WEIGHTS.fullmatch(names[0]) or "-of-" in names[0]:
        names.append("model.safetensors.index.json")
    names += code_files(folder)
    names += [name for name in CONFIGS | TOKENIZER_FILES | _DOCUMENTS if (folder / name).is_file()]
    names += [f"{TARGET_TOKENIZER}/{name}" for name in TOKENIZER_FILES if (folder / TARGET_TOKENIZER / name).is_file()]
    if "README.md" in names:
        links = re.findall(r"(?<!\\)\]\(([^)\s]+)\)", read_text(folder / "README.md"))
        names += [link for link in map(unquote, links) if _is_own_picture(folder, Path(link))]
    for name in names:
        for place in (Path(name), *Path(name).parents[:-1]):
            if (folder / place).is_symlink():
                raise ValueError(
                    f"{folder / place} is a link to {(folder / place).readlink()}: push a copy of the file"
                )
    return {name: (folder / name).stat().st_size for name in sorted(set(names))}


def _is_own_picture(folder: Path, link: Path) -> bool:
    inside = not link.is_absolute() and not any(part.startswith(".") for part in link.parts)
    return inside and link.suffix.lower() in _PICTURES and (folder / link).is_file()


def code_files(folder: Path) -> list[str]:
    """Return the Python files that `auto_map` of config.json names, and those beside them that they import.

    Raises:
        ValueError: One is missing, or a model of ours was saved without its code.
    """
    config = read_json(folder / "config.json")
    if str(config.get("model_type", "")).startswith("genai_") and not config.get("auto_map"):
        raise ValueError(
            f"{folder / 'config.json'} has no auto_map, so no Hub user could open it; save it with hf_genai"
        )
    auto_map = config.get("auto_map")
    ours = [value for value in auto_map.values() if _is_ours(value)] if isinstance(auto_map, dict) else []
    waiting = [reference.split(".")[0] for reference in ours]
    found: list[str] = []
    while waiting:
        name = waiting.pop() + ".py"
        if name in found:
            continue
        if not name.removesuffix(".py").isidentifier() or not (folder / name).is_file():
            raise ValueError(f"folder ({folder}) lacks {name}, which auto_map or another file of its code needs")
        found.append(name)
        tree = ast.walk(ast.parse(read_text(folder / name)))
        waiting += [
            node.module for node in tree if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
        ]
    return found


def foreign_code(folder: str | Path, remove: bool = False) -> list[str]:
    """Return "file: key" for each class that is not ours and that transformers would load from a saved model's folder.

    A tokenizer or configuration of a base model can bring such entries along, and they would run on each machine that
    opens the model with trust_remote_code.

    Args:
        remove: Take the entries out, and delete the code that then nothing names; only for a folder of our own making.
    """
    folder, found = Path(folder), []
    for place in (folder, folder / TARGET_TOKENIZER):
        for path in sorted(place / name for name in CONFIGS | TOKENIZER_FILES if name.endswith("config.json")):
            if path.is_file():
                value = read_json(path)
                entries = _take_foreign(value)
                found += [f"{path.relative_to(folder)}: {entry}" for entry in entries]
                if entries and remove:
                    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
    if remove:
        needed = set(code_files(folder)) if (folder / "config.json").is_file() else set()
        for path in [*folder.rglob("*.py"), *folder.rglob("*.pyc")]:
            if str(path.relative_to(folder)) not in needed:
                path.unlink()
    return found


def _take_foreign(value: Any) -> list[str]:
    """Take the entries for code that is not ours out of a configuration and its parts; return their names."""
    found = []
    if isinstance(value, dict):
        for key in ("auto_map", "custom_pipelines"):
            entries = value.get(key)
            kept = (
                {name: item for name, item in entries.items() if _is_ours(item)} if isinstance(entries, dict) else {}
            )
            if entries and kept != entries:
                lost = [name for name in entries if name not in kept] if isinstance(entries, dict) else [entries]
                found += [f"{key} of {name}" for name in lost]
                value[key] = kept
            if key in value and not kept:
                del value[key]
        value = list(value.values())
    if isinstance(value, list):
        found += [entry for item in value for entry in _take_foreign(item)]
    return found


def _is_ours(reference: Any) -> bool:
    """Tell whether an entry "module.Class" of `auto_map` is a class of ours, in a file of the same folder."""
    modules = {module for family in FAMILIES.values() for module in (family[0], family[2])}
    return isinstance(reference, str) and re.fullmatch(rf"({'|'.join(modules)})\.Genai\w+", reference) is not None
