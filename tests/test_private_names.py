"""Private names of other libraries: where they may stand, and what to do when a release takes one away."""

import ast
import importlib
import pkgutil
import re
from importlib.metadata import version
from pathlib import Path

import pytest

import hf_genai
from hf_genai.private_names import DECLARED, NAMES, find

PACKAGE = Path(hf_genai.__file__).parent
TESTS = Path(__file__).parent
MAY_USE = {folder / "private_names.py" for folder in (PACKAGE, PACKAGE / "kernels", PACKAGE / "models", TESTS)}
MAY_USE.add(PACKAGE / "models" / "base.py")
FILES = sorted({*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "recipes").glob("*.py"), *TESTS.rglob("*.py")} - MAY_USE)


@pytest.mark.parametrize("name", NAMES)
def test_each_private_name_is_still_there(name):
    try:
        find(name)
    except (AttributeError, ImportError):
        library = name.partition(".")[0]
        reason = f"Why it was used, and what to do: {NAMES[name]}."
        pytest.fail(f"{library} {version(library)} has no {name} any more. {reason}")


OF_NAMED_TUPLES = ("_replace", "_asdict", "_fields", "_make")  # documented, and named so lest they hide a field


def is_private(name: object) -> bool:
    private = isinstance(name, str) and name.startswith("_") and not name.startswith("__") and name != "_"
    return private and name not in OF_NAMED_TUPLES


def own_names() -> set[str]:
    """Return the private names that the package itself defines: functions, classes, variables, attributes of self."""
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                ours = isinstance(node.value, ast.Name) and node.value.id == "self"
                found |= {node.attr} if ours or node.attr.startswith("_genai") else set()
    return found - {re.split("[.:]", name)[-1] for name in NAMES}


def private_names_in(tree: ast.AST):
    """Yield (line, name) of each attribute, import, `getattr` and keyword argument of a private name."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "getattr",
            "hasattr",
            "setattr",
            "delattr",
        ):
            names = [getattr(node.args[1], "value", None)]
        elif isinstance(node, ast.keyword):
            names = [node.arg]
        yield from ((node.lineno, name) for name in names if is_private(name))


def test_no_other_file_uses_a_private_name_of_another_library():
    own = own_names()
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{line}: {name}"
        for path in FILES
        for line, name in private_names_in(ast.parse(path.read_text("utf-8")))
        if name not in own
    ]
    assert not found, f"take a public way, or add to private_names.py, with the reason: {found}"


def test_no_class_elsewhere_overrides_a_private_name_unless_the_documentation_asks_for_it():
    declared, written = {name for names in DECLARED.values() for name in names}, own_names()
    found = []
    for module in pkgutil.walk_packages([str(PACKAGE)], "hf_genai."):
        if module.name.endswith((".private_names", ".models.base")):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and value.__module__ == module.name:
                foreign = [base for base in value.__mro__ if not base.__module__.startswith("hf_genai.")]
                found += [
                    f"{module.name}.{value.__name__}.{name}"
                    for name in vars(value)
                    if name in written - declared and is_private(name) and any(name in vars(base) for base in foreign)
                ]
    assert not found, f"take a public way, or add to private_names.py, with the reason: {found}"
