"""The bound on waiting in the docstring of `Scheduler` holds for all failures and arrivals."""

import itertools
import math
from dataclasses import dataclass, field

import pytest

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

from emotion_perception.core.values import Box, Track
from emotion_perception.perception.scheduling import MAX_OWN_PAUSE_S, MAX_PAUSE_S, Scheduler

TENTH_NS = 10**8


def track(number):
    return Track(f"p{number:05d}", Box(0, 0, 50, 100 + 7 * number % 60), 0.9)


def ids(tracks):
    return [int(person.person_id[1:]) for person in tracks]


@dataclass
class World:
    """A camera of 10 Hz and a recognizer, in simulated time; waits are measured on the way."""

    visible: object
    """From the number of a frame to the people in it."""
    duration: object
    """From the number of a round to its tenths of a second."""
    fails: object
    """From the people of a round to whether it fails."""
    places: int
    refresh: float = 0.0
    refresh_still: float = 0.0
    max_age: float = 5.0
    changes: object = lambda now, number: False
    """From the number of a frame and a person to whether the person changed since asked about."""
    scheduler: Scheduler = field(default_factory=Scheduler)
    rounds: list = field(default_factory=list)
    """Start, end and people of each round, in tenths of a second."""
    waits: list = field(default_factory=list)
    """Person, start and end of each wait."""
    ages: list = field(default_factory=list)
    """Frame, person, and tenths of a second since the newest frame that was assessed."""

    def run(self, frames):
        waiting, open_round, assessed = {}, None, {}
        self.pauses, self.counts = [], []
        for now in range(frames):
            people = [track(number) for number in sorted(self.visible(now))]
            stamp = now * TENTH_NS
            self.scheduler.see(people, stamp)
            changed = {p.person_id for p in people if self.changes(now, *ids([p]))}
            self.scheduler.rest(changed, stamp, self.refresh_still, self.max_age, self.places)
            self.counts.append(len(people))
            if open_round and open_round[1] <= now:
                asked = open_round[2]
                if self.fails(asked):
                    self.scheduler.failed([p.person_id for p in asked], stamp)
                else:
                    self.scheduler.answered([p.person_id for p in asked], stamp)
                    assessed |= dict.fromkeys(ids(asked), open_round[0])
                open_round = None
            self.ages += [(now, n, now - assessed[n]) for n in ids(people) if n in assessed]
            paused_until = self.scheduler._paused_until_ns
            if paused_until is not None and stamp < paused_until:
                self.pauses.append(now)
            due = {
                number
                for number, person in ((n, self.scheduler._people[track(n).person_id])
                                       for n in ids(people))
                if person.due_since_ns(max(round(self.refresh * 1e9), 1)) <= stamp
                and not (open_round and track(number) in open_round[2])
            }  # fmt: skip
            self.waits += [(n, since, now) for n, since in waiting.items() if n not in due]
            waiting = {n: waiting.get(n, now) for n in due}
            if open_round is None and (
                asked := self.scheduler.next_round(people, stamp, self.refresh, self.places)
            ):
                open_round = (now, now + self.duration(len(self.rounds)), asked)
                self.rounds.append(open_round)
                for number in ids(asked):
                    self.waits.append((number, waiting.pop(number), now))
        self.waits += [(number, since, frames) for number, since in waiting.items()]
        return self

    def check_bound(self):
        for number, start, end in self.waits:
            most = max(self.counts[start : end + 1])
            during = [r[1] - r[0] for r in self.rounds if r[0] <= end and r[1] >= start]
            paused = sum(start <= frame <= end for frame in self.pauses)
            bound = 4 * math.ceil(most / self.places) * max(during, default=0) + paused
            assert end - start <= bound, (number, start, end, most, max(during, default=0), paused)


# An adversary decides who is in view, how long a round takes and what fails.
ADVERSARY = st.fixed_dictionaries(
    {
        "places": st.integers(1, 5),
        "refresh": st.sampled_from([0.0, 0.3, 1.0, 5.0]),
        "refresh_still": st.sampled_from([0.0, 1.5, 4.0, 60.0]),
        "max_age": st.sampled_from([2.0, 5.0, 30.0]),
        "changes": st.lists(st.tuples(st.integers(0, 60), st.integers(0, 199)), max_size=40),
        "stay": st.lists(st.integers(0, 14), max_size=15, unique=True),
        "stays": st.integers(1, 40),
        "newcomers": st.integers(0, 4),
        "every": st.integers(1, 6),
        "hidden": st.lists(st.tuples(st.integers(0, 14), st.integers(0, 150)), max_size=6),
        "culprits": st.sets(st.integers(0, 60), max_size=30),
        "chance": st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
        "durations": st.lists(st.integers(1, 8), min_size=1, max_size=20),
        "random": st.randoms(use_true_random=False),
    }
)


