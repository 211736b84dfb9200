"""Which C files and texts make up a plugin of each format; no compiler is called here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from rtmtass import __version__
from rtmtass.native import lv2_ttl
from rtmtass.native.controls import symbol

HEADER = "rtmtass_controls.h"
"""Name of the generated header that the C files include."""


@dataclass(frozen=True)
class PluginFormat:
    """A plugin format.

    Attributes:
        sources: C files in `parts.C_FOLDER` that are linked with the library's own.
        symbol: the one symbol that the shared library has to export.
    """

    sources: tuple[str, ...]
    symbol: str


_SHARED = ("plugin.c", "model_bytes.c")
FORMATS = {
    "clap": PluginFormat(("clap.c", "clap_params.c", "clap_state.c", *_SHARED), "clap_entry"),
    "lv2": PluginFormat(("lv2.c", "ports.c", *_SHARED), "lv2_descriptor"),
    "ladspa": PluginFormat(("ladspa.c", "ports.c", *_SHARED), "ladspa_descriptor"),
}


def file_name(plugin_format: str, model: str, library_suffix: str) -> str:
    """Return the name of the library, relative to the folder that hosts search.

    Args:
        plugin_format: a key of `FORMATS`.
        model: its name, such as `rtmtass-small`.
        library_suffix: of shared libraries on the target, such as `.so`.
    """
    names = {
        # On macOS a CLAP plugin is a bundle: a folder of this layout, see `extra_files`.
        "clap": f"{model}.clap/Contents/MacOS/{model}"
        if library_suffix == ".dylib"
        else f"{model}.clap",
        "lv2": f"{model}.lv2/rtmtass{library_suffix}",
        "ladspa": f"{model}{library_suffix}",
    }
    return names[plugin_format]


def extra_files(
    plugin_format: str, model: str, stems: Sequence[str], library_suffix: str
) -> dict[str, str]:
    """Return the text files beside the library: name, relative as in `file_name`, and text."""
    if plugin_format == "lv2":
        binary = Path(file_name("lv2", model, library_suffix)).name
        return {
            f"{model}.lv2/manifest.ttl": lv2_ttl.manifest(model, binary),
            f"{model}.lv2/{lv2_ttl.PLUGIN_TTL}": lv2_ttl.plugins(model, stems),
        }
    if plugin_format == "clap" and library_suffix == ".dylib":
        return {f"{model}.clap/Contents/Info.plist": _info_plist(model)}
    return {}


def _info_plist(model: str) -> str:
    entries = {
        "CFBundleExecutable": model,
        "CFBundleIdentifier": f"rtmtass.{symbol(model).replace('_', '-')}",
        "CFBundleName": model,
        "CFBundlePackageType": "BNDL",
        "CFBundleVersion": __version__,
        "CFBundleShortVersionString": __version__,
    }
    lines = (
        f"\t<key>{key}</key>\n\t<string>{escape(value)}</string>\n"
        for key, value in entries.items()
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" '
        '"http://www.apple.com/DTDs/PropertyList-1.0.dtd">\n'
        f'<plist version="1.0">\n<dict>\n{"".join(lines)}</dict>\n</plist>\n'
    )
