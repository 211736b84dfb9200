"""Training configs: every wrong value of every key is one line that names key, value and range."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import buzzing_corpus, config, write_toml

from rtmtass.cli.main import main
from rtmtass.config import NetConfig, StftConfig
from rtmtass.errors import RtmtassError, UsageError
from rtmtass.presets import PRESETS
from rtmtass.training import requirements
from rtmtass.training.branch import BranchOrder
from rtmtass.training.config import NET_RULES, RECIPE_RULES, STFT_RULES, TrainConfig
from rtmtass.training.config_values import Between, FieldRule, OneOf, Text, checked, rules_of
from rtmtass.training.data.recipe import Recipe
from rtmtass.training.preflight import check_run

TABLES: dict[str, tuple[type, dict[str, FieldRule]]] = {
    "train": (TrainConfig, rules_of(TrainConfig)),
    "net": (NetConfig, rules_of(NetConfig, NET_RULES)),
    "stft": (StftConfig, rules_of(StftConfig, STFT_RULES)),
    "recipe": (Recipe, rules_of(Recipe, RECIPE_RULES)),
}
FIELDS = [
    (table, item.name)
    for table, (kind, _) in TABLES.items()
    for item in dataclasses.fields(kind)
    if item.name not in ("net", "stft", "recipe", "pop_db", "level_db")
]
OF_ANOTHER_TYPE = {
    bool: ["1", '"yes"', "[]"],
    int: ["1.5", "nan", "inf", '"3"', "true", "[1]", "{ a = 1 }", "2026-11-27"],
    float: ['"3"', "true", "[1.0]", "{ a = 1 }", "2026-11-27T10:00:00"],
    str: ["3", "true", "[]", "{ a = 1 }"],
    tuple: ["3", '"3"', "true", "[1.5]", '["a"]', "[true]", "[nan]"],
}
"""TOML values that no field of a type accepts."""


def out_of_range(accepted: FieldRule) -> list[str]:
    """Return TOML values of the right type that a field doesn't accept."""
    rule, kind = accepted.rule, accepted.kind
    if isinstance(rule, OneOf):
        return ['""', '"nothing-known"', f'"{rule.known[0]} "', f'"{rule.known[0].upper()}"']
    if isinstance(rule, Text):
        return ['"' + "x" * 5000 + '"', '"a\\u0000b"']
    if not isinstance(rule, Between):
        return []
    wrong = ["-1", "-1000000", "1" + "0" * 30]
    if kind is float:
        wrong += ["nan", "inf", "-inf", "-0.001", "1e300"]
    wrong = [value for value in wrong if not rule.low <= float(value) <= rule.high]
    return [f"[1, {value}]" for value in wrong] + ["[]"] if kind is tuple else wrong


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "c.toml"


def message_for(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        TrainConfig.read(file)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 900
    return message


@pytest.mark.parametrize(("table", "key"), FIELDS)
def test_every_field_refuses_other_types_and_values(file: Path, table: str, key: str) -> None:
    accepted = TABLES[table][1][key]
    wrong = [*OF_ANOTHER_TYPE[accepted.kind], *out_of_range(accepted)]
    assert len(wrong) > 2
    for value in wrong:
        own = "" if key == "steps" else "steps = 1\n"
        of = "" if table == "train" else f"\n[{table}]\n"
        message = message_for(file, f"[train]\n{own}{of}{key} = {value}\n")
        assert f"{key} = " in message, value
        assert "; give " in message, value


@pytest.mark.parametrize(("table", "key"), FIELDS)
def test_every_field_accepts_its_default_and_its_limits(table: str, key: str) -> None:
    kind, rules = TABLES[table]
    default = getattr(kind(), key)
    values = [] if default is None else [default]
    if isinstance(rule := rules[key].rule, Between):
        ends = [rule.high] if rule.above else [rule.low, rule.high]
        values += [(end,) for end in ends] if rules[key].kind is tuple else ends
    if isinstance(rule, OneOf):
        values += rule.known
    for value in values or [True]:
        assert checked(value, rules[key], key) == value
    for make in PRESETS.values() if table in ("net", "stft") else ():
        checked(getattr(getattr(make(), table), key), rules[key], key)


def test_a_new_field_is_checked_by_its_annotation() -> None:
    @dataclasses.dataclass
    class Later:
        takes: int = 1
        share: float = 0.5
        is_loud: bool | None = None

    globals()["Later"] = Later
    for key, value in (("takes", "two"), ("takes", -1), ("share", math.nan), ("is_loud", 1)):
        with pytest.raises(UsageError, match=f"{key} = "):
            checked(value, rules_of(Later)[key], key)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("bach = 3", r"unknown keys in \[train\]: bach; remove .*: did you mean batch\?"),
        ("channels = 96", r": channels is a key of \[net\]"),
        ("net = { channels = 3 }", r": net is a table of its own, \[net\]"),
        ("[net]\nchanels = 96", r"in \[net\]: chanels; .*did you mean channels\?"),
        ("[stft]\nbatch = 3", r": batch is a key of \[train\]"),
        ("[nett]\nchannels = 96", r"unknown table \[nett\] \(did you mean net\?\); known tables"),
        ("[synthesis]", r"unknown table \[synthesis\]; known tables: \[train\], \[net\], \[stft\]"),
        ("preset = 'smal'", "preset = 'smal'; give one of: small, .*did you mean small"),
        ("device = 'mps'", "device = 'mps'; give cpu, cuda or cuda:N"),
        ("seconds = 600\nbatch = 1000", "batch = 1000 of 600 s"),
        ("name = 'x'\n[stft]\nn_fft = 1024",
         "band_bins must add up to 513, .* not 257; the preset gated takes any number"),
        ("name = 'x'\npreset = 'gated'\nseconds = 0.1\n[stft]\nn_fft = 4096\n"
         "synthesis = 4096\nhop = 2048",
         "seconds = 0.1, too short for this network; give 0.7"),
        ("name = 'x'\n[net]\nrecurrent = 0",
         "recurrent must be 1 or more .* set recurrent_layers to 0"),
        ("name = 'x'\n[stft]\nhop = 100", "got synthesis=512, hop=100"),
        ("singing = 0.5", r": singing is a key of \[recipe\]"),
        ("[recipe]\nlevel_db = [-40, -10]", r"unknown keys in \[recipe\]: level_db"),
        ("[recipe]\none_alone = 0.5\none_missing = 0.6",
         "one_alone, one_missing and all_silent add up to 1.11; give at most 1"),
    ],
)  # fmt: skip
def test_misplaced_and_misspelled_keys_are_explained(text: str, shown: str, file: Path) -> None:
    assert re.search(shown, message_for(file, f"[train]\nsteps = 1\n{text}\n"))


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"batch = 3", "batch outside of its table; move it below the line [train]"),
        (b"[[train]]\nsteps = 1", "write [train] on a line of its own"),
        (b"net = 3", "write [net] on a line of its own"),
        (b"[train]\nsteps = 1\n# \xe9t\xe9", "is not UTF-8 text (byte 0xe9 in line 3); save"),
        ("[train]\nsteps = 1".encode("utf-16"), "is not UTF-8 text (byte 0xff in line 1)"),
        (b"[train]\nsteps = \n", "not valid TOML: Invalid value (at line 2"),
        (b"[train]\nsteps = 1\nsteps = 2", "not valid TOML: Cannot overwrite a value"),
        (b"[train]\nsteps = 1" + b"0" * 5000, "a number of thousands of digits"),
        (b"x = " + b"[" * 5000, "too many brackets"),
        (b"#" * 2_000_000, "larger than 1000 kB"),
        (b"\x00\x01", "not valid TOML"),
        (b"", "neither minutes nor steps"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(data: bytes, shown: str, file: Path) -> None:
    file.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        TrainConfig.read(file)
    assert shown in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_or_a_name_that_no_file_has_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path, Path("a\x00b"), tmp_path / ("x" * 300)):
        with pytest.raises(UsageError, match=r"can't be read: .*; give a TOML file"):
            TrainConfig.read(path)


