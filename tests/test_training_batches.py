"""The stream of examples: a batch is a function of seed and step and uses only its split."""

from __future__ import annotations

import importlib.util
from dataclasses import fields, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpora import TONES_HZ, hiss, level_db, make_corpus, share_at, tone, tones, write_index
from device_corpora import PLAIN, changed

from rtmtass.config import STEMS
from rtmtass.errors import DataError
from rtmtass.training.data import noises, synthesis
from rtmtass.training.data.batches import MixtureStream, Recipe
from rtmtass.training.data.corpus import Corpus
from rtmtass.training.data.examples import ExampleMaker
from rtmtass.training.data.loader import batches
from rtmtass.training.data.mixing import PEAK
from rtmtass.training.data.recordings import PendingRecording, Recordings, Sampler, store
from rtmtass.training.data.synthesis import BankPlan, prepare_banks
from rtmtass.types import SAMPLE_RATE, Doubles, Samples


def test_every_field_of_the_recipe_is_documented() -> None:
    for field in fields(Recipe):
        assert f"        {field.name}: " in (Recipe.__doc__ or ""), field.name


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("dataset")
    return Corpus(make_corpus(folder / "corpus"), folder / "cache")


@pytest.fixture
def fresh(corpus: Corpus, tmp_path: Path) -> Corpus:
    """The same recordings with a new cache, and so without banks."""
    return Corpus(corpus.folder, tmp_path / "cache")


@pytest.fixture
def pitched(tmp_path: Path) -> Corpus:
    """Every role and split has its own frequency."""
    return Corpus(make_corpus(tmp_path / "corpus", tones), tmp_path / "cache")


def bank(corpus: Corpus, name: str, n: int, hz: float = 3000.0, split: str = "train") -> None:
    """Write a bank of tones, or for rooms of a click and its echo; a larger `n` adds entries."""

    def load(number: int) -> Samples:
        if name == "rooms":
            return np.eye(1, 1700, dtype=np.float32)[0]
        return tone(hz + number, 2.0).astype(np.float32)

    items = [PendingRecording(name, f"{k}", f"{k}", partial(load, k)) for k in range(n)]
    store(corpus.cache / f"{name}-{split}", items, "made by hand")


def inline(corpus: Corpus, **options: object) -> MixtureStream:
    values = {"seconds": 0.5, "batch": 3, "seed": 7, "workers": 0, **options}
    return MixtureStream(corpus, "train", **values)  # type: ignore[arg-type]


def test_a_batch_is_a_function_of_seed_and_step(corpus: Corpus) -> None:
    one, two = inline(corpus), inline(corpus)
    forward = [one.batch(step) for step in range(4)]
    backward = [two.batch(step) for step in (3, 0, 2, 1)]
    for step, place in ((3, 0), (0, 1), (2, 2), (1, 3)):
        np.testing.assert_array_equal(forward[step], backward[place])
    assert forward[0].shape == (3, 3, 8000)
    assert forward[0].dtype == np.float32
    examples = {stems.tobytes() for batch in forward for stems in batch}
    assert len(examples) == 12
    assert not np.array_equal(inline(corpus, seed=8).batch(0), forward[0])
    listed = list(islice(batches(inline(corpus, stride=2), 1, 2), 2))
    np.testing.assert_array_equal(listed[1], forward[3])


def test_a_larger_batch_starts_with_the_smaller_one(corpus: Corpus) -> None:
    np.testing.assert_array_equal(
        inline(corpus, batch=5).batch(2)[:3], inline(corpus, batch=3).batch(2)
    )


def test_workers_make_the_same_batches(corpus: Corpus) -> None:
    plain = inline(corpus)
    with inline(corpus, workers=2, stride=2, prefetch=2) as stream:
        assert stream.fingerprint == plain.fingerprint
        for step in (1, 3, 5, 7, 2, 4, 4, 0):  # consecutive, then not
            np.testing.assert_array_equal(stream.batch(step), plain.batch(step))
    stream.close()


