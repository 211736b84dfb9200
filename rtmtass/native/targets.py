"""The processors and systems that the native library is built for, and its builds for each."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import PurePath

from rtmtass.errors import UsageError


@dataclass(frozen=True)
class Variant:
    """One build of the kernels; a library holds one or more, and chooses when a model is opened.

    Attributes:
        name: as given to `rtmtass_open_variant`.
        cpu: LLVM's name of the oldest processor that runs it.
        features: LLVM's features beyond those of `cpu`, such as "+dotprod".
        int8: instruction set of the int8 dot product, one of `rtmtass.jit.cpu.ISAS`.
        has_fma: whether the processor multiplies and adds in one instruction.
        has_rounding: whether it rounds to whole numbers in one.
    """

    name: str
    cpu: str
    features: str
    int8: str
    has_fma: bool
    has_rounding: bool = True


@dataclass(frozen=True)
class Target:
    """A system and processor.

    Attributes:
        name: as of `--target`.
        llvm: LLVM's triple, for the kernels.
        zig: Zig's triple, for the C sources and for linking; names the oldest system.
        variants: the builds of the kernels, the preferred one first.
        shared_name: file name of the shared library; empty where there is none.
        link_options: of a shared library, beyond `-shared`.
    """

    name: str
    llvm: str
    zig: str
    variants: tuple[Variant, ...]
    shared_name: str
    link_options: tuple[str, ...] = ()

    @property
    def is_wasm(self) -> bool:
        """Whether programs load it as WebAssembly, without a system's libraries."""
        return self.name == WASM

    @property
    def system(self) -> str:
        """The first word of its name: linux, windows, macos or wasm32."""
        return self.name.partition("-")[0]

    @property
    def library_suffix(self) -> str:
        """Suffix of shared libraries, such as ".so"; empty where there are none."""
        return PurePath(self.shared_name).suffix


WASM = "wasm32"

_X86 = (
    Variant("avx512vnni", "x86-64-v4", "+avx512vnni", "avx512vnni", has_fma=True),
    Variant("avx2", "x86-64-v3", "", "avx2", has_fma=True),
    Variant("baseline", "x86-64", "", "sse2", has_fma=False, has_rounding=False),
)
_ARM = (
    Variant("neon", "generic", "+dotprod", "neon", has_fma=True),
    Variant("baseline", "generic", "", "portable", has_fma=True),
)
_APPLE = (Variant("neon", "apple-m1", "", "neon", has_fma=True),)
_WASM = (Variant("baseline", "generic", "+simd128", "wasm", has_fma=False),)


# `-z defs`: a symbol that neither we nor libc have is an error of the link, not of a user's start.
_ELF = ("-Wl,-z,defs",)
# glibc 2.17, of 2012, is that of the manylinux2014 wheels.
TARGETS = {
    target.name: target
    for target in (
        Target(
            "linux-x86_64", "x86_64-unknown-linux-gnu", "x86_64-linux-gnu.2.17", _X86,
            "librtmtass.so", _ELF,
        ),
        Target(
            "linux-aarch64", "aarch64-unknown-linux-gnu", "aarch64-linux-gnu.2.17", _ARM,
            "librtmtass.so", _ELF,
        ),
        Target(
            "windows-x86_64", "x86_64-pc-windows-gnu", "x86_64-windows-gnu", _X86,
            "rtmtass.dll",
        ),
        Target(
            "macos-arm64", "arm64-apple-macosx11.0.0", "aarch64-macos.11.0", _APPLE,
            "librtmtass.dylib",
        ),
        Target(WASM, "wasm32-unknown-unknown", "wasm32-wasi", _WASM, ""),
    )
}  # fmt: skip
"""By the name that `--target` takes."""

_SYSTEMS = {"Linux": "linux", "Windows": "windows", "Darwin": "macos"}
_PROCESSORS = {
    ("linux", "amd64"): "x86_64",
    ("windows", "amd64"): "x86_64",
    ("linux", "arm64"): "aarch64",
}


def this_machine() -> str:
    """Return the name of this machine's target, which need not be in `TARGETS`."""
    system = _SYSTEMS.get(platform.system(), platform.system().lower())
    processor = platform.machine().lower()
    return f"{system}-{_PROCESSORS.get((system, processor), processor)}"


def find_target(name: str | None = None) -> Target:
    """Return a target by its name; without one, this machine's.

    Raises:
        UsageError: there is no such target; the message lists them.
    """
    wanted = name or this_machine()
    if wanted in TARGETS:
        return TARGETS[wanted]
    known = ", ".join(TARGETS)
    if name is None:
        raise UsageError(
            f"this machine is {wanted}, which there is no build for; name another with --target:"
            f" {known}"
        )
    raise UsageError(f"unknown target {name!r}; --target takes {known}")
