"""What is known of keys is given only where it is all there is to know, and where it pays."""

from __future__ import annotations

from gateway.credits import known_keys
from gateway.credits.known_keys import PAUSE_GROWTH, PAUSE_SECONDS, PAUSE_SECONDS_MAX, TRUSTED_AFTER, KnownKeys
from gateway.credits.store import CAPPED, Wanted


def row(number, secret, *, capped=0):
    key = [number, f"key_{number}", "u", 10, 0, 1, None, None, None, secret, "", capped, 700 + number]
    assert key[CAPPED] == capped
    return key


class Time:
    now = 1_000.0

    def __call__(self):
        return self.now


def known(*rows, clock=None):
    keys = KnownKeys(clock or Time())
    keys.learn(rows)
    return keys


def test_keys_are_found_by_number_and_by_secret_all_or_none():
    one, two = row(1, b"1"), row(2, b"2")
    keys = known(one, two)
    assert keys.find(Wanted({1}, {b"2"})) == {1: one, 2: two}
    assert keys.find(Wanted({1}, {b"1"})) == {1: one}
    assert keys.find(Wanted({1, 3}, set())) is None
    assert keys.find(Wanted(set(), {b"1", b"3"})) is None


def test_a_secret_that_the_key_no_longer_has_is_looked_up_in_the_database():
    keys = known(row(1, b"old"))
    keys.learn([row(1, b"new")])
    assert keys.find(Wanted(set(), {b"old"})) is None
    assert keys.find(Wanted(set(), {b"new"})) == {1: row(1, b"new")}


def test_a_key_with_a_spend_cap_has_more_to_it_than_its_row():
    keys = known(row(1, b"1", capped=1))
    assert keys.find(Wanted({1}, set())) is None
    assert keys.find(Wanted(set(), {b"1"})) is None


def test_what_is_forgotten_is_not_known():
    keys = known(row(1, b"1"))
    keys.forget()
    assert keys.find(Wanted({1}, set())) is None
    assert keys.find(Wanted(set(), {b"1"})) is None


def test_the_number_of_keys_is_bounded(monkeypatch):
    monkeypatch.setattr(known_keys, "KNOWN_MAX", 3)
    keys = known()
    for number in range(20):
        keys.learn([row(number, bytes([number]))])
        assert len(keys._rows) <= 3
        assert len(keys._numbers) <= 3
        assert keys.find(Wanted({number}, {bytes([number])})) is not None


def test_the_more_often_others_change_keys_the_more_rarely_it_is_tried():
    clock = Time()
    keys = known(row(1, b"1"), clock=clock)
    pause = PAUSE_SECONDS
    for _ in range(12):
        assert keys.find(Wanted({1}, set())) is not None
        keys.on_wrong()
        clock.now += pause * 0.99
        assert keys.find(Wanted({1}, set())) is None
        clock.now += pause * 0.02
        pause = min(PAUSE_SECONDS_MAX, pause * PAUSE_GROWTH)
    assert pause == PAUSE_SECONDS_MAX


def test_who_was_undisturbed_for_long_is_trusted_again():
    clock = Time()
    keys = known(row(1, b"1"), clock=clock)
    for _ in range(12):
        keys.on_wrong()
    for _ in range(TRUSTED_AFTER - 1):
        keys.on_right()
    keys.on_wrong()
    clock.now += PAUSE_SECONDS_MAX - 1
    assert keys.find(Wanted({1}, set())) is None, "it was disturbed just in time"
    for _ in range(TRUSTED_AFTER):
        keys.on_right()
    keys.on_wrong()
    clock.now += PAUSE_SECONDS * 1.01
    assert keys.find(Wanted({1}, set())) is not None
