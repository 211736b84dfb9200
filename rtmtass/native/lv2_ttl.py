"""Describes the LV2 plugins in Turtle, from the same table as their C code."""

from __future__ import annotations

from collections.abc import Sequence

from rtmtass import __version__
from rtmtass.native.controls import (
    DESCRIPTION,
    LAYOUTS,
    VENDOR,
    Control,
    controls,
    title,
    uri,
)

PLUGIN_TTL = "rtmtass.ttl"
LICENCE_URI = "https://spdx.org/licenses/MIT"

_PROJECT = "urn:rtmtass"
_PREFIXES = """\
@prefix doap: <http://usefulinc.com/ns/doap#> .
@prefix foaf: <http://xmlns.com/foaf/0.1/> .
@prefix lv2: <http://lv2plug.in/ns/lv2core#> .
@prefix pg: <http://lv2plug.in/ns/ext/port-groups#> .
@prefix rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
@prefix units: <http://lv2plug.in/ns/extensions/units#> .
"""
_SIDES = {"mono": ("",), "stereo": ("left", "right")}


def manifest(model: str, binary: str) -> str:
    """Return `manifest.ttl`: which plugins are in the bundle, and in which library file."""
    plugins = (
        f"<{uri(model, layout)}>\n"
        "\ta lv2:Plugin ;\n"
        f"\tlv2:binary <{binary}> ;\n"
        f"\trdfs:seeAlso <{PLUGIN_TTL}> .\n"
        for layout in LAYOUTS
    )
    return "\n".join([_PREFIXES, *plugins])


def plugins(model: str, stems: Sequence[str]) -> str:
    """Return `rtmtass.ttl`: names, licence and ports of the plugins for a model.

    Raises:
        ModelError: see `controls`.
    """
    table = controls(stems)
    project = (
        f'<{_PROJECT}>\n\ta doap:Project ;\n\tdoap:name "rtmtass" ;\n'
        f"\tdoap:maintainer [ a foaf:Person ; foaf:name {_quoted(VENDOR)} ] .\n"
    )
    each = (_plugin(model, layout, table) for layout in LAYOUTS)
    return "\n".join([_PREFIXES, project, *each])


def _plugin(model: str, layout: str, table: Sequence[Control]) -> str:
    _, minor, micro = (int(number) for number in __version__.split(".")[:3])
    identity = uri(model, layout)
    sides = _SIDES[layout]
    ports = [
        *(_audio_port(identity, "Input", side) for side in sides),
        *(_audio_port(identity, "Output", side) for side in sides),
        *(_control_port(control) for control in table),
        _latency_port(),
    ]
    numbered = "".join(
        f"\tlv2:port [\n\t\tlv2:index {index} ;\n"
        + "".join(f"\t\t{line} ;\n" for line in port)
        + "\t] ;\n"
        for index, port in enumerate(ports)
    )
    groups = _groups(identity) if layout == "stereo" else ""
    main = (
        f"\tpg:mainInput <{identity}#input> ;\n\tpg:mainOutput <{identity}#output> ;\n"
        if groups
        else ""
    )
    return (
        f"{groups}<{identity}>\n"
        "\ta lv2:Plugin , lv2:SpectralPlugin ;\n"
        f"\tdoap:name {_quoted(title(model, layout))} ;\n"
        f"\tdoap:shortdesc {_quoted(DESCRIPTION)} ;\n"
        f"\tdoap:license <{LICENCE_URI}> ;\n"
        f"\tlv2:project <{_PROJECT}> ;\n"
        # An even number, as lv2core asks of releases.
        f"\tlv2:minorVersion {2 * minor} ;\n"
        f"\tlv2:microVersion {micro} ;\n"
        "\tlv2:optionalFeature lv2:hardRTCapable ;\n"
        f"{main}{numbered}".removesuffix(" ;\n")
        + " .\n"
    )


def _groups(identity: str) -> str:
    return "".join(
        f"<{identity}#{direction}>\n"
        f"\ta pg:{direction.capitalize()}Group , pg:StereoGroup ;\n"
        f"\tlv2:symbol {_quoted(direction)} ;\n"
        f"\tlv2:name {_quoted(direction.capitalize())} .\n\n"
        for direction in ("input", "output")
    )


def _audio_port(identity: str, direction: str, side: str) -> list[str]:
    group = [
        f"lv2:designation pg:{side}",
        f"pg:group <{identity}#{direction.lower()}>",
    ]
    return [
        f"a lv2:{direction}Port , lv2:AudioPort",
        f"lv2:symbol {_quoted('_'.join(filter(None, (direction.lower(), side))))}",
        f"lv2:name {_quoted(' '.join(filter(None, (direction, side))))}",
        *(group if side else []),
    ]


def _control_port(control: Control) -> list[str]:
    if control.kind == "bypass":
        return [
            "a lv2:InputPort , lv2:ControlPort",
            'lv2:symbol "enabled"',
            'lv2:name "Enabled"',
            "lv2:default 1",
            "lv2:minimum 0",
            "lv2:maximum 1",
            "lv2:portProperty lv2:toggled",
            "lv2:designation lv2:enabled",
        ]
    words = {"gain": (control.minimum, "off"), "strength": (control.maximum, "no limit")}
    value, word = words[control.kind]
    return [
        "a lv2:InputPort , lv2:ControlPort",
        f"lv2:symbol {_quoted(control.symbol)}",
        f"lv2:name {_quoted(control.name)}",
        f"lv2:default {control.initial}",
        f"lv2:minimum {control.minimum}",
        f"lv2:maximum {control.maximum}",
        "units:unit units:db",
        f"lv2:scalePoint [ rdfs:label {_quoted(word)} ; rdf:value {value} ]",
    ]


def _latency_port() -> list[str]:
    return [
        "a lv2:OutputPort , lv2:ControlPort",
        'lv2:symbol "latency"',
        'lv2:name "Latency"',
        "lv2:minimum 0",
        "lv2:portProperty lv2:reportsLatency , lv2:integer",
        "lv2:designation lv2:latency",
        "units:unit units:frame",
    ]


def _quoted(text: str) -> str:
    """Return a Turtle string literal."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r"}
    return '"' + "".join(escapes.get(character, character) for character in text) + '"'
