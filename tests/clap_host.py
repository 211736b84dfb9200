"""A minimal CLAP host in ctypes.

Its structures are written from the specification by themselves, not from our C header, so that
a mistake in either shows up.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_bool,
    c_char,
    c_char_p,
    c_double,
    c_float,
    c_int16,
    c_int32,
    c_int64,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)

import numpy as np

ERROR, CONTINUE, TAIL = 0, 1, 3
STEPPED, BYPASS, AUTOMATABLE = 1 << 0, 1 << 4, 1 << 5


class Version(Structure):
    _fields_ = [("major", c_uint32), ("minor", c_uint32), ("revision", c_uint32)]


class Entry(Structure):
    _fields_ = [
        ("version", Version),
        ("init", CFUNCTYPE(c_bool, c_char_p)),
        ("deinit", CFUNCTYPE(None)),
        ("get_factory", CFUNCTYPE(c_void_p, c_char_p)),
    ]


class Descriptor(Structure):
    _fields_ = [
        ("version", Version),
        *((name, c_char_p) for name in ("id", "name", "vendor", "url", "manual", "support")),
        ("release", c_char_p),
        ("description", c_char_p),
        ("features", POINTER(c_char_p)),
    ]


class Host(Structure):
    _fields_ = [
        ("version", Version),
        ("data", c_void_p),
        ("name", c_char_p),
        ("vendor", c_char_p),
        ("url", c_char_p),
        ("release", c_char_p),
        ("get_extension", CFUNCTYPE(c_void_p, c_void_p, c_char_p)),
        ("request_restart", CFUNCTYPE(None, c_void_p)),
        ("request_process", CFUNCTYPE(None, c_void_p)),
        ("request_callback", CFUNCTYPE(None, c_void_p)),
    ]


class Header(Structure):
    _fields_ = [
        ("size", c_uint32),
        ("time", c_uint32),
        ("space_id", c_uint16),
        ("type", c_uint16),
        ("flags", c_uint32),
    ]


class ParamValue(Structure):
    _fields_ = [
        ("header", Header),
        ("param_id", c_uint32),
        ("cookie", c_void_p),
        ("note_id", c_int32),
        ("port_index", c_int16),
        ("channel", c_int16),
        ("key", c_int16),
        ("value", c_double),
    ]


SIZE = CFUNCTYPE(c_uint32, c_void_p)
GET = CFUNCTYPE(c_void_p, c_void_p, c_uint32)
PUSH = CFUNCTYPE(c_bool, c_void_p, c_void_p)


class InputEvents(Structure):
    _fields_ = [("ctx", c_void_p), ("size", SIZE), ("get", GET)]


class OutputEvents(Structure):
    _fields_ = [("ctx", c_void_p), ("try_push", PUSH)]


class AudioBuffer(Structure):
    _fields_ = [
        ("data32", POINTER(POINTER(c_float))),
        ("data64", c_void_p),
        ("channel_count", c_uint32),
        ("latency", c_uint32),
        ("constant_mask", c_uint64),
    ]


class Process(Structure):
    _fields_ = [
        ("steady_time", c_int64),
        ("frames_count", c_uint32),
        ("transport", c_void_p),
        ("inputs", POINTER(AudioBuffer)),
        ("outputs", POINTER(AudioBuffer)),
        ("n_inputs", c_uint32),
        ("n_outputs", c_uint32),
        ("in_events", POINTER(InputEvents)),
        ("out_events", POINTER(OutputEvents)),
    ]


class Plugin(Structure):
    _fields_ = [
        ("desc", POINTER(Descriptor)),
        ("data", c_void_p),
        ("init", CFUNCTYPE(c_bool, c_void_p)),
        ("destroy", CFUNCTYPE(None, c_void_p)),
        ("activate", CFUNCTYPE(c_bool, c_void_p, c_double, c_uint32, c_uint32)),
        ("deactivate", CFUNCTYPE(None, c_void_p)),
        ("start_processing", CFUNCTYPE(c_bool, c_void_p)),
        ("stop_processing", CFUNCTYPE(None, c_void_p)),
        ("reset", CFUNCTYPE(None, c_void_p)),
        ("process", CFUNCTYPE(c_int32, c_void_p, POINTER(Process))),
        ("get_extension", CFUNCTYPE(c_void_p, c_void_p, c_char_p)),
        ("on_main_thread", CFUNCTYPE(None, c_void_p)),
    ]


class Factory(Structure):
    _fields_ = [
        ("count", CFUNCTYPE(c_uint32, c_void_p)),
        ("descriptor", CFUNCTYPE(POINTER(Descriptor), c_void_p, c_uint32)),
        ("create", CFUNCTYPE(POINTER(Plugin), c_void_p, POINTER(Host), c_char_p)),
    ]


class PortInfo(Structure):
    _fields_ = [
        ("id", c_uint32),
        ("name", c_char * 256),
        ("flags", c_uint32),
        ("channel_count", c_uint32),
        ("port_type", c_char_p),
        ("in_place_pair", c_uint32),
    ]


class AudioPorts(Structure):
    _fields_ = [
        ("count", CFUNCTYPE(c_uint32, c_void_p, c_bool)),
        ("get", CFUNCTYPE(c_bool, c_void_p, c_uint32, c_bool, POINTER(PortInfo))),
    ]


class GetSamples(Structure):
    """The extensions latency and tail."""

    _fields_ = [("get", CFUNCTYPE(c_uint32, c_void_p))]


TRANSFER = CFUNCTYPE(c_int64, c_void_p, c_void_p, c_uint64)


class Stream(Structure):
    _fields_ = [("ctx", c_void_p), ("transfer", TRANSFER)]


class State(Structure):
    _fields_ = [
        ("save", CFUNCTYPE(c_bool, c_void_p, POINTER(Stream))),
        ("load", CFUNCTYPE(c_bool, c_void_p, POINTER(Stream))),
    ]


class ParamInfo(Structure):
    _fields_ = [
        ("id", c_uint32),
        ("flags", c_uint32),
        ("cookie", c_void_p),
        ("name", c_char * 256),
        ("module", c_char * 1024),
        ("minimum", c_double),
        ("maximum", c_double),
        ("default", c_double),
    ]


class Params(Structure):
    _fields_ = [
        ("count", CFUNCTYPE(c_uint32, c_void_p)),
        ("get_info", CFUNCTYPE(c_bool, c_void_p, c_uint32, POINTER(ParamInfo))),
        ("get_value", CFUNCTYPE(c_bool, c_void_p, c_uint32, POINTER(c_double))),
        (
            "value_to_text",
            CFUNCTYPE(c_bool, c_void_p, c_uint32, c_double, c_char_p, c_uint32),
        ),
        ("text_to_value", CFUNCTYPE(c_bool, c_void_p, c_uint32, c_char_p, POINTER(c_double))),
        ("flush", CFUNCTYPE(None, c_void_p, POINTER(InputEvents), POINTER(OutputEvents))),
    ]


class HostLatency(Structure):
    _fields_ = [("changed", CFUNCTYPE(None, c_void_p))]


class HostParams(Structure):
    _fields_ = [
        ("rescan", CFUNCTYPE(None, c_void_p, c_uint32)),
        ("clear", CFUNCTYPE(None, c_void_p, c_uint32, c_uint32)),
        ("request_flush", CFUNCTYPE(None, c_void_p)),
    ]


class Library:
    """A `.clap` file, opened."""

    def __init__(self, path):
        self.dll = ctypes.CDLL(str(path))
        self.entry = Entry.in_dll(self.dll, "clap_entry")
        assert self.entry.init(str(path).encode())
        address = self.entry.get_factory(b"clap.plugin-factory")
        assert self.entry.get_factory(b"clap.unknown") is None
        self.address = address
        self.factory = Factory.from_address(address)

    def descriptors(self):
        n = self.factory.count(self.address)
        assert not self.factory.descriptor(self.address, n)
        return [self.factory.descriptor(self.address, i).contents for i in range(n)]

    def create(self, plugin_id, extensions=True):
        """Create and initialise a plugin, whose host has extensions or has none."""
        return Instance(self.factory, self.address, plugin_id, extensions)


class Instance:
    """A plugin in its host; `calls` has what the plugin called, and on which thread."""

    def __init__(self, factory, address, plugin_id, extensions):
        self.calls = []
        self._latency = HostLatency(HostLatency._fields_[0][1](self._called("latency.changed")))
        self._params = HostParams(
            CFUNCTYPE(None, c_void_p, c_uint32)(self._called("params.rescan")),
            CFUNCTYPE(None, c_void_p, c_uint32, c_uint32)(self._called("params.clear")),
            CFUNCTYPE(None, c_void_p)(self._called("params.request_flush")),
        )
        known = {b"clap.latency": self._latency, b"clap.params": self._params}
        if not extensions:
            known = {}
        plain = CFUNCTYPE(None, c_void_p)
        self.host = Host(
            Version(1, 2, 2),
            None,
            b"tests",
            b"",
            b"",
            b"1",
            CFUNCTYPE(c_void_p, c_void_p, c_char_p)(
                lambda _, name: ctypes.addressof(known[name]) if name in known else None
            ),
            plain(self._called("request_restart")),
            plain(self._called("request_process")),
            plain(self._called("request_callback")),
        )
        self.pointer = factory.create(address, ctypes.byref(self.host), plugin_id)
        assert self.pointer
        self.plugin = self.pointer.contents
        assert self.plugin.init(self.pointer)
        self.params = self.extension("clap.params", Params)
        self.by_name = {info.name.decode(): info for info in self.infos()}

    def _called(self, name):
        return lambda _, *rest: self.calls.append((name, *rest, threading.get_ident()))

    def extension(self, name, structure):
        address = self.plugin.get_extension(self.pointer, name.encode())
        return structure.from_address(address) if address else None

    def infos(self):
        infos = [ParamInfo() for _ in range(self.params.count(self.pointer))]
        for index, info in enumerate(infos):
            assert self.params.get_info(self.pointer, index, ctypes.byref(info))
        assert not self.params.get_info(self.pointer, len(infos), ctypes.byref(ParamInfo()))
        return infos

    def value(self, name):
        value = c_double()
        assert self.params.get_value(self.pointer, self.by_name[name].id, ctypes.byref(value))
        return value.value

    def text(self, name, value, capacity=64):
        text = ctypes.create_string_buffer(b"\xff" * 64, 64)
        if not self.params.value_to_text(
            self.pointer, self.by_name[name].id, value, text, capacity
        ):
            return None
        return text.value.decode()

    def parsed(self, name, text):
        value = c_double()
        if not self.params.text_to_value(
            self.pointer, self.by_name[name].id, text.encode(), ctypes.byref(value)
        ):
            return None
        return value.value

    def samples(self, name):
        """Return what the extension `clap.latency` or `clap.tail` says."""
        return self.extension(f"clap.{name}", GetSamples).get(self.pointer)

    @contextmanager
    def events(self, changes):
        """Lists of events: inputs for (time, name or id, value), and an empty output."""
        made = [
            ParamValue(
                Header(ctypes.sizeof(ParamValue), time, 0, 5, 0),
                self.by_name[name].id if isinstance(name, str) else name,
                None, -1, -1, -1, -1, value,
            )
            for time, name, value in changes
        ]  # fmt: skip
        inputs = InputEvents(
            None, SIZE(lambda _: len(made)), GET(lambda _, i: ctypes.addressof(made[i]))
        )
        outputs = OutputEvents(None, PUSH(lambda *_: True))
        yield inputs, outputs

    def flush(self, *changes):
        with self.events(changes) as (inputs, outputs):
            self.params.flush(self.pointer, ctypes.byref(inputs), ctypes.byref(outputs))

    @contextmanager
    def active(self, sample_rate, max_frames=4096):
        assert self.plugin.activate(self.pointer, sample_rate, 1, max_frames)
        assert self.plugin.start_processing(self.pointer)
        yield self
        self.plugin.stop_processing(self.pointer)
        self.plugin.deactivate(self.pointer)

    def process(self, block, changes=(), *, in_place=False, constant_mask=0):
        """Process (channels, n) float32; return (channels, n)."""
        block = np.array(block, np.float32, order="C")
        out = block if in_place else np.full_like(block, 9.0)
        buffers = [self._buffer(x, constant_mask) for x in (block, out)]
        with self.events(changes) as (inputs, outputs):
            process = Process(
                -1, block.shape[1], None, ctypes.pointer(buffers[0][0]),
                ctypes.pointer(buffers[1][0]), 1, 1, ctypes.pointer(inputs),
                ctypes.pointer(outputs),
            )  # fmt: skip
            self.status = self.plugin.process(self.pointer, ctypes.byref(process))
        self.output_mask = buffers[1][0].constant_mask
        return out

    def _buffer(self, samples, constant_mask):
        rows = (POINTER(c_float) * len(samples))(
            *(row.ctypes.data_as(POINTER(c_float)) for row in samples)
        )
        return AudioBuffer(rows, None, len(samples), 0, constant_mask), rows

    def saved(self, step=3):
        """Return the state, taken `step` bytes at a time."""
        data = bytearray()

        def take(_, address, size):
            n = min(size, step)
            data.extend(ctypes.string_at(address, n))
            return n

        stream = Stream(None, TRANSFER(take))
        assert self.extension("clap.state", State).save(self.pointer, ctypes.byref(stream))
        return bytes(data)

    def load(self, data, step=5):
        """Load a state, given `step` bytes at a time; return whether it was taken."""
        left = bytearray(data)

        def give(_, address, size):
            part = bytes(left[: min(size, step)])
            del left[: len(part)]
            ctypes.memmove(address, part, len(part))
            return len(part)

        stream = Stream(None, TRANSFER(give))
        return self.extension("clap.state", State).load(self.pointer, ctypes.byref(stream))

    def close(self):
        self.plugin.destroy(self.pointer)
