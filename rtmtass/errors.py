"""The exceptions that rtmtass raises for errors in its user's input or environment.

    RtmtassError                 base class; the command line prints one line and exits with 1
    ├── UsageError               invalid command line or call; exit 2
    │   └── BlockSizeError       a block of the wrong shape or length (also a ValueError)
    ├── InputError               input unreadable, empty or not finite
    ├── OutputError              output not writable: disk full, no permission, name taken
    ├── ModelError               weights or config missing, altered or mismatched
    ├── DataError                training or evaluation data unusable
    ├── DeviceError              device missing, ambiguous, unplugged, wrong rate, out of memory
    └── MissingPartError         an optional package or system library is not installed

Each message says what was given, what was expected or found, and what to type
next. A bug in rtmtass never raises one of these, so it keeps its traceback.
"""


class RtmtassError(Exception):
    """An error in the user's input or environment; `str(error)` is fit to show."""

    exit_code = 1


class UsageError(RtmtassError):
    """The command line or the call is invalid."""

    exit_code = 2


class BlockSizeError(UsageError, ValueError):
    """A block has the wrong shape or length."""


class InputError(RtmtassError):
    """The input can't be read, is empty, or contains NaN or Inf."""


class OutputError(RtmtassError):
    """The output can't be written."""


class ModelError(RtmtassError):
    """A model's weights or config are missing, altered or don't match."""


class DataError(RtmtassError):
    """Training or evaluation data can't be used."""


class DeviceError(RtmtassError):
    """An audio or compute device is missing, ambiguous, unplugged or out of memory."""


class MissingPartError(RtmtassError):
    """An optional package or system library is not installed."""
