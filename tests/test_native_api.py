"""The C interface: every rtmtass_result is reached and has its words; what C reports is right."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import byref, c_uint32, c_void_p

import numpy as np
import pytest
from native_builds import MODEL, needs
from native_library import (
    MIX,
    MIX_AND_STEMS,
    STEMS,
    Config,
    Library,
    Model,
    Refused,
    delayed,
    model_bytes,
)

from rtmtass import __version__
from rtmtass.live.limits import HIGHEST_RATE_HZ, LOWEST_RATE_HZ
from rtmtass.native.model_file import sealed
from rtmtass.native.model_words import RESULT, VERSION, WORD

pytestmark = needs()

SIZE = ctypes.sizeof(Config)


@pytest.fixture(scope="module")
def model(library: Library) -> Model:
    return library.open(model_bytes("int8"))


def test_a_model_tells_about_itself(library: Library, model: Model) -> None:
    c = library.c
    assert c.rtmtass_abi_version() == 1
    assert c.rtmtass_version().decode() == __version__
    assert c.rtmtass_model_name(model.handle).decode() == MODEL
    names = [c.rtmtass_stem_name(model.handle, stem) for stem in range(4)]
    assert names == [b"speech", b"music", b"noise", None]
    assert c.rtmtass_n_stems(model.handle) == 3
    assert c.rtmtass_model_rate(model.handle) == 16000
    assert model.stream(channels=2).outputs == 6
    assert model.stream(channels=2, output=MIX).outputs == 2
    assert model.stream(channels=2, output=MIX_AND_STEMS).outputs == 8
    assert c.rtmtass_hop(model.handle) == 256


def newer() -> bytes:
    data = bytearray(model_bytes("int8"))
    data[8 * WORD.version : 8 * WORD.version + 8] = (VERSION + 1).to_bytes(8, "little")
    return sealed(bytes(data))


def damaged() -> bytes:
    data = bytearray(model_bytes("int8"))
    data[-9000] ^= 1
    return bytes(data)


FILES: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "empty": (lambda: b"", RESULT.not_a_model, "not a .rtm file"),
    "another": (lambda: b"RIFF" + bytes(5000), RESULT.not_a_model, "rtmtass export"),
    "newer": (newer, RESULT.version, "newer version"),
    "cut": (lambda: model_bytes("int8")[:-64], RESULT.damaged, "cut short"),
    "magic only": (lambda: model_bytes("int8")[:8], RESULT.damaged, "damaged"),
    "altered": (damaged, RESULT.damaged, "damaged"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_model_is_refused_with_words(name: str, library: Library) -> None:
    data, code, words = FILES[name]
    with pytest.raises(Refused, match=words) as refused:
        library.open(data())
    assert refused.value.code == code


@pytest.mark.parametrize("variant", ["", "mmx", "AVX2", "baseline "])
def test_an_unknown_build_is_refused(variant: str, library: Library) -> None:
    with pytest.raises(Refused, match="build of the kernels") as refused:
        library.open(model_bytes("int8"), variant)
    assert refused.value.code == RESULT.variant


CONFIGS = {
    "rate below": (RESULT.sample_rate, SIZE, LOWEST_RATE_HZ - 1, 1, STEMS),
    "rate above": (RESULT.sample_rate, SIZE, HIGHEST_RATE_HZ + 1, 1, STEMS),
    "no rate": (RESULT.sample_rate, SIZE, 0, 1, STEMS),
    "no channel": (RESULT.channels, SIZE, 48000, 0, STEMS),
    "nine channels": (RESULT.channels, SIZE, 48000, 9, STEMS),
    "output": (RESULT.output, SIZE, 48000, 1, 3),
    "size of 0": (RESULT.argument, 0, 48000, 1, STEMS),
    "size too small": (RESULT.argument, SIZE - 1, 48000, 1, STEMS),
}
WORDS = {
    RESULT.sample_rate: f"{LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz",
    RESULT.channels: "1 to 8",
    RESULT.output: "RTMTASS_STEMS, RTMTASS_MIX or RTMTASS_MIX_AND_STEMS",
    RESULT.argument: "size is not set",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_out_of_range_is_refused_with_words(
    name: str, library: Library, model: Model
) -> None:
    code, *fields = CONFIGS[name]
    stream = c_void_p(1)
    config = Config(*fields)
    assert library.c.rtmtass_new_stream(model.handle, byref(config), byref(stream)) == code
    assert not stream
    assert WORDS[code] in library.c.rtmtass_error_text(code).decode()


@pytest.mark.parametrize(
    ("rate", "channels"), [(LOWEST_RATE_HZ, 8), (HIGHEST_RATE_HZ, 1), (11025, 3)]
)
def test_the_ends_of_the_ranges_are_taken(rate: int, channels: int, model: Model) -> None:
    stream = model.stream(rate, channels)
    assert stream.outputs == 3 * channels
    n = min(stream.latency + 2000, 40000)
    x = np.full((channels, n), 0.1, np.float32)
    total = stream.process(x).reshape(3, channels, n).sum(axis=0)
    np.testing.assert_allclose(total, delayed(x, stream.latency), rtol=0, atol=1e-6)


def test_a_larger_config_of_a_later_header_is_taken(library: Library, model: Model) -> None:
    fields = (c_uint32 * 6)(24, 48000, 1, STEMS, 7, 7)
    stream = c_void_p()
    assert library.c.rtmtass_new_stream(model.handle, fields, byref(stream)) == RESULT.ok
    library.c.rtmtass_free_stream(stream)


def test_settings_out_of_range_are_refused_with_words(library: Library, model: Model) -> None:
    stream, c = model.stream(output=MIX), library.c
    assert c.rtmtass_set_gain(stream.handle, 3, 0.0) == RESULT.stem
    assert c.rtmtass_set_mute(stream.handle, 3, 1) == RESULT.stem
    assert c.rtmtass_set_solo(stream.handle, 3, 1) == RESULT.stem
    assert c.rtmtass_set_gain(stream.handle, 0, np.nan) == RESULT.value
    assert c.rtmtass_set_strength(stream.handle, np.nan) == RESULT.value
    assert "no stem of that number" in c.rtmtass_error_text(RESULT.stem).decode()
    assert "NaN" in c.rtmtass_error_text(RESULT.value).decode()
    for gain in (-np.inf, np.inf, 1e38):
        assert c.rtmtass_set_gain(stream.handle, 0, gain) == RESULT.ok


def test_null_is_refused_or_ignored(library: Library, model: Model) -> None:
    c, data, out = library.c, model_bytes("int8"), byref(c_void_p())
    stream, config = model.stream(), byref(Config(SIZE, 48000, 1, STEMS))
    refusals = [
        c.rtmtass_open(None, len(data), out),
        c.rtmtass_open(data, len(data), None),
        c.rtmtass_open_variant(None, len(data), b"baseline", out),
        c.rtmtass_open_variant(data, len(data), None, out),
        c.rtmtass_open_variant(data, len(data), b"baseline", None),
        c.rtmtass_new_stream(None, config, out),
        c.rtmtass_new_stream(model.handle, None, out),
        c.rtmtass_new_stream(model.handle, config, None),
        c.rtmtass_set_gain(None, 0, 0.0),
        c.rtmtass_set_strength(None, 0.0),
        c.rtmtass_set_mute(None, 0, 1),
        c.rtmtass_set_solo(None, 0, 1),
        c.rtmtass_levels(None, out),
        c.rtmtass_levels(stream.handle, None),
        c.rtmtass_factors(None, out),
        c.rtmtass_factors(stream.handle, None),
    ]
    assert set(refusals) == {RESULT.argument}
    assert "NULL" in c.rtmtass_error_text(RESULT.argument).decode()
    assert c.rtmtass_n_stems(None) == c.rtmtass_model_rate(None) == 0
    assert c.rtmtass_outputs(None) == c.rtmtass_latency(None) == 0
    assert c.rtmtass_hop(None) == c.rtmtass_hops(None) == 0
    assert not c.rtmtass_last_stems(None)
    assert c.rtmtass_model_name(None) is c.rtmtass_variant(None) is None
    assert c.rtmtass_stem_name(None, 0) is None
    for ignored in (c.rtmtass_close, c.rtmtass_free_stream, c.rtmtass_reset):
        ignored(None)
    c.rtmtass_set_bypass(None, 1)
    c.rtmtass_process(None, None, None, 10)
    c.rtmtass_process(stream.handle, None, None, 10)
    c.rtmtass_process(stream.handle, None, None, 0)


def test_every_result_has_words_of_its_own(library: Library) -> None:
    texts = [library.c.rtmtass_error_text(code).decode() for code in range(len(RESULT) + 1)]
    assert len(set(texts)) == len(texts)
    assert texts[-1] == "unknown error"
    assert texts[RESULT.memory] == "no memory is left"


def test_a_length_that_no_memory_holds_is_refused(library: Library) -> None:
    """The one way to reach the error of memory: the bytes aren't read before the copy is made."""
    out = c_void_p(1)
    code = library.c.rtmtass_open(model_bytes("int8"), 2**64 - 1, byref(out))
    assert code == RESULT.memory
    assert not out
