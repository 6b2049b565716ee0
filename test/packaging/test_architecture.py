# SPDX-License-Identifier: Apache-2.0
"""Imports point down and never in circles. The sources are parsed, not executed, so lazy imports count as well."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = "gaussianocc_core"

# From the ground up: a part may import itself and what stands in the lines above it. A part is a package, or a module
# at the top of the core.
FLOORS = (
    ("_version", "errors", "names"),
    ("types", "labels"),
    ("mistakes", "finite", "bounded"),
    ("files", "processes", "kernels", "yaml_text", "arrays", "torch_files"),
    ("config",),
    ("geometry",),
    ("losses", "rendering", "bags"),
    ("metrics", "fusion", "navigation", "viz"),
    ("models",),
    ("checkpoint", "backends"),
    ("preprocess", "data"),
    ("predictor", "synthetic", "mapping"),
    ("training", "reference", "deployment"),
    ("evaluation", "onboarding"),
    ("viewer",),
    ("reporting",),
    ("command_line",),
    ("train", "evaluate", "report", "view"),
)


def modules(package: str) -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(package: str) -> dict[str, set[str]]:
    """Module -> the modules of this project that it imports, wherever in the file."""
    known = {**modules(CORE), **modules("gaussianocc_ros")}
    graph = {}
    for name, path in modules(package).items():
        wanted = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path}:{node.lineno}: relative import"
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                wanted |= {each if each in known else node.module for each in inner}
        graph[name] = {each for each in wanted if each in known} - {name}
    return graph


def floor_of(module: str) -> int:
    part = [*module.split("."), ""][1]
    return next(i for i, floor in enumerate(FLOORS) if part in floor)


def test_every_part_has_its_floor():
    parts = {name.split(".")[1] for name in modules(CORE) if "." in name}
    assert parts - {part for floor in FLOORS for part in floor} == set()


def test_imports_point_down():
    upwards = [
        f"{name} imports {other}"
        for name, others in imports(CORE).items()
        if "." in name
        for other in sorted(others)
        if other != CORE
        and (floor_of(other) > floor_of(name) or (floor_of(other) == floor_of(name) and not same_part(name, other)))
    ]
    assert upwards == []


def same_part(a: str, b: str) -> bool:
    return a.split(".")[1] == b.split(".")[1]


@pytest.mark.parametrize("package", [CORE, "gaussianocc_ros"])
def test_modules_do_not_import_each_other_in_circles(package):
    graph, done = imports(package), set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done or name not in graph:
            return
        for other in sorted(graph[name]):
            visit(other, (*path, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_the_core_knows_nothing_of_ros():
    found = [name for name, others in imports(CORE).items() if any(o.startswith("gaussianocc_ros") for o in others)]
    assert found == []


@pytest.mark.parametrize("tool", sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.stem)
def test_a_tool_does_not_import_the_node(tool):
    wanted = set()
    for node in ast.walk(ast.parse(tool.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            wanted.add(node.module or "")
    assert not [name for name in wanted if name.split(".")[0] in ("gaussianocc_ros", "rclpy")]
