"""Events: their time, printed once, counted; added from any thread."""

from __future__ import annotations

import threading

import pytest

from rtmtass.live.events import REPRINTED_S, EventLog, minutes


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def printed(log, **options):
    return [str(event) for event in log.unprinted(**options)]


def test_an_event_is_printed_once_with_its_time(clock):
    log = EventLog(clock)
    log.add("loaded")
    clock.now_s += 7
    log.begin()
    clock.now_s += 75.9
    log.add("the card is back")
    assert printed(log) == ["00:00 loaded", "01:15 the card is back"]
    assert printed(log) == []
    assert printed(log, is_last=True) == []


def test_an_event_that_recurs_is_counted_and_printed_again_after_a_minute(clock):
    log = EventLog(clock)
    log.add("stems were late")
    assert printed(log) == ["00:00 stems were late"]
    for _ in range(39):
        clock.now_s += 1
        log.add("stems were late")
        assert printed(log) == []
    assert [str(event) for event in log.latest(3)] == ["00:39 stems were late (40 times)"]
    clock.now_s += REPRINTED_S - 39
    assert printed(log) == ["00:39 stems were late (40 times)"]
    assert printed(log) == []
    log.add("stems were late")
    assert printed(log) == []
    assert printed(log, is_last=True) == ["01:00 stems were late (41 times)"]


def test_events_that_differ_in_numbers_are_one_kind(clock):
    log = EventLog(clock)
    log.add("suspended for 2.1 s")
    log.add("suspended for 31 s")
    assert printed(log) == ["00:00 suspended for 31 s (2 times)"]


def test_the_latest_come_last(clock):
    log = EventLog(clock)
    for text in "abcab":
        clock.now_s += 1
        log.add(text)
    assert [event.text for event in log.latest(2)] == ["a", "b"]
    assert [event.text for event in log.latest(9)] == ["c", "a", "b"]
    assert log.latest(0) == []


def test_events_are_added_from_many_threads():
    log = EventLog()

    def add():
        for _ in range(100):
            log.add("late")

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (event,) = log.unprinted()
    assert event.count == 800


def test_kinds_are_bounded(clock):
    log = EventLog(clock)
    for n in range(5000):
        log.add("x" * n)
    assert len(log.latest(5000)) <= 200


@pytest.mark.parametrize(("seconds", "text"), [(0, "00:00"), (59.99, "00:59"), (3661, "61:01"),
                                               (360000, "6000:00")])  # fmt: skip
def test_times_are_minutes_and_seconds(seconds, text):
    assert minutes(seconds) == text
