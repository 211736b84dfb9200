"""`rtmtass export` of native things: what it writes, what it refuses, and that no half is left."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from rtmtass import page
from rtmtass.cli.main import main
from rtmtass.errors import MissingPartError, OutputError, UsageError
from rtmtass.native import export, site, targets, zig
from rtmtass.native.link import Workshop, exported_functions
from rtmtass.native.outputs import Outputs
from rtmtass.native.parts import C_FOLDER, Parts
from rtmtass.native.targets import TARGETS, Target, find_target, this_machine
from rtmtass.native.zig import Zig

MODEL = "rtmtass-small"
BYTES = b"the model"
HERE = "linux-x86_64"


class FakeZig:
    """Writes the command line where a compiler writes its output."""

    commands: list[list[str]]
    fails: BaseException | None = None

    def cc(self, words: Sequence[str | Path], folder: Path) -> None:
        command = [str(word) for word in words]
        FakeZig.commands.append(command)
        assert (folder / "model.rtm").read_bytes() == BYTES
        assert (folder.parent / "kernels" / "kernels.h").read_text() == "of the kernels"
        (folder / command[command.index("-o") + 1]).write_text(" ".join(command))
        for word in command:
            if word.startswith("-Wl,--out-implib,"):
                (folder / word.split(",")[2]).write_text("import library")
        if FakeZig.fails and "-c" not in command:
            raise FakeZig.fails

    def ar(self, words: Sequence[str | Path], folder: Path) -> None:
        (folder / str(words[1])).write_text("archive")


def fake_objects(target: Target, folder: Path, on_step: Callable[[str], None]) -> Sequence[Path]:
    paths = [folder / f"{variant.name}.o" for variant in target.variants]
    (folder / "kernels.h").write_text("of the kernels")
    for path in paths:
        on_step(f"IR of {path.stem}")
        on_step(f"machine code of {path.stem}")
        path.write_text(target.name)
    return paths


def fake_steps(target: Target) -> int:
    return 2 * len(target.variants)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the current one; the exports in it build nothing."""
    parts = Parts(("rtmtass.c",), fake_steps, fake_objects, lambda model, precision: BYTES)
    FakeZig.commands, FakeZig.fails = [], None
    monkeypatch.setattr(export, "Zig", FakeZig)
    monkeypatch.setattr(export, "load_parts", lambda: parts)
    monkeypatch.setattr(targets, "this_machine", lambda: HERE)
    script = tmp_path / "js" / "rtmtass.js"
    script.parent.mkdir()
    script.write_text("// calls")
    monkeypatch.setattr(export, "JS_FOLDER", script.parent)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def run(words: str) -> int:
    """Return the exit code of `rtmtass export` for our model."""
    try:
        return main(["export", MODEL, *shlex.split(words)])
    except SystemExit as stop:
        return int(str(stop.code))


