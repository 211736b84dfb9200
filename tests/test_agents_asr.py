"""The word error rate benchmark: alignment, SNR, and what its table and remarks say."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from benchmarks.asr import Recogniser, mix, remarks, summary, tables, word_errors, words

ECHO = """
import json, struct, sys
print(json.dumps({"packages": ["echo 1.0"], "model": "none", "sha256": ""}), flush=True)
while len(head := sys.stdin.buffer.read(4)) == 4:
    n = struct.unpack("<I", head)[0]
    sys.stdin.buffer.read(4 * n)
    text = f"It's {n} -- samples!".encode()
    sys.stdout.buffer.write(struct.pack("<I", len(text)) + text)
    sys.stdout.buffer.flush()
"""


@pytest.mark.parametrize(
    ("reference", "found", "errors"),
    [
        ("a b c", "a b c", (0, 0, 0)),
        ("a b c", "a x c", (1, 0, 0)),
        ("a b c", "a c", (0, 1, 0)),
        ("a c", "a b c", (0, 0, 1)),
        ("a b c", "", (0, 3, 0)),
        ("", "a b", (0, 0, 2)),
        ("a b c d", "b c d e", (0, 1, 1)),
        ("one two three four", "one too four five", (1, 1, 1)),
    ],
)
def test_word_errors_are_those_of_the_cheapest_alignment(reference, found, errors):
    assert sum(word_errors(reference.split(), found.split())) == sum(errors)
    if reference != "one two three four":  # several alignments cost as much
        assert word_errors(reference.split(), found.split()) == errors


def test_words_have_no_punctuation_and_no_case():
    assert words("Mr. Quilter's well-known, 3 times!") == [
        "mr",
        "quilter's",
        "well",
        "known",
        "3",
        "times",
    ]


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 10.0])
def test_a_mixture_has_its_snr_and_does_not_clip(snr_db):
    rng = np.random.default_rng(0)
    speech, other = (rng.standard_normal((2, 8000)) * [[0.3], [0.01]]).astype(np.float32)
    mixture = mix(speech, other, snr_db)
    assert np.abs(mixture).max() <= 0.9001
    (a, b), *_ = np.linalg.lstsq(np.stack([speech, other], 1), mixture, rcond=None)
    ratio = (a * np.std(speech)) / (b * np.std(other))
    assert 20 * np.log10(ratio) == pytest.approx(snr_db, abs=0.1)


def test_a_recogniser_in_another_process_returns_words():
    recogniser = Recogniser("echo", sys.executable, [sys.executable, "-c", ECHO])
    assert recogniser(np.zeros(123, np.float32)) == ["it's", "123", "samples"]
    assert recogniser(np.zeros(4, np.float32)) == ["it's", "4", "samples"]
    recogniser.close()


def test_a_recogniser_that_is_not_there_says_what_to_install():
    reply = """import json; print(json.dumps({"error": "no module; pip install thing"}))"""
    with pytest.raises(SystemExit, match="pip install thing; give its interpreter with --python"):
        Recogniser("thing", sys.executable, [sys.executable, "-c", reply])


def test_the_remarks_say_where_unprocessed_wins():
    plain, worse, better = ([[10, errors, 0, 0]] * 5 for errors in (2, 4, 1))
    rows = {"unprocessed": plain, "strong": worse, "gentle": better}
    result = {
        "recogniser": {"name": "echo", "packages": ["echo 1.0"]},
        "speech": "set",
        "clips": list("abcde"),
        "conditions": {"clean": {name: summary(values, plain) for name, values in rows.items()}},
        "not_run": {"absent": "not installed"},
    }
    text = "\n".join(remarks(result))
    assert (
        "better than unprocessed: gentle -10.0. Unprocessed is better than: strong +20.0." in text
    )
    assert "not run: absent: not installed" in text
    [(_, columns, body)] = tables(result)
    assert columns == ["", "clean"]
    assert body == [
        ["unprocessed", "20.0 (0.0)"],
        ["strong", "40.0 (0.0)"],
        ["gentle", "10.0* (0.0)"],
    ]
