"""Every way rtmtass can tell its user that something of theirs is wrong.

    RtmtassError                 caught at the door: one line, exit 1
    ├── UsageError               the command or call itself is wrong: exit 2
    │   └── BlockSizeError       a block of a length the callee can't take (also a ValueError)
    ├── InputError               what was handed in can't be read or isn't finite sound
    ├── OutputError              what should be written can't be: disk, rights, name taken
    ├── ModelError               weights missing, altered, or not of this network
    ├── DataError                training or evaluation data unusable
    ├── DeviceError              no such device, ambiguous, unplugged, wrong rate, out of memory
    └── MissingPartError         an optional package or system library is not installed

Each message says what was given, what was expected or found, and what to type
next. A bug is never one of these: it keeps its traceback.
"""


class RtmtassError(Exception):
    """Something in the user's world is wrong; `str(error)` is fit to show."""

    exit_code = 1


class UsageError(RtmtassError):
    """The command line or the call can't mean anything."""

    exit_code = 2


class BlockSizeError(UsageError, ValueError):
    """A block has a shape or length the callee can't take."""


class InputError(RtmtassError):
    """The input can't be read, is empty, or holds samples that aren't finite."""


class OutputError(RtmtassError):
    """The output can't be written where it was asked for."""


class ModelError(RtmtassError):
    """The weights are missing, were altered, or belong to another network."""


class DataError(RtmtassError):
    """Training or evaluation data can't be used."""


class DeviceError(RtmtassError):
    """A device, for sound or for computing, is missing, ambiguous, gone or too small."""


class MissingPartError(RtmtassError):
    """An optional package or system library is not installed."""
