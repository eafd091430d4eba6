"""Imports point one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What each part may import beside itself.
ARROWS = {
    "nn_lib.checks": set(),
    "nn_lib.layers": {"nn_lib.checks"},
    "nn_lib.recurrent": {"nn_lib.checks", "nn_lib.layers"},
    "nn_lib.models": {"nn_lib.checks", "nn_lib.layers", "nn_lib.recurrent", "nn_lib.decoding"},
    "nn_lib.losses": {"nn_lib.checks"},
    "nn_lib.metrics": {"nn_lib.checks"},
    "nn_lib.objectives": {"nn_lib.checks", "nn_lib.losses", "nn_lib.metrics", "nn_lib.recurrent"},
    "nn_lib.decoding": {"nn_lib.checks"},
    "nn_lib.optim": {"nn_lib.checks"},
    "nn_lib.data": {"nn_lib.checks"},
    "nn_lib.train": {
        "nn_lib.checks",
        "nn_lib.data",
        "nn_lib.decoding",
        "nn_lib.metrics",
        "nn_lib.optim",
    },
    "nn_lib.search": {"nn_lib.checks", "nn_lib.train"},
    "nn_lib.classic": {"nn_lib.checks"},
    "nn_lib.analysis": {"nn_lib.checks", "nn_lib.models", "nn_lib.recurrent", "nn_lib.layers"},
    "nn_lib.interop": {"nn_lib.checks", "nn_lib.models", "nn_lib.recurrent", "nn_lib.layers"},
}
LIBRARY = set(ARROWS) | {"nn_lib"}
ARROWS["nn_lib"] = set()
ARROWS["configs"] = LIBRARY
ARROWS["experiments"] = LIBRARY | {"configs"}


def part_of(module: str) -> str:
    """'nn_lib.train' for 'nn_lib.train.loop'; the top package elsewhere."""
    names = module.split(".")
    return ".".join(names[:2]) if names[0] == "nn_lib" else names[0]


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module)
            if node.module == "nn_lib":
                found |= {f"nn_lib.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("nn_lib", "configs", "experiments")}


def modules() -> list[Path]:
    folders = ("nn_lib", "configs", "experiments")
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(ROOT)))
def test_every_import_follows_the_arrows(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    own = part_of(".".join(part for part in parts if part != "__init__"))
    allowed = ARROWS[own] | {own, "nn_lib"}
    assert {part_of(name) for name in imports(file)} <= allowed


def test_the_arrows_have_no_cycle():
    reached: dict[str, set[str]] = {}

    def reach(part: str, path: tuple[str, ...]) -> set[str]:
        assert part not in path, f"cycle {(*path, part)}"
        if part not in reached:
            reached[part] = {part}
            for other in ARROWS[part]:
                reached[part] |= reach(other, (*path, part))
        return reached[part]

    for part in ARROWS:
        reach(part, ())


def test_modules_within_a_part_do_not_import_in_circles():
    graph = {}
    for file in modules():
        parts = [p for p in file.relative_to(ROOT).with_suffix("").parts if p != "__init__"]
        graph[".".join(parts)] = imports(file) if file.name != "__init__.py" else set()

    def visit(module, path):
        assert module not in path, f"circle {(*path, module)}"
        for other in graph.get(module, ()):
            visit(other, (*path, module))

    for module in graph:
        visit(module, ())


def test_importing_the_library_loads_neither_tensorflow_nor_torch_nor_pyplot():
    import subprocess
    import sys

    code = (
        "import sys, nn_lib.train, nn_lib.models, nn_lib.objectives;"
        "print([m for m in ('tensorflow', 'torch', 'matplotlib.pyplot') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout.strip() == "[]", out.stderr