TEXTS = {"LICENSE", f"{MODEL}.md"}
LIBRARY = {
    "include/rtmtass.h", "lib/pkgconfig/rtmtass.pc", "example.c", f"{MODEL}.rtm",
    "lib/librtmtass.a", *TEXTS,
}  # fmt: skip
SHARED = {
    "linux-x86_64": {"lib/librtmtass.so"},
    "linux-aarch64": {"lib/librtmtass.so"},
    "windows-x86_64": {"lib/rtmtass.dll", "lib/librtmtass.dll.a"},
    "macos-arm64": {"lib/librtmtass.dylib"},
    "wasm32": set(),
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_library_comes_with_all_that_a_c_program_needs(target: str, folder: Path) -> None:
    assert run(f"--native sdk --target {target}") == 0
    assert files(folder) == {f"sdk/{name}" for name in LIBRARY | SHARED[target]}
    assert (folder / "sdk" / f"{MODEL}.rtm").read_bytes() == BYTES
    assert (folder / "sdk/include/rtmtass.h").read_bytes() == (C_FOLDER / "rtmtass.h").read_bytes()
    assert all(command[:2] == ["-target", TARGETS[target].zig] for command in FakeZig.commands)


PLUGINS = {
    ("clap", HERE): {f"{MODEL}.clap"},
    ("clap", "windows-x86_64"): {f"{MODEL}.clap"},
    ("clap", "macos-arm64"): {
        f"{MODEL}.clap/Contents/MacOS/{MODEL}", f"{MODEL}.clap/Contents/Info.plist",
        *(f"{MODEL}.clap/{name}" for name in TEXTS),
    },
    ("lv2", HERE): {
        f"{MODEL}.lv2/{name}" for name in ("manifest.ttl", "rtmtass.ttl", "rtmtass.so", *TEXTS)
    },
    ("ladspa", HERE): {f"{MODEL}.so"},
    ("ladspa", "windows-x86_64"): {f"{MODEL}.dll"},
}  # fmt: skip


@pytest.mark.parametrize(("plugin", "target"), PLUGINS)
def test_a_plugin_contains_the_library_and_the_model(
    plugin: str, target: str, folder: Path
) -> None:
    assert run(f"--plugin {plugin} -o plugins --target {target}") == 0
    assert files(folder) == {f"plugins/{name}" for name in PLUGINS[plugin, target]}
    compiled = {words[words.index("-c") + 1] for words in FakeZig.commands if "-c" in words}
    assert compiled == {"rtmtass.c", *export.plugin_files.FORMATS[plugin].sources}
    for command in FakeZig.commands[:-1]:
        assert {"-DRTMTASS_PRIVATE", '-DRTMTASS_MODEL_FILE="model.rtm"'} <= set(command)
        assert "-DRTMTASS_BUILD" not in command


def test_webassembly_exports_every_function_of_the_header(folder: Path) -> None:
    assert run("--wasm web") == 0
    assert files(folder) == {
        f"web/{name}" for name in ("rtmtass.wasm", "rtmtass.js", f"{MODEL}.rtm", *TEXTS)
    }
    header = (C_FOLDER / "rtmtass.h").read_text()
    names = exported_functions(header)
    assert len(names) == header.count("\nRTMTASS_API ") == len(set(names))
    assert {"rtmtass_open", "rtmtass_process", "rtmtass_set_bypass"} <= set(names)
    linked = FakeZig.commands[-1]
    assert {f"-Wl,--export={name}" for name in (*names, "malloc", "free")} <= set(linked)


def test_a_page_is_one_folder_that_loads_nothing_from_elsewhere(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--page site") == 0
    assert "python -m http.server -d site" in capsys.readouterr().out
    engine = {"rtmtass.wasm", "rtmtass.js", f"{MODEL}.rtm", *TEXTS}
    server = {"backend_server.js", "server_files.js"}
    expected = engine | set(page.FILES) - server | {"backend.js", "about.json"}
    assert files(folder) == {f"site/{name}" for name in expected}
    about = json.loads((folder / "site" / "about.json").read_text())
    assert about["model"] == MODEL
    assert about["file"] in engine
    assert about["stems"] == ["speech", "music", "noise"]
    texts = [path for path in (folder / "site").iterdir() if path.suffix in page.TYPES]
    for path in texts:
        text = path.read_text()
        for other in re.findall(r"""(?:from|URL\(|import) ?["']([^"']+)["']""", text):
            assert (path.parent / other).is_file(), f"{path.name} loads {other}"
        assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//|url\(["']?https?:""", text)


def test_a_model_of_other_stems_has_no_page(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "STEMS", ("speech", "music"))
    assert run("--page site") == 1
    assert "--wasm FOLDER" in capsys.readouterr().err
    assert not files(folder)


def test_the_model_alone_needs_no_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(export, "Zig")
    assert run("--rtm new/small.rtm --precision f32") == 0
    assert files(folder) == {"new/small.rtm"}


def test_the_report_names_files_sizes_variants_and_what_to_type_next(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--native sdk") == 0
    out, err = capsys.readouterr()
    for name in (*LIBRARY, *SHARED[HERE]):
        assert f"sdk/{name} " in out
    assert "builds of the kernels: avx512vnni, avx2, baseline" in out
    assert out.splitlines()[-1].startswith("next: cc sdk/example.c $(PKG_CONFIG_PATH=sdk/lib/")
    assert err.splitlines()[0] == "packing the model: 0/100"
    assert err.splitlines()[-1].startswith("writing: 100/100")


def test_json_holds_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--native sdk --json --precision bf16") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert not err
    assert report["target"] == HERE
    assert (report["model"], report["precision"]) == (MODEL, "bf16")
    assert report["variants"] == ["avx512vnni", "avx2", "baseline"]
    assert {one["path"] for one in report["files"]} == files(folder)
    assert all(one["bytes"] == Path(one["path"]).stat().st_size for one in report["files"])
    assert report["next"].startswith("cc ")


def test_progress_runs_from_0_to_100_percent(folder: Path) -> None:
    seen: list[tuple[str, float, float]] = []
    settings = export.Settings(on_step=lambda *step: seen.append(step))
    export.export_plugin(MODEL, "lv2", "lv2", settings)
    done = [percent for _, percent, _ in seen]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 100)
    assert [name for name, _, _ in seen if name.startswith("IR of")] == [
        "IR of avx512vnni", "IR of avx2", "IR of baseline",
    ]  # fmt: skip
    assert all(of == 100 for _, _, of in seen)


USAGE = {
    "--native a --target linux-riscv64": "unknown target 'linux-riscv64'; --target takes"
    " linux-x86_64, linux-aarch64, windows-x86_64, macos-arm64, wasm32",
    "--native a --wasm b": "argument --wasm: not allowed with argument --native; see rtmtass export"
    " --help",
    "": "one of the arguments --native --plugin --wasm --page --rtm --onnx is required; see rtmtass"
    " export --help",
    "--plugin clap": "--plugin clap needs a folder; give one that hosts search, such as -o ~/.clap",
    "--plugin vst3 -o a": "unknown plugin format 'vst3'; --plugin takes clap, lv2, ladspa",
    "--plugin '' -o a": "unknown plugin format ''; --plugin takes clap, lv2, ladspa",
    "--plugin lv2 -o a --target wasm32": "there are no plugins for wasm32; --plugin takes --target"
    " linux-x86_64, linux-aarch64, windows-x86_64, macos-arm64",
    "--wasm a --target linux-x86_64": "--wasm is for wasm32, not linux-x86_64; leave --target out,"
    " or give --native FOLDER instead of --wasm",
    "--native a -o b": "-o doesn't go with --native; leave it out",
    "--rtm a.rtm --target wasm32": "--target doesn't go with --rtm; leave it out",
    "--onnx a.onnx --precision f32": "--precision doesn't go with --onnx; leave it out",
    "--native a --frames 1": "--frames doesn't go with --native; leave it out",
}


@pytest.mark.parametrize("words", USAGE)
def test_a_wrong_command_line_is_one_line_and_exit_2(
    words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    assert capsys.readouterr().err == f"rtmtass: {USAGE[words]}\n"
    assert not list(folder.iterdir())


WORLD = {
    "--native taken": "taken is a file, a folder was expected; name another with --native",
    "--plugin lv2 -o taken": "taken is a file, a folder was expected; name another with -o",
    "--native taken/a": "taken/a/lib/librtmtass.so can't be written: taken/a/lib is not a folder;"
    " name another folder with --native",
    "--rtm kept/old.rtm": "kept/old.rtm exists; add --overwrite to replace it",
    "--rtm kept --overwrite": "kept can't be written: it is a folder; move it away; or name another"
    " folder with --rtm",
    "--native sdk": "sdk/lib/librtmtass.a exists; add --overwrite to replace it",
}


@pytest.mark.parametrize("words", WORLD)
def test_what_is_in_the_way_is_named_and_kept(
    words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("taken", "kept/old.rtm", "sdk/lib/librtmtass.a"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    before = sorted(folder.rglob("*"))
    assert run(words) == 1
    assert capsys.readouterr().err == f"rtmtass: {WORLD[words]}\n"
    assert sorted(folder.rglob("*")) == before
    assert all(path.is_dir() or path.read_text() == "mine" for path in before)
    assert not FakeZig.commands


def test_an_unknown_model_is_the_usual_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "rtmtass-huge", "--native", "sdk"]) == 1
    assert capsys.readouterr().err.startswith("rtmtass: unknown model 'rtmtass-huge'; released")
    assert not list(folder.iterdir())


def test_overwrite_replaces_what_is_ours_and_keeps_the_rest(folder: Path) -> None:
    (folder / "sdk/lib").mkdir(parents=True)
    for name in ("sdk/lib/librtmtass.a", "sdk/lib/libother.a"):
        (folder / name).write_text("old")
    assert run("--native sdk --overwrite") == 0
    assert (folder / "sdk/lib/librtmtass.a").read_text() == "archive"
    assert (folder / "sdk/lib/libother.a").read_text() == "old"


@pytest.mark.parametrize(
    ("stop", "code"), [(KeyboardInterrupt(), 130), (zig.CompilerError("it failed"), 1)]
)
@pytest.mark.parametrize("words", ["--native sdk/new", "--plugin lv2 -o sdk", "--wasm sdk"])
def test_an_export_that_stops_leaves_everything_as_it_was(
    words: str, stop: BaseException, code: int, folder: Path
) -> None:
    (folder / "sdk").mkdir()
    (folder / "sdk" / "LICENSE").write_text("old")
    FakeZig.fails = stop
    assert run(f"{words} --overwrite") == code
    assert [path.name for path in folder.rglob("*")] == ["sdk", "LICENSE"]
    assert (folder / "sdk" / "LICENSE").read_text() == "old"


def test_a_signal_ends_the_wait_for_a_compiler_and_leaves_nothing(folder: Path) -> None:
    """The thread that compiles can't be stopped: what it left goes before the process ends."""
    is_waiting = folder.parent / "waiting"
    script = (
        "import sys, time; from pathlib import Path\n"
        "from rtmtass.native import export; from rtmtass.native.parts import Parts\n"
        "def wait(*_):\n"
        f"    Path({str(is_waiting)!r}).touch(); time.sleep(60)\n"
        "export.Zig = object; export.load_parts = lambda: Parts((), lambda t: 1, wait, wait)\n"
        "from rtmtass.cli.main import main\n"
        f"sys.exit(main(['export', {MODEL!r}, '--native', 'new/sdk']))"
    )
    temporary = folder.parent / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    while not is_waiting.exists():
        assert process.poll() is None
        time.sleep(0.01)
    assert files(folder)
    process.terminate()
    assert process.wait(30) == 143
    assert not list(folder.iterdir())
    assert not list(temporary.iterdir())


def test_a_full_disk_is_named_and_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from rtmtass.io.part_file import PartFile

    def write(part: PartFile, data: bytes) -> int:
        if data == b"archive":
            part.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return 0

    monkeypatch.setattr(PartFile, "write", write)
    assert run("--native sdk --json") == 1
    assert capsys.readouterr().err == (
        "rtmtass: sdk/lib/librtmtass.a can't be written: the disk is full; free some space or name"
        " another folder with --native\n"
    )
    assert not list(folder.iterdir())


def test_a_full_temporary_folder_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import errno

    FakeZig.fails = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert run("--native sdk --json") == 1
    assert "the disk is full; free some space or name another folder with TMPDIR=" in (
        capsys.readouterr().err
    )
    assert not list(folder.iterdir())


def test_a_second_export_to_the_same_files_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Outputs(folder, ["a.rtm"], overwrite=False, option="--rtm"):
        assert run("--rtm a.rtm") == 1
    assert "a.rtm is being written by another run; wait for it" in capsys.readouterr().err


def test_a_library_can_be_run_by_whoever_can_read_it(tmp_path: Path) -> None:
    names = {"a.so": b"1", "a.rtm": b"2"}
    with Outputs(tmp_path, list(names), overwrite=False, option="-o") as outputs:
        outputs.publish(names)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in names}
    assert modes["a.so"] == modes["a.rtm"] | (modes["a.rtm"] & 0o444) >> 2


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="pkg-config isn't installed")
def test_pkg_config_finds_the_folder_wherever_it_was_moved(folder: Path) -> None:
    assert run("--native sdk") == 0
    moved = (folder / "sdk").rename(folder / "moved")
    process = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "rtmtass"],
        env={**os.environ, "PKG_CONFIG_PATH": str(moved / "lib" / "pkgconfig")},
        capture_output=True,
        text=True,
        check=True,
    )
    places = [word[:2] + os.path.realpath(word[2:]) for word in process.stdout.split()[:2]]
    assert places == [f"-I{moved / 'include'}", f"-L{moved / 'lib'}"]
    assert process.stdout.split()[2:] == ["-lrtmtass"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
def test_the_example_compiles_without_a_warning(tmp_path: Path) -> None:
    words = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{C_FOLDER}", "-c"]
    command = ["cc", *words, str(C_FOLDER / "example.c"), "-o", str(tmp_path / "example.o")]
    subprocess.run(command, check=True)


def test_every_target_has_a_build_for_its_every_processor() -> None:
    for target in TARGETS.values():
        assert len({variant.name for variant in target.variants}) == len(target.variants)
        assert target.variants[-1].name == ("neon" if target.system == "macos" else "baseline")
    with pytest.raises(UsageError, match="this machine is plan9-mips, which there is no build for"):
        find_target_on("plan9-mips")


def find_target_on(machine: str) -> Target:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "this_machine", lambda: machine)
        return find_target()


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [
        ("Linux", "x86_64", "linux-x86_64"),
        ("Linux", "aarch64", "linux-aarch64"),
        ("Windows", "AMD64", "windows-x86_64"),
        ("Darwin", "arm64", "macos-arm64"),
        ("Darwin", "x86_64", "macos-x86_64"),
    ],
)
def test_this_machine_is_named_like_a_target(
    system: str, machine: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert this_machine() == name


def install(folder: Path, version: str, main: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a `ziglang` whose command line is `main`, for this test and what it starts."""
    (folder / "ziglang").mkdir()
    (folder / "ziglang" / "__init__.py").touch()
    (folder / "ziglang" / "__main__.py").write_text(main)
    about = folder / f"ziglang-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ziglang\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.delitem(sys.modules, "ziglang", raising=False)


def test_a_missing_compiler_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPartError, match=r'ziglang: pip install "rtmtass\[native\]"$'):
        Zig()


def test_an_old_compiler_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "0.9.1", "", monkeypatch)
    with pytest.raises(MissingPartError) as caught:
        Zig()
    assert str(caught.value) == (
        'ziglang 0.9.1 is too old, 0.14 or newer is needed: pip install --upgrade "ziglang>=0.14"'
    )


def test_a_compiler_that_fails_shows_its_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "print('\\n'.join(f'line {i}' for i in range(40))); raise SystemExit(3)"
    install(tmp_path, "0.14.1", lines, monkeypatch)
    with pytest.raises(zig.CompilerError) as caught:
        Zig().cc(["a.c"], tmp_path)
    said = str(caught.value).splitlines()
    assert said[0] == (
        "ziglang 0.14.1 failed (cc, exit code 3); install it again:"
        " pip install --force-reinstall ziglang"
    )
    assert said[1:] == [f"  line {i}" for i in range(28, 40)]
    assert (tmp_path / "cache" / "rtmtass" / "zig").is_dir()


def test_a_compiler_out_of_space_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "1.0", "raise SystemExit('error: NoSpaceLeft')", monkeypatch)
    with pytest.raises(OutputError, match="the disk is full; free some space, or set TMPDIR"):
        Zig().ar(["rcs", "a.a"], tmp_path)


def test_a_cache_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "1.0", "", monkeypatch)
    (tmp_path / "cache").write_text("")
    with pytest.raises(OutputError, match=r"the compiler's cache: .* XDG_CACHE_HOME="):
        Zig()


@pytest.mark.skipif(find_spec("ziglang") is None, reason="ziglang isn't installed")
@pytest.mark.skipif(sys.platform != "linux", reason="loads the library with Linux's rules")
def test_the_real_compiler_links_a_library_with_no_names_but_ours(tmp_path: Path) -> None:
    target = find_target()
    shop = Workshop(tmp_path / "shop", Zig(), target)
    source = (
        '__attribute__((visibility("default"))) int seen(void);\nint hidden(void);\n'
        "int hidden(void) { return 42; }\nint seen(void) { return hidden(); }\n"
    )
    shop.add("tiny.c", source.encode())
    objects = shop.compile(["tiny.c"], [], lambda name: None)
    shop.link_shared(objects, target.shared_name)
    shop.archive(objects, "libtiny.a")
    assert shop.read("libtiny.a").startswith(b"!<arch>")
    path = tmp_path / "shop" / target.shared_name
    library = ctypes.CDLL(str(path))
    assert library.seen() == 42
    assert not hasattr(library, "hidden")
    assert str(tmp_path).encode() not in path.read_bytes()
