"""Read-only corpora, built once per session and shared by several test files."""

from __future__ import annotations

import pytest
from corpora import make_corpus, tones
from device_corpora import fill_banks, write_rich_corpus

from rtmtass.training.data.corpus import Corpus


@pytest.fixture(scope="session")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus with recordings of every kind, and banks."""
    folder = tmp_path_factory.mktemp("rich")
    corpus = Corpus(write_rich_corpus(folder / "corpus"), folder / "cache")
    fill_banks(corpus)
    return corpus


@pytest.fixture(scope="session")
def pitched(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus of tones, one frequency per role and split, without banks."""
    folder = tmp_path_factory.mktemp("pitched")
    return Corpus(make_corpus(folder / "corpus", tones), folder / "cache")
