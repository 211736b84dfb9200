"""Writes a model as a `.rtm` file, and the library, plugins and WebAssembly that run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rtmtass.config import PRECISIONS
from rtmtass.errors import UsageError
from rtmtass.native import contents, controls, plugin_files, site
from rtmtass.native.building import Link, OnStep, build, temporary_folder
from rtmtass.native.link import HEADER, MODEL, Objects, Workshop, import_library
from rtmtass.native.outputs import Outputs
from rtmtass.native.parts import C_FOLDER, JS_FOLDER, load_parts
from rtmtass.native.targets import TARGETS, WASM, Target, find_target
from rtmtass.native.zig import Zig
from rtmtass.weights import Model, open_model

T = TypeVar("T")

_PLUGIN = "plugin"
"""Name of a plugin's binary in the workshop."""


def _show_nothing(name: str, done: float, of: float) -> None:
    pass


class Run(Protocol):
    """Calls a function and returns what it returns, perhaps in a thread that can be left."""

    def __call__(self, work: Callable[[], T], /) -> T:
        """Call it."""


def _run_here(work: Callable[[], T], /) -> T:
    return work()


@dataclass(frozen=True)
class Settings:
    """What all exports have in common.

    Attributes:
        target: one of `TARGETS`; None for this machine's, and for WebAssembly.
        precision: of the model's weights, one of `PRECISIONS`.
        overwrite: replace files that exist.
        on_step: shows the progress.
        run: runs the slow work. What is unfinished is removed outside of it, so that this
            happens also where a signal ends the wait for a compiler.
    """

    target: str | None = None
    precision: str = "int8"
    overwrite: bool = False
    on_step: OnStep = _show_nothing
    run: Run = _run_here


