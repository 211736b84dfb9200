"""Runs the command line: as `rtmtass`, and as `python -m rtmtass`."""

import signal
import threading

if (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    # Until the command handles it: an import that Ctrl-C interrupts would print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from rtmtass.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