def world_of(plan):
    def visible(now):
        hidden = {n for n, since in plan["hidden"] if since <= now < since + 3}
        last = now // plan["every"]
        first = max(last - plan["stays"] // plan["every"], 0)
        new = range(20 + first * plan["newcomers"], 20 + (last + 1) * plan["newcomers"])
        return ({*plan["stay"]} - hidden) | {*new}

    def fails(people):
        named = any(n % 61 in plan["culprits"] for n in ids(people))
        return named or plan["random"].random() < plan["chance"]

    durations, changes = plan["durations"], {*plan["changes"]}
    return World(visible, lambda n: durations[n % len(durations)], fails, plan["places"],
                 plan["refresh"], plan["refresh_still"], plan["max_age"],
                 lambda now, number: (number % 61, now) in changes)  # fmt: skip


@settings(max_examples=120, deadline=None, derandomize=True)
@given(ADVERSARY)
def test_wait_is_bounded_for_all_failures_and_arrivals(plan):
    """Some people rest, and some of them change while they do."""
    world_of(plan).run(200).check_bound()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    people=st.integers(1, 9),
    places=st.integers(1, 3),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    arrivals=st.lists(st.integers(0, 20), min_size=9, max_size=9),
    refresh_still=st.sampled_from([2.0, 4.0, 60.0]),
    changes=st.sets(st.tuples(st.integers(0, 9), st.integers(0, 199)), max_size=60),
)
def test_people_who_rest_do_not_expire(people, places, lengths, arrivals, refresh_still, changes):
    """All people are in view after 2 s; person 9 of the changes stands for the surroundings."""
    max_age = 0.1 * (3 + math.ceil(people / places)) * (max(lengths) + 1)
    world = World(
        visible=lambda now: {n for n in range(people) if arrivals[n] <= now},
        duration=lambda number: lengths[number % len(lengths)],
        fails=lambda asked: False,
        places=places,
        refresh_still=refresh_still,
        max_age=max_age,
        changes=lambda now, number: not changes.isdisjoint({(number, now), (9, now)}),
    ).run(200)
    measured = world.rounds[len(lengths)][1]  # each length was measured
    settled = max(measured, 20) + math.ceil(10 * max_age)
    ages = [age for now, _, age in world.ages if now > settled]
    assert max(ages, default=0) <= 10 * max_age + 1e-6
    world.check_bound()


@pytest.mark.parametrize("frame", range(76, 120))
def test_people_who_change_do_not_let_another_expire(frame):
    """Two of three people change and are asked about one by one before the third, who rests."""
    world = World(
        lambda now: range(3), lambda number: 5, lambda asked: False, 1, 1.0, 60.0,
        changes=lambda now, number: now == frame and number < 2,
    ).run(150)  # fmt: skip
    assert max(age for _, _, age in world.ages) <= 50


def asked_at(refresh_still, changes=lambda now, number: False, length=3, **settings):
    """Return the frames in which the only person is asked about, at 10 Hz."""
    world = World(
        lambda now: {0}, lambda number: length, lambda asked: False, 4, 1.0, refresh_still,
        changes=changes, **settings,
    )  # fmt: skip
    return [start for start, _, _ in world.run(130).rounds]


def test_person_who_rests_is_asked_about_after_refresh_still_or_in_time_for_max_age():
    assert asked_at(0.0)[:3] == [0, 10, 20]
    assert asked_at(4.0) == [0, 40, 80, 120]
    # Two rounds, each of 0.4 s up to the first scene after its answer, fit into the 5 s.
    assert asked_at(60.0) == [0, 42, 84, 126]
    assert asked_at(60.0, max_age=3.0)[:3] == [0, 22, 44]
    assert asked_at(60.0, max_age=0.5)[:3] == [0, 10, 20]  # never less than `refresh`


def test_person_who_changes_is_asked_about_at_once_but_not_before_refresh():
    assert asked_at(4.0, lambda now, number: now == 25) == [0, 25, 65, 105]
    assert asked_at(4.0, lambda now, number: now == 5) == [0, 10, 50, 90]


