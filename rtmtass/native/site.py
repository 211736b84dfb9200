"""The static page of an export: the interface, and what tells it about the model beside it."""

from __future__ import annotations

import json
from pathlib import Path

from rtmtass import __version__
from rtmtass.config import STEMS
from rtmtass.errors import ModelError
from rtmtass.io.paths import quoted
from rtmtass.page import BACKEND, FILES, backend_module, path
from rtmtass.weights import Model

ABOUT = "about.json"
"""Read by `backend_browser.js` before anything else is loaded."""
_OF_A_SERVER = ("backend_server.js", "server_files.js")


def files(model: Model, name: str, model_file: str) -> dict[str, bytes]:
    """Return the page's files by name, without the engine.

    Args:
        model: that is exported.
        name: of the model.
        model_file: name of the `.rtm` file beside them.

    Raises:
        ModelError: the model has other stems than the page shows.
    """
    if model.config.stems != STEMS:
        raise ModelError(
            f"{name} has the stems {', '.join(model.config.stems)}; the page shows"
            f" {', '.join(STEMS)} (write such a model with --wasm FOLDER)"
        )
    about = {
        "version": __version__,
        "model": name,
        "file": model_file,
        "stems": model.config.stems,
        "sampleRate": model.config.stft.sample_rate,
    }
    texts = {file: path(file).read_bytes() for file in FILES if file not in _OF_A_SERVER}
    texts[BACKEND] = backend_module("browser").encode()
    texts[ABOUT] = f"{json.dumps(about)}\n".encode()
    return texts


def next_line(folder: Path) -> str:
    """Return how to try the page here, and what it needs elsewhere."""
    return (
        f"python -m http.server -d {quoted(folder)}, then open http://localhost:8000 (elsewhere by"
        " https, or browsers give no microphone)"
    )
