"""How long a run still takes, told from what was timed."""

import pytest

import esft.tuning.clock
from esft.recipe.settings import Model, Prior, Recipe, Search, TaskSettings
from esft.tuning.clock import Clock, busy_machine, long_run


@pytest.fixture
def tick(monkeypatch):
    """Return a clock by hand: called with seconds, it goes on by them."""
    now = [100.0]
    monkeypatch.setattr(esft.tuning.clock.time, "monotonic", lambda: now[0])

    def go_on(seconds):
        now[0] += seconds

    return go_on


def a_recipe(rows=8, **prior):
    return Recipe(
        model=Model(id="m"),
        task=TaskSettings(name="conciseness", rows_per_step=rows),
        search=Search(steps=10, population=6),
        prior=Prior(**prior),
    )


def a_clock(later=(), **prior):
    return Clock(a_recipe(**prior), a_noise=0.5, later=later)


def a_step(clock, tick, *members, update):
    clock.begin_step()
    for done, seconds in enumerate(members, start=1):
        tick(seconds)
        clock.members(done)
    tick(update)
    clock.end_step()


def test_nothing_is_told_before_three_members_besides_the_first(tick):
    clock, told = a_clock(), []

    clock.begin_step()
    for done, seconds in enumerate((60, 1, 1, 1), start=1):
        tick(seconds)
        clock.members(done)
        told.append(clock.left(1))

    assert told[:3] == [None, None, None]
    # Two members and the update of six noises; nine more steps of six members.
    assert (told[3].step, told[3].run) == (2 + 3, (2 + 3) + 9 * (6 + 3))


def test_one_slow_member_changes_nothing_and_the_update_is_that_of_the_last_step(tick):
    clock = a_clock()
    a_step(clock, tick, 30, 1, 1, 1, 50, 1, update=4)

    left = clock.left(2)

    assert (left.step, left.run) == (6 + 4, 9 * (6 + 4))


@pytest.mark.parametrize(("every", "count"), [(None, 1), (4, 3), (1, 10)])
def test_evaluations_to_come_count_by_the_longest(tick, every, count):
    clock = a_clock() if every is None else a_clock(every=every)
    clock.evaluated(7.0)
    clock.evaluated(0.1)  # was kept from another run
    clock.begin_step()
    for done in range(1, 7):
        tick(1)
        clock.members(done)

    assert clock.left(1).run == 3 + 9 * (6 + 3) + count * 7


def test_of_a_chain_the_stages_to_come_count_by_their_rows(tick):
    stages = [a_recipe(rows=16, every=4), a_recipe(rows=4, every=4)]
    clock = a_clock(later=stages, every=4)
    clock.evaluated(7.0)
    a_step(clock, tick, 30, 1, 1, 1, 1, 1, update=4)

    own = 10 * (6 + 4) + 3 * 7
    assert clock.left(1).run == own + 10 * (12 + 4) + 10 * (3 + 4) + 2 * 3 * 7


@pytest.mark.parametrize("prior", [{}, {"every": 5}, {"every": 3}])
def test_a_run_that_is_done_has_only_its_last_evaluation_left(prior, tick):
    clock = a_clock(**prior)
    clock.evaluated(7.0)
    a_step(clock, tick, *[1] * 6, update=2)

    assert clock.left(11).run == 7


def test_a_run_of_hours_is_said_with_what_would_fit():
    assert long_run(3599) is None
    assert "about 1.8 hours" in long_run(6500)
    assert "--minutes 10" in long_run(6500)


def test_a_step_that_got_little_of_the_processor_is_said():
    assert busy_machine(10.0, 9.0) is None
    assert busy_machine(10.0, 19.0) is None  # of two threads
    assert busy_machine(1.0, 0.1) is None  # soon over
    assert "took 10.0 s and got 4.0 s of the processor" in busy_machine(10.0, 4.0)