def test_a_failing_worker_reports_its_error(tmp_path: Path) -> None:
    corpus = Corpus(make_corpus(tmp_path / "corpus"), tmp_path / "cache")
    inline(corpus)
    (corpus.folder / "index.csv").unlink()  # this process has already read it
    with inline(corpus, workers=1) as stream:  # noqa: SIM117
        with pytest.raises(RuntimeError, match=r"(?s)a mixing process failed.*isn't a corpus"):
            stream.batch(0)


@pytest.mark.parametrize(("split", "other"), [("train", "dev"), ("dev", "train")])
def test_a_stream_uses_only_its_split(pitched: Corpus, split: str, other: str) -> None:
    with MixtureStream(
        pitched, split, seconds=0.5, batch=20, recipe=changed(second_piece=0.5), workers=0
    ) as stream:
        for stems in stream.batch(0):
            for role, stem in zip(STEMS, stems, strict=True):
                assert share_at(stem, TONES_HZ[role, split]) > 0.9
                assert share_at(stem, TONES_HZ[role, other]) < 1e-3


def test_a_stream_uses_the_banks_of_its_split(pitched: Corpus) -> None:
    bank(pitched, "generated", 3, hz=3000.0, split="train")
    bank(pitched, "generated", 3, hz=5000.0, split="dev")
    maker = ExampleMaker(pitched, "train", changed(generated_noise=1.0))
    noise = maker.make(8000, np.random.default_rng(0))[2]
    assert share_at(noise, 3000) > 0.98
    assert share_at(noise, 5000) < 1e-3


def statistics(corpus: Corpus, n: int = 700, recipe: Recipe | None = None) -> Samples:
    maker = ExampleMaker(corpus, "train", recipe)
    return np.stack([maker.make(4000, np.random.default_rng([5, k])) for k in range(n)])


def test_stems_are_absent_as_often_as_the_recipe_says(corpus: Corpus) -> None:
    recipe = replace(Recipe(), all_silent=0.03, one_alone=0.12, one_missing=0.2)
    stems = statistics(corpus, recipe=recipe)
    assert np.isfinite(stems).all()
    n_present = (np.abs(stems).max(axis=2) > 0).sum(axis=1)
    fractions = np.bincount(n_present, minlength=4) / len(stems)
    # 3 % silent, 12 % one alone, 20 % one missing, within three standard deviations.
    assert 0.01 < fractions[0] < 0.05
    assert fractions[1] == pytest.approx(0.12, abs=0.037)
    assert fractions[2] == pytest.approx(0.20, abs=0.045)
    absent = (np.abs(stems).max(axis=2) == 0).mean(axis=0)
    np.testing.assert_allclose(absent, 0.03 + 0.12 * 2 / 3 + 0.20 / 3, atol=0.043)


def test_levels_and_snrs_are_as_wide_as_the_recipe_says(corpus: Corpus) -> None:
    stems = statistics(corpus, recipe=replace(Recipe(), pop=0.0, paper_snr=0.55))
    mixtures = stems.sum(axis=1)
    assert np.abs(mixtures).max() <= PEAK + 1e-6
    levels = np.array([level_db(m) for m in mixtures if m.any()])
    assert -45.01 <= levels.min() < -44.0
    assert -11.5 < levels.max() <= -9.99
    assert np.mean(levels) == pytest.approx(-27.5, abs=1.3)
    assert np.std(levels) == pytest.approx(35 / 12**0.5, abs=0.8)
    whole = stems[(np.abs(stems).max(axis=2) > 0).all(axis=1)]
    powers = np.mean(whole.astype(np.float64) ** 2, axis=2)
    snrs = 10 * np.log10(powers[:, :1] / powers[:, 1:]).ravel()
    assert 17 < np.abs(snrs).max() <= 20.01
    # 55 % from U(-5, 5), the rest from N(0, 7).
    assert (np.abs(snrs) <= 5).mean() == pytest.approx(0.55 + 0.45 * 0.525, abs=0.04)
    assert np.mean(snrs) == pytest.approx(0.0, abs=0.6)