def test_stall_shortens_the_rest_for_a_while_only():
    scheduler, people = scheduler_with(1)
    rests, now = [], 0
    for number in range(70):
        asked = now
        assert scheduler.next_round(people, now, 0.0, 1) == people
        now += (20 if number == 0 else 1) * TENTH_NS
        scheduler.answered([people[0].person_id], now)
        while True:
            scheduler.see(people, now)
            scheduler.rest((), now, 60.0, 5.0, 1)
            if scheduler._people[people[0].person_id].due_since_ns(1) <= now:
                break
            now += TENTH_NS
        rests.append((now - asked) // TENTH_NS)
    assert rests[0] == 20
    assert rests[1:64] == [10] * 63  # 5 s less two rounds of 2 s
    assert rests[64:] == [48] * 6


def test_failing_people_do_not_starve_the_others():
    """Twelve people, of whom four cannot be answered, and four places."""
    failing = {1, 4, 7, 10}
    world = World(
        visible=lambda now: range(12),
        duration=lambda number: 1,
        fails=lambda people: not failing.isdisjoint(ids(people)),
        places=4,
    ).run(600)
    world.check_bound()
    answered = dict.fromkeys(range(12), 0)
    for _, _, people in world.rounds:
        if failing.isdisjoint(ids(people)):
            for number in ids(people):
                answered[number] += 1
    assert {n for n, count in answered.items() if not count} == failing
    others = [count for n, count in answered.items() if n not in failing]
    assert min(others) > 0.7 * 600 * 4 / 8  # 8 people share 4 places in nearly all rounds
    asked_in_vain = sum(not failing.isdisjoint(ids(people)) for _, _, people in world.rounds)
    assert asked_in_vain < 100


@pytest.mark.parametrize("places", [1, 2, 4])
def test_newcomers_do_not_starve_those_who_stay(places):
    """As many new people arrive with each round as it has places, and stay for 3 s."""
    world = World(
        visible=lambda now: {0, 1} | {*range(10 + max(now - 30, 0) * places, 10 + now * places)},
        duration=lambda number: 1,
        fails=lambda people: False,
        places=places,
    ).run(600)
    world.check_bound()
    first_two = [number for _, _, people in world.rounds for number in ids(people) if number < 2]
    assert len(first_two) >= 2 * 600 / (4 * math.ceil((2 + 31 * places) / places))


def scheduler_with(count, stamp_ns=0):
    scheduler, people = Scheduler(), [track(number) for number in range(count)]
    scheduler.see(people, stamp_ns)
    return scheduler, people


def test_failing_round_is_split_until_the_failure_is_one_person():
    scheduler, people = scheduler_with(4)
    rounds = []
    for step in range(8):
        if asked := scheduler.next_round(people, step * TENTH_NS, 60.0, 4):
            rounds.append(sorted(ids(asked)))
            report = scheduler.failed if 2 in ids(asked) else scheduler.answered
            report([person.person_id for person in asked], step * TENTH_NS)
    assert rounds[0] == [0, 1, 2, 3]
    assert [2] in rounds
    assert sorted(n for asked in rounds if 2 not in asked for n in asked) == [0, 1, 3]


def test_pause_of_a_person_grows_up_to_its_cap_and_ends_with_an_answer():
    scheduler, people = scheduler_with(2)
    failing, other = people
    asked_at, now = [], 0
    while len(asked_at) < 16:
        for _ in range(2):
            asked = scheduler.next_round(people, now, 0.0, 1)
            if asked == [failing]:
                asked_at.append(now / 1e9)
                scheduler.failed([failing.person_id], now)
            elif asked:
                scheduler.answered([other.person_id], now)
        now += TENTH_NS
        scheduler.see(people, now)
    pauses = [after - before for before, after in itertools.pairwise(asked_at)]
    assert pauses[0] <= 0.1
    assert pauses[1:6] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6], abs=0.11)
    assert max(pauses) == pytest.approx(MAX_OWN_PAUSE_S, abs=0.11)
    scheduler.answered([failing.person_id], now)
    scheduler.failed([failing.person_id], now)
    assert failing in scheduler.next_round(people, now, 60.0, 4)


def test_all_people_pause_only_when_every_question_fails():
    scheduler, people = scheduler_with(3)
    asked, now = [], 0
    while now < 200 * 10**9:
        if chosen := scheduler.next_round(people, now, 0.0, 4):
            asked.append(now)
            assert len(asked) < 60
            scheduler.failed([person.person_id for person in chosen], now)
        now += TENTH_NS
        scheduler.see(people, now)
    assert scheduler.is_paused
    gaps = [(after - before) / 1e9 for before, after in itertools.pairwise(asked)]
    assert max(gaps) <= MAX_PAUSE_S + 0.11
    assert gaps[-1] >= MAX_PAUSE_S / 2
    # The first answer ends all pauses.
    while not (chosen := scheduler.next_round(people, now, 0.0, 4)):
        now += TENTH_NS
    scheduler.answered([person.person_id for person in chosen], now)
    assert not scheduler.is_paused
    now += TENTH_NS
    scheduler.see(people, now)
    left = {person.person_id for person in people} - {person.person_id for person in chosen}
    for _ in range(6):
        chosen = scheduler.next_round(people, now, 60.0, 4)
        scheduler.answered([person.person_id for person in chosen], now)
        left -= {person.person_id for person in chosen}
    assert not left


def test_new_people_are_asked_nearest_first_in_every_second_place():
    scheduler, people = scheduler_with(2)
    scheduler.answered([p.person_id for p in scheduler.next_round(people, 0, 0.0, 2)], 0)
    near, far = (Track(f"p0001{n}", Box(0, 0, 50, size), 0.9) for n, size in ((0, 300), (1, 90)))
    scheduler.see([*people, far, near], TENTH_NS)
    first = scheduler.next_round([*people, far, near], TENTH_NS, 0.0, 2)
    assert near in first
    assert len([person for person in first if person in people]) == 1


def test_hidden_person_waits_anew():
    scheduler, people = scheduler_with(2)
    scheduler.see(people[:1], TENTH_NS)
    scheduler.see(people, 2 * TENTH_NS)
    assert scheduler.next_round(people, 2 * TENTH_NS, 0.0, 1) == [people[1]]  # new and nearer
    assert scheduler._people[people[1].person_id].visible_since_ns == 2 * TENTH_NS
