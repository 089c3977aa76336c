from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from servekit.ingress import suspects as module
from servekit.ingress.suspects import MOST_SUSPECTS, REFUSED_AFTER, REFUSED_S, SUSPECTED_S, Suspects


def suspected(*deaths: tuple[bytes, int]) -> Suspects:
    """Of each digest, so many."""
    suspects = Suspects(b"secret")
    for digest, count in deaths:
        for known in range(count):
            assert suspects.died(digest, known, 0.0)
    return suspects


def test_it_is_refused_after_so_many_deaths_and_for_so_long() -> None:
    suspects = suspected((b"d", REFUSED_AFTER - 1))
    assert not suspects.is_refused(b"d", 0.0)
    suspects.died(b"d", REFUSED_AFTER - 1, 10.0)
    assert suspects.is_refused(b"d", 9.9 + REFUSED_S)
    assert not suspects.is_refused(b"d", 10.0 + REFUSED_S)


def test_the_next_death_after_that_has_it_refused_again() -> None:
    suspects = suspected((b"d", REFUSED_AFTER))
    later = REFUSED_S + 1
    assert suspects.died(b"d", suspects.known(b"d", later), later)
    assert suspects.is_refused(b"d", later + REFUSED_S - 1)


def test_those_that_die_at_one_time_are_one_death() -> None:
    """All replicas of a machine, each with the request that everybody sends."""
    suspects = Suspects(b"")
    assert [suspects.died(b"d", 0, 0.0) for _ in range(8)] == [True, *[False] * 7]
    assert suspects.known(b"d", 0.0) == 1


def test_a_death_that_came_before_its_like_was_cleared_is_the_first_again() -> None:
    suspects = suspected((b"d", 2))
    suspects.cleared(b"d")
    assert suspects.died(b"d", 2, 1.0)
    assert suspects.known(b"d", 1.0) == 1


def test_a_suspect_is_forgotten_after_a_while_and_then_nobody_is_compared() -> None:
    suspects = suspected((b"d", 2))
    assert suspects.known(b"d", SUSPECTED_S - 1) == 2
    assert suspects.known(b"other", SUSPECTED_S) == 0
    assert not suspects.deaths


def test_requests_are_told_apart_by_their_parts_and_not_without_the_secret() -> None:
    suspects = Suspects(b"secret")
    assert suspects.digest(b"ab", b"c") == suspects.digest(b"ab", b"c")
    assert suspects.digest(b"ab", b"c") != suspects.digest(b"a", b"bc")
    assert suspects.digest(b"ab", b"c") != Suspects(b"another").digest(b"ab", b"c")
    assert suspects.digest(b"ab") == Suspects(b"secret").digest(b"ab")


def test_other_workers_hear_what_has_changed_and_nothing_twice() -> None:
    here, there = suspected((b"d", 2), (b"e", 1)), suspected((b"e", 1))
    here.cleared(b"e")
    here.cleared(b"never seen")
    news = here.take_news()
    assert news == {b"d": 2, b"e": 0}
    assert here.take_news() == {}
    there.take_news()
    there.heard(news, 5.0)
    assert (there.known(b"d", 5.0), there.known(b"e", 5.0)) == (2, 0)
    assert there.take_news() == {}


STEP = st.tuples(st.sampled_from(["died", "cleared", "heard", "wait"]), st.integers(0, 9), st.integers(0, 4))


@given(steps=st.lists(STEP, max_size=80), most=st.integers(1, 5))
def test_what_holds_whatever_happens(steps: list[tuple[str, int, int]], most: int) -> None:
    """The table is bounded, and so are the news; a success clears; nobody is refused before so many deaths."""
    before, module.MOST_SUSPECTS = MOST_SUSPECTS, most
    try:
        suspects, now, deaths = Suspects(b""), 0.0, dict.fromkeys(range(10), 0)
        for what, number, count in steps:
            digest = b"%d" % number
            if what == "died":
                deaths[number] += suspects.died(digest, suspects.known(digest, now), now)
            elif what == "cleared":
                suspects.cleared(digest)
                deaths[number] = 0
                assert suspects.known(digest, now) == 0
                assert not suspects.is_refused(digest, now)
            elif what == "heard":
                suspects.heard({digest: count}, now)
                deaths[number] = max(deaths[number], count) if count else 0
            else:
                now += count * SUSPECTED_S / 3
            assert len(suspects.deaths) <= most
            assert [at for _, at in suspects.deaths.values()] == sorted(at for _, at in suspects.deaths.values())
            refused = [n for n in range(10) if suspects.is_refused(b"%d" % n, now)]
            assert all(deaths[n] >= REFUSED_AFTER for n in refused)
        assert len(suspects.take_news()) <= most
    finally:
        module.MOST_SUSPECTS = before