def pops(corpus: Corpus, **changes: object) -> tuple[Doubles, Doubles]:
    """Return the same examples without and with pops, at the same level."""
    recipe = changed(level_db=(-70.0, -60.0), **changes)  # quiet enough not to reach the peak limit
    calm, popping = (
        statistics(corpus, 150, replace(recipe, pop=share)).astype(np.float64)
        for share in (0.0, recipe.pop)
    )
    return calm, popping


def test_pops_are_noise_with_the_recipes_probability_and_level(corpus: Corpus) -> None:
    calm, popping = pops(corpus, pop=0.3)
    pop = popping - calm
    np.testing.assert_allclose(pop[:, :2], 0.0, atol=1e-9)
    # Pops are drawn last, so nothing else differs.
    has_pop = np.abs(pop[:, 2]).max(axis=1) > 0
    assert has_pop.mean() == pytest.approx(0.3, abs=0.11)
    rms = np.sqrt(np.mean(calm.sum(axis=1) ** 2, axis=1))
    peaks_db = 20 * np.log10(np.abs(pop[has_pop, 2]).max(axis=1) / rms[has_pop])
    assert 15.0 - 0.01 <= peaks_db.min() < 18.0
    assert 37.0 < peaks_db.max() <= 40.0 + 0.01
    assert np.mean(peaks_db) == pytest.approx(27.5, abs=3 * 25 / 12**0.5 / has_pop.sum() ** 0.5)


