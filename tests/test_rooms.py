"""The layout, enforced: the direction of imports, and which modules may import a package."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rtmtass"
ORDER = [
    ["errors", "types"],
    ["limits"],
    ["safetensors"],
    ["config", "presets", "jit", "signals", "amplitude"],
    ["io", "dsp", "matmul"],
    ["net"],
    ["runtime", "weights"],
    ["fullband"],
    ["separator", "batch"],
    ["spectrogram", "benchmark"],
    ["report", "page"],
    ["offline", "live", "evaluation"],
    ["native"],
    ["training"],
    ["agents", "cluster", "web", "serve"],
    ["cli", "examples"],
]
"""Every module and folder of the package; each may import from its own row and those above."""
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
INDEPENDENT = {"offline", "live", "evaluation"}
"""Rooms in one row that must not import each other."""
IMPORTERS = {
    "sounddevice": {"live/devices/portaudio"},
    "soundfile": {
        "io/file_sink",
        "io/files",
        "io/libsndfile",
        "io/spans",
        "training/data/codecs",
        "examples/recording",
    },
    "av": {"io/media/pyav", "io/media/pyav_muxer"},
    "rich": {"cli/console", "cli/live_display", "cli/live_screen"},
    "torch": {"net", "runtime/torch", "training"},
    "numba": {
        "jit",
        "dsp",
        "matmul",
        "live/devices/callback",
        "native/entries",
        "native/ir",
    },
    "llvmlite": {"jit", "matmul", "live/devices/callback", "native/ir", "native/objects"},
    "matplotlib": {"spectrogram"},
    "aiohttp": {"serve", "web"},
    "ray": {"cluster/pool"},
    "fsspec": {"cluster/urls"},
    "pyarrow": {"cluster/results"},
    "pipecat": {"agents/pipecat"},
    "livekit": {"agents/livekit"},
    "onnx": {"runtime/onnx/nodes"},
    "onnxruntime": {"runtime/onnx/runtime", "examples/onnx_stems"},
}
"""Optional and slow packages, and the modules that may import them."""


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield the modules that a file imports, and whether for type checking only."""
    tree = ast.parse(path.read_text())
    type_checking = {
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
                yield name, id(node) in type_checking
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in type_checking


def modules() -> Iterator[tuple[str, Path]]:
    """Yield the path of every module within the package, without suffix, and its file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix().removesuffix(".py"), path


def room_of(module: str) -> str:
    return module.split("/")[0]


def test_every_room_is_listed() -> None:
    rooms = {room_of(module) for module, _ in modules()} - {"__init__", "__main__"}
    assert rooms == set(LEVEL)


def test_imports_run_one_way() -> None:
    wrong = []
    for module, path in modules():
        room = room_of(module)
        if room in ("__init__", "__main__"):
            continue
        for name, is_typing in imports(path):
            package, _, rest = name.partition(".")
            inner = rest.split(".")[0]
            if package != "rtmtass" or is_typing or inner in ("", room, "__version__", "STEMS"):
                continue
            if LEVEL[inner] > LEVEL[room] or {room, inner} <= INDEPENDENT:
                wrong.append(f"{module} may not import rtmtass.{inner}")
    assert not wrong, "\n".join(wrong)


def test_packages_are_imported_by_their_modules_only() -> None:
    wrong, used = [], set()
    for module, path in modules():
        for name, is_typing in imports(path):
            package = name.split(".")[0]
            if is_typing or package not in IMPORTERS:
                continue
            room = next((r for r in IMPORTERS[package] if f"{module}/".startswith(f"{r}/")), None)
            used.add((package, room))
            if room is None:
                wrong.append(f"{module} imports {name}; only {sorted(IMPORTERS[package])} may")
    assert not wrong, "\n".join(wrong)
    assert {(p, r) for p, rooms in IMPORTERS.items() for r in rooms} == used


def test_every_kernel_is_in_the_digest() -> None:
    """A kernel outside the source digest would keep its stale machine code after a change."""
    from rtmtass.jit.compiler import kernel_sources

    decorators = ("@kernel", "@njit", "@intrinsic", "@cfunc")
    compiled = {path for _, path in modules() if any(d in path.read_text() for d in decorators)}
    assert len(compiled) > 10
    assert compiled <= set(kernel_sources())


def test_every_module_has_a_docstring() -> None:
    undocumented = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not undocumented


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
def test_slow_imports_are_deferred(code: str, unwanted: set[str]) -> None:
    script = f"{code}\nimport sys\nprint('LOADED', *sorted({unwanted!r} & set(sys.modules)))"
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert process.stdout.splitlines()[-1].split() == ["LOADED"]
