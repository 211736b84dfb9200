"""Writes the LLVM IR of the native library's kernels for one int8 instruction set.

Run as a program of its own, `python -m rtmtass.native.ir ISA FILE ENTRY …`: an instruction set is
chosen once a process, and numba must neither optimise for this processor nor run the code. It
ends when its input is closed, as happens to a pipe when the process at the other end ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rtmtass.errors import RtmtassError
from rtmtass.jit import cpu
from rtmtass.jit.trust import make_folder

_ENVIRONMENT = {
    "NUMBA_OPT": "0",
    "NUMBA_LOOP_VECTORIZE": "0",
    "NUMBA_SLP_VECTORIZE": "0",
    "NUMBA_CPU_NAME": "generic",
    "NUMBA_CPU_FEATURES": "",
}


def ir_file(isa: str, entries: Sequence[str], folder: Path) -> Path:
    """Return a file with the IR of entry points; their symbols are beside it, in `.json`.

    Args:
        isa: a name in `rtmtass.jit.cpu.ISAS`; this processor may lack it.
        entries: names in `entries.ENTRIES`.
        folder: where to write it, unless it can be kept with the machine code.

    Raises:
        RtmtassError: the compilation failed.
    """
    from rtmtass.jit.compiler import STORE

    which = "-".join(entries)
    name = f"native-{isa}-{which}-{version('numba')}-{version('llvmlite')}.ll"
    kept = None if STORE.writable is None else STORE.writable / name
    if kept is not None and kept.exists():  # its names are written first
        return kept
    path = folder / name
    _run_child(isa, entries, path)
    if kept is not None:
        _keep(path, kept)
    return path


def names_file(ir: Path) -> Path:
    """Return the file with the names of the entry points in an IR file."""
    return ir.with_suffix(".json")


def _keep(path: Path, kept: Path) -> None:
    """Copy both files to where the next export finds them; do without if that fails."""
    with contextlib.suppress(OSError):
        make_folder(kept.parent)
        for source, target in ((names_file(path), names_file(kept)), (path, kept)):
            part = target.with_name(f"{target.name}.tmp.{os.getpid()}")
            try:
                shutil.copyfile(source, part)
                os.chmod(part, 0o644)  # the umask may let a group write
                os.replace(part, target)
            finally:
                part.unlink(missing_ok=True)


def _run_child(isa: str, entries: Sequence[str], path: Path) -> None:
    cache = path.with_suffix(".cache")
    cache.mkdir(exist_ok=True)
    package = Path(__file__).resolve().parent.parent.parent
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **{name: value for name, value in os.environ.items() if name != cpu.VARIABLE},
        **_ENVIRONMENT,
        "NUMBA_CACHE_DIR": str(cache),  # or it would replace the machine code of this processor
        "PYTHONPATH": os.pathsep.join(paths),
    }
    command = [sys.executable, "-m", "rtmtass.native.ir", isa, str(path), *entries]
    child_input, ours = os.pipe()  # closed by the system too, however this process ends
    try:
        done = subprocess.run(
            command, env=environment, stdin=child_input, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
    finally:
        os.close(child_input)
        os.close(ours)
    if done.returncode:
        said = done.stderr.strip()[-2000:]
        raise RtmtassError(f"the kernels couldn't be compiled for {isa}: {said}")


def _compile_only() -> None:
    """Make numba compile without generating machine code, loading or caching it."""
    from numba.core import codegen, dispatcher
    from numba.core import cpu as numba_cpu

    class Codegen(codegen.AOTCPUCodegen):  # type: ignore[misc]
        """Numba's code generation ahead of time, for what expects to run the result."""

        def set_env(self, name: str, env: object) -> None:
            """Do nothing: no code is loaded that could read it."""

    def no_executable(self: Any, library: Any, fndesc: Any, env: Any) -> Any:
        return [].append  # a different builtin each time: numba finds functions by it

    patched: Any = dispatcher.Dispatcher
    patched.enable_caching = lambda self: None
    numba_cpu.CPUContext.get_executable = no_executable
    codegen.JITCPUCodegen = Codegen


def _end_with_input() -> None:
    """End this process when its input ends; a signal may have ended who waited for the result."""
    os.read(0, 1)  # not by sys.stdin, whose lock Python takes when it ends
    os._exit(1)


def _main(isa: str, path: Path, entries: Sequence[str]) -> None:
    cpu.compile_for(isa)
    _compile_only()
    from llvmlite import binding as llvm
    from numba.core.compiler_lock import global_compiler_lock

    from rtmtass.native.entries import ENTRIES, compile_entries

    compile_entries(entries)
    module, names = None, {}
    for name in entries:
        entry, n_arguments = ENTRIES[name]
        result = entry.overloads[entry.signatures[0]]
        with global_compiler_lock:
            result.library.finalize()
        linked = llvm.parse_assembly(str(result.library._final_module))
        if module is None:
            module = linked
        else:
            module.link_in(linked)
        names[name] = {"symbol": result.fndesc.mangled_name, "arguments": n_arguments}
    path.write_text(str(module))
    names_file(path).write_text(json.dumps(names))


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    _main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