def test_a_pop_is_short_and_decays(corpus: Corpus) -> None:
    calm, popping = pops(corpus, pop=1.0)
    lengths, tails = [], []
    for pop in (popping - calm)[:, 2]:
        (place,) = np.nonzero(pop)
        burst = pop[place[0] : place[-1] + 1]
        lengths.append(len(burst) / SAMPLE_RATE)
        tails.append(level_db(burst[-len(burst) // 4 :]) - level_db(burst))
    assert 0.018 < min(lengths) < 0.03
    assert max(lengths) == pytest.approx(0.25, abs=0.01)  # the length of an example
    assert np.median(tails) < -30


def test_pops_occur_without_other_noise_but_never_in_silence(corpus: Corpus) -> None:
    _, alone = pops(corpus, pop=1.0, one_missing=1.0)
    assert (np.abs(alone[:, 2]).max(axis=1) > 0).all()
    _, silent = pops(corpus, pop=1.0, all_silent=1.0)
    assert not silent.any()


def test_a_pop_never_exceeds_full_scale(corpus: Corpus) -> None:
    stems = statistics(corpus, 60, changed(pop=1.0, level_db=(-12.0, -10.0)))
    peaks = np.abs(stems.sum(axis=1)).max(axis=1)
    assert peaks.max() <= PEAK + 1e-6
    assert np.median(peaks) == pytest.approx(PEAK, abs=1e-5)


@pytest.mark.parametrize(
    ("share", "present"), [("all_silent", 0), ("one_alone", 1), ("one_missing", 2)]
)
def test_a_recipe_of_one_augmentation_applies_only_that(
    corpus: Corpus, share: str, present: int
) -> None:
    stems = statistics(corpus, 20, changed(**{share: 1.0}))
    assert ((np.abs(stems).max(axis=2) > 0).sum(axis=1) == present).all()


def test_a_nearly_silent_stem_is_muted(tmp_path: Path) -> None:
    def make(role: str, split: str, take: int) -> np.ndarray:
        hush = hiss(6.0, 1, 1e-4)
        hush[:32000] = hiss(2.0, 2, 0.2)
        return hush if role == "noise" else hiss(2.0)

    corpus = Corpus(make_corpus(tmp_path / "corpus", make), tmp_path / "cache")
    silent = [not stems[2].any() for stems in statistics(corpus, 60, PLAIN)]
    assert 25 < sum(silent) < 50


def everything(share: float) -> Recipe:
    values = {f.name: share for f in fields(Recipe) if f.type == "float"}
    calm = {"one_alone": 0.0, "one_missing": 0.0, "all_silent": 0.0}
    return Recipe(**{**values, **calm, "snr_spread_db": 7.0, "widest_snr_db": 20.0})  # type: ignore[arg-type]


def test_all_augmentations_together_give_valid_samples(fresh: Corpus) -> None:
    for name in ("singing", "generated", "rooms", "revoiced"):
        bank(fresh, name, 4)
    for share in (1.0, 0.5):
        stems = statistics(fresh, 40, everything(share))
        assert np.isfinite(stems).all()
        assert (np.abs(stems).max(axis=2) > 0).mean() > 0.95
        assert np.abs(stems.sum(axis=1)).max() <= PEAK + 1e-6


@pytest.mark.parametrize(
    ("name", "share", "stem"),
    [("generated", "generated_noise", 2), ("singing", "singing", 1), ("revoiced", "revoiced", 0)],
)
def test_a_bank_is_used_in_its_own_stem(pitched: Corpus, name: str, share: str, stem: int) -> None:
    bank(pitched, name, 3)
    for stems in statistics(pitched, 5, changed(**{share: 1.0})):
        detected = [share_at(s, 3001, 60) > 0.4 for s in stems]
        assert detected == [place == stem for place in range(3)]


def with_singers(folder: Path, *splits: str) -> Path:
    """Write a corpus of tones with recorded singing at 2300 Hz."""
    lines = (make_corpus(folder, tones) / "index.csv").read_text().splitlines()[1:]
    rows: list[list[object]] = [[*line.split(",")] for line in lines]
    for split in splits:
        sound = tone(2300.0, 1.5) + hiss(1.5, 0, 0.002)
        soundfile.write(folder / f"song-{split}.wav", sound, SAMPLE_RATE)
        rows.append(["singing", "s", "a", split, f"song-{split}.wav", 1.5, "CC0", "A"])
    write_index(folder, rows)
    return folder


def sung_shares(corpus: Corpus, recipe: Recipe, n: int = 200) -> tuple[float, float]:
    """Return the fractions of examples with synthetic and with recorded singing."""
    detected = np.array(
        [
            # Recorded singing is played at 0.8 to 1.25 times its speed.
            [share_at(music, 3050.0, 60.0), share_at(music, 2360.0, 530.0)]
            for music in statistics(corpus, n, recipe)[:, 1]
        ]
    )
    synthetic, recorded = (detected > 0.4).mean(axis=0)
    return float(synthetic), float(recorded)


def test_recorded_singing_has_its_probability_and_its_own_cache(tmp_path: Path) -> None:
    corpus = Corpus(with_singers(tmp_path / "corpus", "train"), tmp_path / "cache")
    bank(corpus, "singing", 3)
    before = (corpus.cache / "singing-train.i16").read_bytes()
    recipe = changed(singing=0.6, recorded_singing=0.4)
    synthetic, recorded = sung_shares(corpus, recipe)
    assert synthetic == pytest.approx(0.6 * 0.6, abs=0.1)
    assert recorded == pytest.approx(0.6 * 0.4, abs=0.09)
    assert (corpus.cache / "singing-train.i16").read_bytes() == before
    assert Recordings(corpus.cache / "recorded-singing-train").rows[0].source == "s"
    assert ExampleMaker(corpus, "train", recipe).bank_sizes["singing"] == 3


def test_without_the_bank_all_singing_is_recorded(tmp_path: Path) -> None:
    corpus = Corpus(with_singers(tmp_path / "corpus", "train"), tmp_path / "cache")
    synthetic, recorded = sung_shares(corpus, changed(singing=0.5, recorded_singing=0.1), 120)
    assert synthetic == 0.0
    assert recorded == pytest.approx(0.5, abs=0.14)


def test_without_recorded_singing_all_singing_is_synthetic(tmp_path: Path) -> None:
    corpus = Corpus(with_singers(tmp_path / "corpus", "dev"), tmp_path / "cache")
    assert corpus.has("singing", "dev")
    assert not corpus.has("singing", "train")
    recipe = changed(singing=0.5, recorded_singing=0.9)
    assert sung_shares(corpus, recipe, 20) == (0.0, 0.0)
    bank(corpus, "singing", 3)
    synthetic, recorded = sung_shares(corpus, recipe, 120)
    assert synthetic == pytest.approx(0.5, abs=0.14)
    assert recorded == 0.0
    assert not (corpus.cache / "recorded-singing-train.i16").exists()


def test_recorded_singing_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    prints = {
        inline(
            Corpus(with_singers(tmp_path / name, *splits), tmp_path / f"{name} cache")
        ).fingerprint
        for name, splits in (("without", ()), ("with", ("train",)))
    }
    assert len(prints) == 2


def test_bank_sizes_pin_the_entries_in_use(fresh: Corpus) -> None:
    recipe = changed(generated_noise=1.0)
    bank(fresh, "generated", 3)
    before = inline(fresh, recipe=recipe)
    batches = [before.batch(step) for step in range(4)]
    assert before.bank_sizes["generated"] == 3
    bank(fresh, "generated", 9)
    free = inline(fresh, recipe=recipe)
    assert free.bank_sizes["generated"] == 9
    assert free.fingerprint != before.fingerprint
    assert any(not np.array_equal(free.batch(k), batches[k]) for k in range(4))
    pinned = inline(fresh, recipe=recipe, bank_sizes=before.bank_sizes)
    assert pinned.fingerprint == before.fingerprint
    assert pinned.bank_sizes == before.bank_sizes
    for step in range(4):
        np.testing.assert_array_equal(pinned.batch(step), batches[step])


def test_a_bank_pinned_to_nothing_isnt_used(pitched: Corpus) -> None:
    recipe = changed(generated_noise=1.0)
    before = inline(pitched, recipe=recipe)
    assert before.bank_sizes == dict.fromkeys(("singing", "generated", "rooms", "revoiced"), 0)
    bank(pitched, "generated", 3)
    pinned = inline(pitched, recipe=recipe, bank_sizes=before.bank_sizes)
    np.testing.assert_array_equal(pinned.batch(0), before.batch(0))
    assert pinned.fingerprint == before.fingerprint
    assert not np.array_equal(inline(pitched, recipe=recipe).batch(0), before.batch(0))


def test_another_recipe_is_another_stream(corpus: Corpus) -> None:
    prints = {inline(corpus, recipe=r).fingerprint for r in (None, PLAIN, changed(tilt=0.1))}
    assert len(prints) == 3
    assert inline(corpus).fingerprint == inline(corpus, recipe=Recipe(), seed=1).fingerprint


def test_a_missing_role_is_an_error(corpus: Corpus, tmp_path: Path) -> None:
    index = (corpus.folder / "index.csv").read_text().splitlines()
    folder = make_corpus(tmp_path / "corpus")
    (folder / "index.csv").write_text("\n".join(line for line in index if "music" not in line))
    with pytest.raises(DataError, match="no music for train"):
        inline(Corpus(folder, tmp_path / "cache"))


# --- banks -------------------------------------------------------------------------------------


@pytest.fixture
def short_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "ITEM_S", 1.5)


def table(path: Path) -> list[tuple[str, int, int]]:
    return [(row.path, row.start, row.length) for row in Recordings(path).rows]


def test_a_larger_plan_only_adds_to_a_bank(fresh: Corpus, short_items: None) -> None:
    calls: list[tuple[str, int, int]] = []
    plans = [
        BankPlan(singing_minutes=0, revoiced_minutes=0, generated_minutes=k * 1.5 / 60, rooms=k)
        for k in (2, 4)
    ]
    caches = [fresh.cache / "small", fresh.cache / "large"]
    for cache, made in zip(caches, (plans, plans[1:]), strict=True):
        for plan in made:
            prepare_banks(
                Corpus(fresh.folder, cache),
                "train",
                plan,
                seed=3,
                progress=lambda *a: calls.append(a),
            )
    for name in ("generated-train", "rooms-train"):
        grown, at_once = (cache / f"{name}.i16" for cache in caches)
        assert grown.read_bytes() == at_once.read_bytes()
        assert len(table(caches[0] / name)) == 4
    generated = [call for call in calls if call[0] == "generated-train"]
    assert generated[:4] == [("generated-train", k, n) for k, n in ((1, 2), (2, 2), (3, 4), (4, 4))]
    assert not (caches[0] / "singing-train.jsonl").exists()


def test_banks_differ_by_seed_and_split(fresh: Corpus, short_items: None) -> None:
    plan = BankPlan(singing_minutes=0, revoiced_minutes=0, generated_minutes=1.5 / 60, rooms=1)
    sounds = set()
    for seed, split in ((0, "train"), (0, "dev"), (1, "train")):
        cache = fresh.cache / f"{seed}{split}"
        prepare_banks(Corpus(fresh.folder, cache), split, plan, seed=seed)
        for name in ("generated", "rooms"):
            sounds.add((cache / f"{name}-{split}.i16").read_bytes())
    assert len(sounds) == 6


@pytest.mark.skipif(
    importlib.util.find_spec("pyworld") is None,
    reason="the package pyworld isn't installed: pip install 'rtmtass[train]'",
)
def test_banks_of_voices_are_made_from_speech(fresh: Corpus, short_items: None) -> None:
    plan = BankPlan(
        singing_minutes=1.5 / 60, revoiced_minutes=1.5 / 60, generated_minutes=0, rooms=0
    )
    prepare_banks(fresh, "dev", plan)
    for name in ("singing", "revoiced"):
        made = fresh.bank(name, "dev")
        assert made is not None
        assert 0.8 < made.seconds < 1.6
        assert made.rows[0].source == name
        assert fresh.bank(name, "dev", 0) is None
        assert fresh.bank(name, "train") is None


def test_a_plan_converts_minutes_to_entries() -> None:
    plan = BankPlan(singing_minutes=0.1, revoiced_minutes=1.0, generated_minutes=0.0, rooms=7)
    assert plan.counts() == {"singing": 1, "revoiced": 5, "generated": 0, "rooms": 7}


def test_generated_noise_uses_every_kind(
    corpus: Corpus, short_items: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[str] = []

    def recorded(kind: str, make: noises.Maker) -> noises.Maker:
        def make_and_record(n: int, rng: np.random.Generator) -> Samples:
            kinds.append(kind)
            return make(n, rng)

        return make_and_record

    for name, make in noises.MAKERS.items():
        monkeypatch.setitem(noises.MAKERS, name, recorded(name, make))
    sampler = Sampler(corpus.recordings("speech", "train"))
    for seed in range(60):
        sound = synthesis.make_noise(sampler, np.random.default_rng(seed))
        assert sound.shape == (24000,)
        assert np.isfinite(sound).all()
    assert set(kinds) == set(noises.MAKERS)
    assert 50 < len(kinds) < 78  # of 60 × 1.3 draws, a sixth is babble


def test_codecs_are_applied_with_their_probability(corpus: Corpus) -> None:
    plain, coded, again = (
        ExampleMaker(corpus, "train", recipe).make(16000, np.random.default_rng(5))
        for recipe in (PLAIN, changed(coded=1.0), changed(coded=1.0))
    )
    np.testing.assert_array_equal(coded, again)
    # The codec's draws change those of the later stems.
    assert (plain[0] != coded[0]).any()
    assert np.corrcoef(plain[0], coded[0])[0, 1] > 0.5
