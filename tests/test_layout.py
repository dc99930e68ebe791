"""Imports go one way: from a later package of the order to an earlier one, never back."""

import ast
from pathlib import Path

import pytest

import esft

ORDER = ["errors", "files", "hub", "stats", "engine", "tasks", "embedded", "models", "recipe"]
ORDER += ["rollout", "runs", "tuning", "evals", "export", "bench", "report", "cli"]
ROOT = Path(esft.__file__).parent


def breaches(path, package):
    """Return the imports of a file, those for type checkers too, that go to a later package."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.ImportFrom):
            modules = (
                [node.module] if node.module != "esft" else [f"esft.{a.name}" for a in node.names]
            )
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        for parts in (module.split(".") for module in modules if module.startswith("esft.")):
            if parts[1] in ORDER[ORDER.index(package) + 1 :]:
                found.append(f"{package} imports {'.'.join(parts)}")
    return found


@pytest.mark.parametrize("package", ORDER)
def test_imports_go_one_way(package):
    files = [ROOT / f"{package}.py"] if package in ORDER[:3] else (ROOT / package).rglob("*.py")

    assert [line for file in files for line in breaches(file, package)] == []


def test_every_package_has_its_place_in_the_order():
    there = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}

    assert there - {"__init__", "__main__", "__pycache__", "recipes"} == set(ORDER)


def test_a_planted_breach_is_seen(tmp_path):
    planted = tmp_path / "noise.py"
    planted.write_text("if TYPE_CHECKING:\n    from esft.tuning.loop import Tuning\n")

    assert breaches(planted, "engine") == ["engine imports esft.tuning.loop"]
