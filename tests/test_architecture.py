"""Who may import whom, read from the syntax trees: nothing is imported here, so a broken file is judged too."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hf_genai"
MODELS = sorted(path for path in (PACKAGE / "models").glob("*.py") if path.name != "__init__.py")
FILES = sorted(PACKAGE.rglob("*.py"))
# of each part of the package, the parts that it may import; parts that are not named may import anything but recipes
MAY_IMPORT = {
    "models": set(),
    "private_names": set(),
    "files": set(),
    "registry": {"models"},
    "conversion_layout": set(),
    "conversion_tables_bert": {"conversion_layout"},
    "conversion_tables": {"conversion_layout", "conversion_tables_bert"},
    "conversion": {"conversion_layout", "conversion_tables", "loading", "model_folder", "registry", "models"},
    "loading": {"files", "model_folder", "registry", "models"},
    "decoding": {"decoding", "kernels", "models"},
    "kernels": {"kernels", "models"},
    "identifiers": set(),
    "cards": {"identifiers"},
    "model_folder": {"cards", "files", "registry", "models"},
    "privacy": {"cards", "files", "model_folder"},
    "hub": {"cards", "files", "loading", "model_folder", "privacy", "registry", "models"},
    "data": {"data", "files"},
    "objectives": {"objectives", "data"},
    "evaluation": {"evaluation", "data"},
    "training": {
        "training",
        "data",
        "objectives",
        "evaluation",
        "registry",
        "cards",
        "files",
        "identifiers",
        "model_folder",
        "hub",
        "conversion",
        "loading",
    },
    "serving": {"serving_front", "files", "loading", "model_folder", "registry", "models"},
    "serving_front": set(),
    "question_answering": {"evaluation", "data", "objectives"},
    "text_pipelines": {"data"},
    "pipelines": {
        "loading",
        "model_folder",
        "question_answering",
        "text_pipelines",
        "evaluation",
        "data",
        "objectives",
    },
}
TRAVELS_WITH = {"torch", "numpy", "transformers", "huggingface_hub"} | sys.stdlib_module_names
COMMANDS = sorted(f"commands/{path.stem}" for path in (PACKAGE / "commands").glob("*.py"))
LIGHT = (
    "__init__",
    "registry",
    "cli",
    *COMMANDS,
    "serving",
    "hub",
    "cards",
    "model_folder",
    "files",
    "privacy",
    "private_names",
)
HEAVY = {"torch", "transformers", "datasets", "accelerate", "evaluate", "huggingface_hub", "matplotlib", "tokenizers"}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def imports(node: ast.AST, into_functions: bool = True, into_try: bool = True) -> Iterator[tuple[int, str, str]]:
    """Yield (level, module, imported name) of each import below a node; level counts the leading dots."""
    skipped = (() if into_functions else (ast.FunctionDef, ast.AsyncFunctionDef)) + (() if into_try else (ast.Try,))
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((0, alias.name, "") for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from ((child.level, child.module or "", alias.name) for alias in child.names)
        elif not isinstance(child, skipped):
            yield from imports(child, into_functions, into_try)


def parts_imported(path: Path) -> set[str]:
    """Return the parts of hf_genai that a file imports: "models", "hub", ... ("hf_genai" for the package itself)."""
    inside = path.relative_to(PACKAGE.parent).with_suffix("").parts[:-1]  # the package of the file
    found = set()
    for level, module, name in imports(tree(path)):
        names = module.split(".") if module else []
        if level:
            names = [*inside[: len(inside) - level + 1], *names]
        if names[:1] == ["recipes"]:
            found.add("recipes")
        elif names[-1:] == ["private_names"]:  # that of the models, too
            found.add("private_names")
        elif names[:1] == ["hf_genai"]:
            found.add((names[1:] or [name])[0] or "hf_genai")
    return found


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_file_that_travels_to_the_hub_imports_only_what_travels_or_is_there(path):
    siblings = {model.stem for model in MODELS}
    for level, module, name in imports(tree(path), into_try=False):  # transformers skips what stands in a try, too
        if level:
            assert level == 1 and module, f"from {'.' * level} import {name}: the file would not be copied"
        else:
            assert module.split(".")[0] in TRAVELS_WITH, f"each Hub user would have to install {module}"
    for level, module, _ in imports(tree(path)):
        if level:
            assert module in siblings, f".{module} is not a file of this folder"
        else:
            assert module.split(".")[0] != "hf_genai"


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_the_exporter_sees_the_same_imports_as_python(path):
    """transformers reads relative imports by regular expressions, in docstrings too."""
    text = path.read_text("utf-8")
    seen = re.findall(r"^\s*import\s+\.(\S+)\s*$", text, re.MULTILINE)
    seen += re.findall(r"^\s*from\s+\.(\S+)\s+import", text, re.MULTILINE)
    assert set(seen) == {module for level, module, _ in imports(tree(path)) if level}


def test_the_folder_that_travels_is_flat_and_holds_python_alone():
    others = [path for path in (PACKAGE / "models").iterdir() if path.suffix != ".py" and path.name != "__pycache__"]
    assert others == []


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_core_files_know_no_model(path):
    if not path.stem.startswith(("modeling_", "processing_")):
        assert not any(module.startswith("modeling_") for level, module, _ in imports(tree(path)) if level)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_exported_code_asks_neither_the_auto_classes_nor_the_class_of_its_config(path):
    """Nothing is registered where the code is loaded, and a folder's config class is a copy of ours."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and node.attr in ("from_config", "from_pretrained"):
            assert not (isinstance(node.value, ast.Name) and node.value.id.startswith("Auto"))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            classes = [name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)]
            assert not any(name.startswith("Genai") and name.endswith("Config") for name in classes)


@pytest.mark.parametrize("name", ["data", "decoding", "evaluation", "kernels", "models", "objectives", "training"])
def test_the_docstring_of_a_folder_is_the_list_of_its_files(name):
    said = ast.get_docstring(tree(PACKAGE / name / "__init__.py"))
    there = {path.stem for path in (PACKAGE / name).glob("*.py")} - {"__init__"}
    assert {stem for stem in there if not re.search(rf"\b{stem}\b", said)} == set()
    assert set(re.findall(r"(\w+)\.py", said)) <= there


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_part_imports_only_the_parts_below_it(path):
    found, part = parts_imported(path), part_of(path)
    assert "recipes" not in found
    if part in MAY_IMPORT and path not in MODELS:  # of MODELS, the first test says more
        assert found <= MAY_IMPORT[part] | ({"models"} if part == "models" else {"private_names"})


@pytest.mark.parametrize("name", LIGHT)
def test_what_the_console_command_imports_first_is_light(name):
    modules = {module.split(".")[0] for level, module, _ in imports(tree(PACKAGE / f"{name}.py"), False) if not level}
    assert not modules & HEAVY
