"""Pings: who is due, and who has missed how many."""

from common.directory.heartbeats import Heartbeats

NOW = 1_000.0


def test_pings_go_out_once_an_interval_and_are_spread_over_it() -> None:
    beats = Heartbeats(5.0)
    for session in range(100):
        beats.add(session, session / 100, NOW)
    assert beats.next_due() == NOW
    sent = [len(beats.due(NOW + step * 0.5)) for step in range(1, 21)]
    assert sum(sent) == 200
    assert max(sent) <= 12


def test_missed_pings_are_counted_until_one_is_answered() -> None:
    beats = Heartbeats(5.0)
    beats.add(1, 0.0, NOW)
    assert [beat.missed for at in (0, 5, 10) for beat in beats.due(NOW + at)] == [0, 1, 2]
    assert beats.answer(1, 2, NOW + 10.5) is None
    assert beats.answer(1, 3, NOW + 10.5) == 0.5
    assert beats.answer(1, 3, NOW + 10.6) is None
    assert [beat.missed for beat in beats.due(NOW + 15)] == [0]


def test_a_removed_session_is_not_pinged() -> None:
    beats = Heartbeats(5.0)
    beats.add(1, 0.0, NOW)
    beats.remove(1)
    assert beats.due(NOW + 100) == []
    assert beats.next_due() is None


def test_a_session_is_silent_a_fifth_of_an_interval_after_the_second_ping_it_missed() -> None:
    beats = Heartbeats(5.0)
    beats.add(1, 0.0, NOW)
    beats.due(NOW)
    assert beats.silent(NOW + 4.9) == []
    beats.due(NOW + 5)
    assert beats.next_due() == NOW + 6
    assert beats.silent(NOW + 5.9) == []
    assert beats.silent(NOW + 6) == [1]
    assert beats.silent(NOW + 7) == []
    beats.due(NOW + 10)
    assert beats.silent(NOW + 11) == [1]
    assert (beats.sent, beats.missed) == (3, 2)


def test_an_answer_to_the_second_ping_is_in_time() -> None:
    beats = Heartbeats(5.0)
    beats.add(1, 0.0, NOW)
    beats.due(NOW)
    beats.due(NOW + 5)
    assert beats.answer(1, 2, NOW + 5.9) is not None
    assert beats.silent(NOW + 6) == []
