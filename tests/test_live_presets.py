"""Gains by name: saved and loaded exactly; bad names and files are one clear line."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import pytest

from rtmtass.config import STEMS
from rtmtass.errors import InputError, OutputError, UsageError
from rtmtass.live.presets import BUILT_IN, check_name, folder, load_gains, names, save_gains

VARIABLE = "APPDATA" if sys.platform == "win32" else "XDG_CONFIG_HOME"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "config"))
    return tmp_path / "config" / "rtmtass" / "gains"


def test_saved_gains_are_loaded_as_they_were(home):
    gains_db = {"speech": 0.0, "music": -12.5, "noise": -math.inf}
    path = save_gains("evening_2", gains_db)
    assert path == home / "evening_2.json"
    assert path.read_text() == '{"speech": 0.0, "music": -12.5, "noise": "-inf"}\n'
    assert load_gains("evening_2") == gains_db
    save_gains("evening_2", {"speech": 3.0})
    assert load_gains("evening_2") == {"speech": 3.0}
    assert names() == [*BUILT_IN, "evening_2"]
    assert [p.name for p in home.iterdir()] == ["evening_2.json"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_gains_cover_all_stems_and_keep_speech(name):
    assert set(load_gains(name)) == set(STEMS)
    assert load_gains(name)["speech"] == 0
    with pytest.raises(UsageError, match=f"{name} is built in; .* --save-gains my-{name}"):
        save_gains(name, {"speech": 0.0})
    check_name(f"my-{name}")


def test_without_a_home_directory_the_variable_to_set_is_named(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(Path, "home", classmethod(no_home))
    assert names() == list(BUILT_IN)
    with pytest.raises(InputError, match="set XDG_CONFIG_HOME to a folder"):
        save_gains("mine", {"speech": 0.0})


def no_home(_: type[Path]) -> Path:
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc/x", "a b", "-a", "é", "a\n",
                                  "a\0", "x" * 41, "con.json", "a\\b"])  # fmt: skip
def test_a_name_that_could_be_a_path_is_refused(name, home):
    with pytest.raises(UsageError, match="can't be saved as"):
        save_gains(name, {"speech": 0.0})
    with pytest.raises(UsageError, match=r"no gains are saved as .*known are voice, no-music"):
        load_gains(name)
    assert not home.exists()


@pytest.mark.parametrize(("content", "why"), [
    (b"", "it isn't JSON"),
    (b"{", "it isn't JSON"),
    (b"\xff\xfe", "it isn't JSON"),
    (b"[" * 4000, "it isn't JSON"),
    (b"[]", "it isn't an object"),
    (b"3", "it isn't an object"),
    (b'{"vocals": 0}', "unknown stem 'vocals'"),
    (b'{"speech": "loud"}', "speech is 'loud', not a number"),
    (b'{"speech": true}', "speech is True, not a number"),
    (b'{"speech": NaN}', "speech is nan, not -200 to 20 dB"),
    (b'{"speech": Infinity}', "speech is inf, not -200 to 20 dB"),
    (b'{"speech": 1e999}', "speech is inf, not -200 to 20 dB"),
    (b'{"speech": 99}', "speech is 99, not -200 to 20 dB"),
    (b'{"speech": [0]}', r"speech is \[0\], not a number"),
    (b" " * 5000, "it is longer than 4096 bytes"),
])  # fmt: skip
def test_a_bad_file_is_named_in_one_line(content, why, home):
    home.mkdir(parents=True)
    (home / "bad.json").write_bytes(content)
    with pytest.raises(InputError, match=f"bad.json doesn't hold gains: {why}") as caught:
        load_gains("bad")
    assert "\n" not in str(caught.value)
    save_gains("good", {"speech": 0.0})
    assert load_gains("good") == {"speech": 0.0}


def test_a_folder_of_that_name_is_named(home):
    (home / "bad.json").mkdir(parents=True)
    with pytest.raises(InputError, match=r"bad.json can't be read: "):
        load_gains("bad")


@pytest.mark.parametrize("base", ["", "relative/folder"])
def test_a_config_folder_that_is_not_absolute_is_ignored(base, monkeypatch):
    monkeypatch.setenv(VARIABLE, base)
    assert folder().parts[-3:] == (".config", "rtmtass", "gains")
    assert folder().is_absolute()


def test_an_unwritable_config_folder_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"the gains can't be saved to .*: Not a directory; "):
        save_gains("evening", {"speech": 0.0})
    assert names() == list(BUILT_IN)


def test_a_full_disk_keeps_what_was_saved(home, monkeypatch):
    save_gains("evening", {"speech": 1.0})

    def fail(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match="No space left"):
        save_gains("evening", {"speech": 2.0})
    assert load_gains("evening") == {"speech": 1.0}
    assert [p.name for p in home.iterdir()] == ["evening.json"]


def test_saving_follows_no_link(home, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("kept")
    home.mkdir(parents=True)
    (home / "evening.json").symlink_to(victim)
    save_gains("evening", {"speech": 1.0})
    assert victim.read_text() == "kept"
    assert load_gains("evening") == {"speech": 1.0}
