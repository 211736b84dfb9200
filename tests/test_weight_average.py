"""Weight averaging: values, training record and errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from runs import NET, buzzing_corpus, config

from rtmtass.cli.main import main
from rtmtass.errors import DataError, ModelError, UsageError
from rtmtass.training.card import _trained
from rtmtass.training.train import train
from rtmtass.training.weight_average import average_weights
from rtmtass.weights import describe, open_model


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("pair")
    corpus = buzzing_corpus(folder)
    first = train(config(corpus, folder / "a", steps=2), lambda _: None)
    begun = config(corpus, folder / "b", steps=3, start_from=str(first))
    return str(train(begun, lambda _: None)), str(first)


def test_the_mean_is_weighted_and_recorded(pair: tuple[str, str], tmp_path: Path) -> None:
    assert main(["average", *pair, "--share", "0.25", "-o", str(tmp_path / "mean")]) == 0
    one, two, mean = (open_model(m) for m in (*pair, str(tmp_path / "mean")))
    for name, value in mean.weights.items():
        expected = 0.75 * one.weights[name] + 0.25 * two.weights[name]
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)
    assert any(not np.array_equal(mean.weights[n], one.weights[n]) for n in mean.weights)
    training = describe(tmp_path / "mean")[1]["training"]
    assert training["steps"] == 3
    assert training["averaged_with"] == {"unreleased": 0.25}
    assert "a mean of the last run's and 25% those of unreleased" in _trained(training, True)[0]


def test_invalid_averages_are_rejected(pair: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="share is 2; give 0 to 1"):
        average_weights(*pair, 2, tmp_path)
    with pytest.raises(UsageError, match="holds one of the two"):
        average_weights(*pair, 0.5, Path(pair[0]))
    with pytest.raises(ModelError):
        average_weights(pair[0], "nobody", 0.5, tmp_path)
    corpus = buzzing_corpus(tmp_path)
    wider = config(corpus, tmp_path / "w", steps=1, net={**NET, "channels": 8})
    with pytest.raises(DataError, match="different networks"):
        average_weights(pair[0], str(train(wider, lambda _: None)), 0.5, tmp_path / "out")
