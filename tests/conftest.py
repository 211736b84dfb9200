"""Corpora that several files of tests read and none writes: made once for all of them."""

from __future__ import annotations

import pytest
from corpora import make_corpus, tones
from device_corpora import fill_banks, write_rich_corpus

from rtmtass.training.data.corpus import Corpus


@pytest.fixture(scope="session")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Some of everything, banks included."""
    folder = tmp_path_factory.mktemp("rich")
    corpus = Corpus(write_rich_corpus(folder / "corpus"), folder / "cache")
    fill_banks(corpus)
    return corpus


@pytest.fixture(scope="session")
def pitched(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Every role and split has its own frequency; there are no banks."""
    folder = tmp_path_factory.mktemp("pitched")
    return Corpus(make_corpus(folder / "corpus", tones), folder / "cache")