def test_byte_order_marks_and_line_ends_of_windows_are_read(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf[train]\r\nsteps = 3\r\nlearning_rate = 1\r\n")
    read = TrainConfig.read(file)
    assert (read.steps, read.learning_rate) == (3, 1.0)
    assert isinstance(read.learning_rate, float)


@pytest.mark.parametrize(("key", "value"), [("steps", -5), ("minutes", math.nan), ("device", "x")])
def test_options_are_checked_like_keys(key: str, value: Any, file: Path) -> None:
    file.write_text("[train]\nsteps = 3\n")
    with pytest.raises(UsageError, match=f"^--{key} = .*; give "):
        TrainConfig.read(file, **{key: value})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return buzzing_corpus(tmp_path_factory.mktemp("corpus"))


def occupied(folder: Path) -> str:
    (folder / "file").write_text("")
    return str(folder / "file" / "below")


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda _: {"corpus": "/none"}, "corpus = '/none': /none isn't a corpus"),
        (lambda _: {"packs": "/none"}, "packs = '/none' holds no packs"),
        (lambda f: {"cache": occupied(f)}, "cache = .*Not a directory; set cache to"),
        (lambda f: {"runs": occupied(f)}, "runs = .*Not a directory; set runs to"),
        (lambda _: {"teacher": "nobody"}, "teacher = 'nobody': unknown model"),
        (lambda _: {"start_from": "nobody"}, "start_from = 'nobody': unknown model"),
        (lambda _: {"net": {"recurrent_layers": 64, "recurrent": 8192, "channels": 8192}},
         r"\[net\]: .* more than 250 million parameters; give a smaller one"),
    ],
)  # fmt: skip
def test_what_this_computer_lacks_is_found_before_anything_slow(
    change: Any, shown: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(requirements, "fitted", lambda _: pytest.fail("too late"))
    run = dataclasses.replace(config(corpus, tmp_path / "run"), **change(tmp_path))
    write_toml(tmp_path / "c.toml", run)
    assert main(["train", str(tmp_path / "c.toml")]) in (1, 2)
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1
    assert re.search(f"rtmtass: {shown}", err)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this computer has CUDA")
def test_cuda_without_one_is_one_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_toml(tmp_path / "c.toml", config(corpus, tmp_path / "run", device="cuda"))
    assert main(["train", str(tmp_path / "c.toml")]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "can't use CUDA here" in err
    assert "add --device cpu" in err


def test_a_corpus_without_one_of_the_roles_says_which(corpus: Path, tmp_path: Path) -> None:
    rows = (corpus / "index.csv").read_text().splitlines()
    (tmp_path / "index.csv").write_text("\n".join(r for r in rows if "music,made,dev" not in r))
    with pytest.raises(RtmtassError, match=r"corpus = .* has no music for dev in its index\.csv"):
        check_run(config(tmp_path, tmp_path / "run"))


@pytest.mark.parametrize("length", [{"minutes": math.nan}, {"minutes": -5.0}, {"steps": -5}])
def test_the_length_of_a_branch_is_checked(length: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^--\w+ = .*; give 0 to 1,000,000,000"):
        BranchOrder(**length)