@dataclass(frozen=True)
class Report:
    """What an export wrote.

    Attributes:
        model: its name.
        precision: of its weights.
        target: the system and processor; None for a model alone.
        files: all that was written, with their sizes in bytes.
        next: what to type next.
    """

    model: str
    precision: str
    target: Target | None
    files: Mapping[Path, int]
    next: str

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the builds of the kernels, the preferred one first."""
        return tuple(variant.name for variant in self.target.variants) if self.target else ()

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return {
            "model": self.model,
            "precision": self.precision,
            "target": self.target.name if self.target else None,
            "variants": list(self.variants),
            "files": [{"path": str(path), "bytes": n} for path, n in self.files.items()],
            "next": self.next,
        }


DEFAULTS = Settings()


@dataclass(frozen=True)
class _Plan:
    """What one export builds and writes.

    Attributes:
        target: the system and processor.
        folder, option: where to, and the option of the command line that named it.
        built: name in the workshop by name in `folder`, of what is built.
        texts: the other files of `folder`.
        link: makes what is built of the object files.
        next: what to type next.
        sources: names of C sources beyond the library's.
        options: of the C compiler.
        headers: texts of generated headers beyond the library's, by name.
    """

    target: Target
    folder: Path
    option: str
    built: Mapping[str, str]
    texts: Mapping[str, bytes]
    link: Link
    next: str
    sources: tuple[str, ...] = ()
    options: tuple[str, ...] = ("-DRTMTASS_BUILD",)
    headers: Mapping[str, str] = field(default_factory=dict)


def export_model_file(model: str, path: Path | str, settings: Settings = DEFAULTS) -> Report:
    """Write a model as one `.rtm` file, which needs no compiler.

    Args:
        model: name or folder, as of `rtmtass.load`.
        path: the file to write.
        settings: `target` doesn't matter.

    Raises:
        ModelError: unknown model.
        OutputError: the file exists, or can't be written.
        UsageError: unknown precision.
    """
    path = Path(path)
    opened = _open(model, settings)
    outputs = Outputs(path.parent, [path.name], overwrite=settings.overwrite, option="--rtm")
    with outputs:
        settings.on_step("packing the model", 0, 100)
        data = settings.run(lambda: load_parts().write_model(opened, settings.precision))
        settings.on_step("writing", 100, 100)
        sizes = outputs.publish({path.name: data})
    return Report(_name(opened), settings.precision, None, sizes, contents.next_for_model(path))


def export_library(model: str, folder: Path | str, settings: Settings = DEFAULTS) -> Report:
    """Write the C library, static and shared, with its header, an example and the model.

    Args:
        model: name or folder, as of `rtmtass.load`.
        folder: made if missing; gets lib, include, the model and the example.
        settings: for WebAssembly there is only the static library.

    Raises:
        MissingPartError: the compiler package isn't installed, or is too old.
        ModelError: unknown model.
        OutputError: a file exists, or can't be written.
        UsageError: unknown target or precision.
    """
    target, folder = find_target(settings.target), Path(folder)
    opened = _open(model, settings)
    shared, static = target.shared_name, "librtmtass.a"

    def link(shop: Workshop, objects: Objects) -> None:
        if shared:
            shop.link_shared(objects, shared)
        shop.archive(objects, static)

    libraries = [name for name in (shared, import_library(target), static) if name]
    built = {f"lib/{name}": name for name in libraries} | {f"{_name(opened)}.rtm": MODEL}
    texts = {
        "include/rtmtass.h": (C_FOLDER / HEADER).read_bytes(),
        "lib/pkgconfig/rtmtass.pc": contents.pkg_config(),
        "example.c": (C_FOLDER / "example.c").read_bytes(),
        **_licences(opened),
    }
    line = contents.next_for_library(folder, target)
    return _run(_Plan(target, folder, "--native", built, texts, link, line), opened, settings)


def export_plugin(
    model: str, plugin: str, folder: Path | str, settings: Settings = DEFAULTS
) -> Report:
    """Write a plugin that contains the library and the model.

    Args:
        model: name or folder, as of `rtmtass.load`.
        plugin: its format, one of `plugin_files.FORMATS`.
        folder: that hosts search, such as ~/.lv2; made if missing.
        settings: WebAssembly has no plugins.

    Raises:
        MissingPartError: the compiler package isn't installed, or is too old.
        ModelError: unknown model.
        OutputError: a file exists, or can't be written.
        UsageError: unknown format, target or precision, or no such plugins for the target.
    """
    target, folder = _plugin_target(plugin, settings), Path(folder)
    opened = _open(model, settings)
    name, stems, suffix = _name(opened), opened.config.stems, target.library_suffix
    library = plugin_files.file_name(plugin, name, suffix)
    texts = {
        path: text.encode()
        for path, text in plugin_files.extra_files(plugin, name, stems, suffix).items()
    }
    if "/" in library:  # a folder of our own, with room for the licences
        bundle = library.partition("/")[0]
        texts |= {f"{bundle}/{path}": text for path, text in _licences(opened).items()}

    def link(shop: Workshop, objects: Objects) -> None:
        shop.link_shared(objects, _PLUGIN)

    plan = _Plan(
        target, folder, "-o", {library: _PLUGIN}, texts, link,
        contents.next_for_plugin(plugin, folder, name, target),
        plugin_files.FORMATS[plugin].sources,
        ("-DRTMTASS_PRIVATE", f'-DRTMTASS_MODEL_FILE="{MODEL}"'),
        {plugin_files.HEADER: controls.header(name, stems)},
    )  # fmt: skip
    return _run(plan, opened, settings)


def export_wasm(model: str, folder: Path | str, settings: Settings = DEFAULTS) -> Report:
    """Write the library as a WebAssembly module, the JavaScript that loads it, and the model.

    Args:
        model: name or folder, as of `rtmtass.load`.
        folder: made if missing.
        settings: `target` may only be WebAssembly's.

    Raises:
        MissingPartError: the compiler package isn't installed, or is too old.
        ModelError: unknown model.
        OutputError: a file exists, or can't be written.
        UsageError: another target, or an unknown precision.
    """
    return _export_wasm(model, Path(folder), settings, "--wasm")


def export_page(model: str, folder: Path | str, settings: Settings = DEFAULTS) -> Report:
    """Write the page that separates in the visitor's browser, for any static web server.

    Args:
        model: name or folder, as of `rtmtass.load`.
        folder: made if missing; all files lie in it, without subfolders.
        settings: `target` may only be WebAssembly's.

    Raises:
        MissingPartError: the compiler package isn't installed, or is too old.
        ModelError: unknown model, or its stems aren't those that the page shows.
        OutputError: a file exists, or can't be written.
        UsageError: another target, or an unknown precision.
    """
    return _export_wasm(model, Path(folder), settings, "--page")


def _export_wasm(model: str, folder: Path, settings: Settings, option: str) -> Report:
    target = find_target(settings.target or WASM)
    if not target.is_wasm:
        raise UsageError(
            f"{option} is for {WASM}, not {target.name}; leave --target out, or give --native"
            f" FOLDER instead of {option}"
        )
    opened = _open(model, settings)
    model_name = f"{_name(opened)}.rtm"
    texts = {
        "rtmtass.js": (JS_FOLDER / "rtmtass.js").read_bytes(),
        **_licences(opened),
    }
    line = contents.next_for_wasm(folder)
    if option == "--page":
        texts |= site.files(opened, _name(opened), model_name)
        line = site.next_line(folder)

    def link(shop: Workshop, objects: Objects) -> None:
        shop.link_wasm(objects, "rtmtass.wasm")

    built = {"rtmtass.wasm": "rtmtass.wasm", model_name: MODEL}
    return _run(_Plan(target, folder, option, built, texts, link, line), opened, settings)


def _open(model: str, settings: Settings) -> Model:
    if settings.precision not in PRECISIONS:
        raise UsageError(
            f"unknown precision {settings.precision!r}; --precision takes {', '.join(PRECISIONS)}"
        )
    return open_model(model)


def _name(model: Model) -> str:
    """Return the name that `rtmtass.load` takes, also where that was given as a path."""
    return model.folder.resolve().name


def _licences(model: Model) -> dict[str, bytes]:
    return contents.licences(model, _name(model))


def _plugin_target(plugin: str, settings: Settings) -> Target:
    formats = plugin_files.FORMATS
    if plugin not in formats:
        raise UsageError(f"unknown plugin format {plugin!r}; --plugin takes {', '.join(formats)}")
    target = find_target(settings.target)
    if not target.shared_name:
        able = ", ".join(name for name, one in TARGETS.items() if one.shared_name)
        raise UsageError(f"there are no plugins for {target.name}; --plugin takes --target {able}")
    return target


def _run(plan: _Plan, model: Model, settings: Settings) -> Report:
    """Build and write all of a plan, or nothing."""
    zig = Zig()
    names = [*plan.built, *plan.texts]
    overwrite, option = settings.overwrite, plan.option
    with Outputs(plan.folder, names, overwrite=overwrite, option=option) as outputs:
        with temporary_folder() as folder:
            files = settings.run(lambda: _build(plan, folder, model, settings, zig))
        sizes = outputs.publish({**files, **plan.texts})
    return Report(_name(model), settings.precision, plan.target, sizes, plan.next)


def _build(
    plan: _Plan, folder: Path, model: Model, settings: Settings, zig: Zig
) -> dict[str, bytes]:
    parts = load_parts()
    return build(
        folder, plan.target, (*parts.library, *plan.sources), plan.options,
        lambda: parts.write_model(model, settings.precision), plan.link, plan.built,
        headers=plan.headers, parts=parts, zig=zig, on_step=settings.on_step,
    )  # fmt: skip
