"""The wheel contains the package and the released models, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from rtmtass.weights import released

ROOT = Path(__file__).parent.parent


def test_wheel_is_complete_and_runs_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    for name in ("model.safetensors", "config.json", "CARD.md", "metrics.json", "demo.flac"):
        assert f"rtmtass/models/rtmtass-small/{name}" in names
    for path in released():
        packed = [n for n in names if n.startswith(f"rtmtass/models/{path.name}/")]
        assert {Path(n).name for n in packed} == {file.name for file in path.iterdir()}
    assert "rtmtass/py.typed" in names
    # Exports are built from these wherever rtmtass is installed.
    assert "rtmtass/LICENSE" in names
    native = ROOT / "rtmtass" / "native"
    shipped = [*(native / "c").iterdir(), *(native / "js").iterdir(), *native.glob("*.md")]
    assert {path.suffix for path in shipped} == {".c", ".h", ".js", ".md"}
    assert {path.relative_to(ROOT).as_posix() for path in shipped} <= set(names)
    assert not [n for n in names if n.startswith(("tests", "benchmarks")) or "__pycache__" in n]
    script = (
        "import rtmtass, sys; assert 'installed' in rtmtass.__file__, rtmtass.__file__\n"
        "from rtmtass.weights import find; assert 'installed' in str(find('rtmtass-small'))"
    )
    process = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "installed"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
