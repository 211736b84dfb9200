"""The house plan, enforced: who may import whom, and which room owns which guest."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent / "rtmtass"
ORDER = {
    0: ["errors"],
    1: ["config", "formats"],
    2: ["dsp", "net", "audio", "riff", "partfile", "sinks", "interrupt"],
    3: ["runtime", "weights"],
    4: ["separator"],
    5: ["fullband", "jobs", "pipes", "report", "export", "speed"],
    6: ["files"],
    7: ["live", "training"],
    8: ["tui", "tui_live"],
}
LEVEL = {room: level for level, rooms in ORDER.items() for room in rooms}
TOP = 9
OWNERS = {
    "sounddevice": {"live"},
    "soundfile": {"audio", "sinks", "formats", "riff", "partfile", "training/codecs"},
    "rich": {"tui", "tui_live"},
    "torch": {
        "net",
        "runtime/torch_runtime",
        "runtime/torch_steps",
        "runtime/torch_device",
        "training",
        "cli_data",
    },
    "numba": {"dsp", "runtime"},
    "llvmlite": {"dsp", "runtime"},
    "matplotlib": {"report"},
    "onnx": {"runtime/onnx_nodes"},
    "onnxruntime": {"runtime/onnx_runtime"},
}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield the modules a file imports, and whether only a type checker sees it."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "rtmtass":
                names = [f"rtmtass.{alias.name}" for alias in node.names]
            for name in names:
                yield name, id(node) in hidden
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in hidden


def room_of(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def level(room: str) -> int:
    return LEVEL.get(room, TOP)


def test_imports_run_one_way() -> None:
    wrong = []
    for path in HOUSE.rglob("*.py"):
        room = room_of(path)
        if room == "__init__":
            continue
        for name, hidden in imports(path):
            package, _, rest = name.partition(".")
            inner = rest.split(".")[0]
            if package != "rtmtass" or hidden or inner in ("", room, "__version__", "STEMS"):
                continue
            if level(inner) > level(room) or {room, inner} == {"live", "training"}:
                wrong.append(f"{path.relative_to(HOUSE)}: {room} may not import {inner}")
    assert not wrong, "\n".join(wrong)


def test_every_guest_has_its_room() -> None:
    wrong = []
    for path in HOUSE.rglob("*.py"):
        place = str(path.relative_to(HOUSE)).removesuffix(".py")
        for name, hidden in imports(path):
            owners = OWNERS.get(name.split(".")[0])
            if owners is None or hidden:
                continue
            if not any(
                place == owner or place.startswith(f"{owner}/") for owner in owners
            ) and not (owners & {room_of(path)}):
                wrong.append(f"{place} imports {name}; only {', '.join(sorted(owners))} may")
    assert not wrong, "\n".join(wrong)


def test_modules_open_with_a_sentence() -> None:
    silent = [
        str(path.relative_to(HOUSE))
        for path in HOUSE.rglob("*.py")
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import rtmtass", {"torch", "numba", "numpy", "soundfile", "rich"}),
        (
            "import sys; from rtmtass.cli.main import main; sys.argv = ['rtmtass', '--help']\n"
            "try: main()\nexcept SystemExit: pass",
            {"torch", "numba", "numpy"},
        ),
        ("import rtmtass; rtmtass.load().process([0.0] * 600)", {"torch", "sounddevice"}),
    ],
)
def test_nothing_heavy_comes_along(code: str, unwanted: set[str]) -> None:
    script = f"{code}\nimport sys\nprint('LOADED', *sorted({unwanted!r} & set(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines()[-1].split() == ["LOADED"]
