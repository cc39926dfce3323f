"""Waits against theory, start times against simpy, and what a line must never do."""

from math import factorial

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from cloud.queueing import Admission, Servers, Span, WaitingRoom
from device.errors import ConfigError, ContractError
from device.seeds import draws, rng

times = st.integers(0, 40).map(lambda n: n / 4)  # quarters: equal arrivals happen, sums are exact
jobs = st.lists(st.tuples(times, times), min_size=1, max_size=30)


def columns(pairs):
    arrive, seconds = np.array(pairs, np.float64).T
    return arrive, seconds, np.arange(len(arrive))


def erlang_wait(load: float, servers: int) -> float:
    """Mean wait of M/M/c with service rate 1 and arrival rate load * servers (Erlang C)."""
    a = load * servers
    last = a**servers / factorial(servers) / (1 - load)
    return last / (sum(a**k / factorial(k) for k in range(servers)) + last) / (servers * (1 - load))


def test_erlang_by_hand():
    assert erlang_wait(0.5, 1) == pytest.approx(1.0)  # M/M/1: load / (1 - load) = 1
    assert erlang_wait(0.5, 2) == pytest.approx(1 / 3)  # C = (1 / (2 * .5)) / (1 + 1 + 1) = 1/3; over 2 * .5 = 1


@pytest.mark.parametrize("servers", [1, 2, 5])
@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_mean_wait_is_that_of_theory(servers, load):
    n, batches = 240_000, 40
    numbers = rng(7, "queue", servers, str(load))
    arrive = np.cumsum(numbers.exponential(1 / (load * servers), n))
    line = Servers(servers)
    wait = line.serve(arrive, numbers.exponential(1, n), tie=np.arange(n)) - arrive
    means = (
        wait[n // 10 :].reshape(batches, -1).mean(axis=1)
    )  # waits depend on each other, means of long batches hardly
    assert abs(means.mean() - erlang_wait(load, servers)) < 3 * means.std(ddof=1) / np.sqrt(batches)


def simpy_starts(arrive, seconds, servers):
    env, starts = simpy.Environment(), np.empty(len(arrive))
    resource = simpy.Resource(env, servers)

    def job(row):
        yield env.timeout(arrive[row])
        with resource.request() as turn:
            yield turn
            starts[row] = env.now
            yield env.timeout(seconds[row])

    for row in np.lexsort((np.arange(len(arrive)), arrive)):
        env.process(job(row))
    env.run()
    return starts


@pytest.mark.parametrize("seed", range(60))
def test_start_times_equal_simpy_to_the_last_bit(seed):
    numbers = rng(seed, "simpy")
    n, servers = int(numbers.integers(1, 60)), int(numbers.integers(1, 5))
    arrive, seconds = numbers.uniform(0, 10, n), numbers.exponential(servers * 0.3, n)
    got = Servers(servers).serve(arrive, seconds, tie=np.arange(n))
    assert_array_equal(got, simpy_starts(arrive, seconds, servers))


@settings(deadline=None)
@given(jobs, st.integers(1, 4), st.lists(times, max_size=5))
def test_cutting_the_stream_changes_no_start(pairs, servers, cuts):
    arrive, seconds, tie = columns(pairs)
    whole = Servers(servers).serve(arrive, seconds, tie=tie)
    line, room = Servers(servers), WaitingRoom()
    room.add(arrive, tie, tie)
    parts = np.full(len(arrive), np.nan)
    for until in [*sorted(cuts), np.inf]:
        due = room.due(until)
        parts[due.device] = line.serve(due.arrive, seconds[due.device], tie=due.device)
    assert len(room) == 0
    assert_array_equal(parts, whole)


@settings(deadline=None)
@given(jobs, st.integers(1, 4), st.randoms(use_true_random=False))
def test_order_of_rows_changes_no_start(pairs, servers, random):
    arrive, seconds, tie = columns(pairs)
    order = np.array(random.sample(range(len(arrive)), len(arrive)))
    mixed = Servers(servers).serve(arrive[order], seconds[order], tie=tie[order])
    assert_array_equal(mixed, Servers(servers).serve(arrive, seconds, tie=tie)[order])


@settings(deadline=None)
@given(jobs, st.integers(1, 4))
def test_first_come_first_served_and_no_server_idles(pairs, servers):
    arrive, seconds, tie = columns(pairs)
    start = Servers(servers).serve(arrive, seconds, tie=tie)
    order = np.lexsort((tie, arrive))
    assert (np.diff(start[order]) >= 0).all()
    for row, begin in enumerate(start):
        at_work = (start <= begin) & (start + seconds > begin)
        assert at_work.sum() <= servers
        for moment in {arrive[row], *(start + seconds)}:
            if arrive[row] <= moment < begin:
                assert ((start <= moment) & (start + seconds > moment)).sum() == servers


@settings(deadline=None)
@given(jobs, st.integers(1, 3), times)
def test_denial_bounds_the_wait_and_takes_no_time(pairs, servers, limit):
    arrive, seconds, tie = columns(pairs)
    admission = Admission(limit, least_retry_s=0.5)
    line = Servers(servers)
    start = line.serve(arrive, seconds, tie=tie, max_wait_s=limit)
    denied = admission.denied(arrive, start)
    assert (start - arrive)[~denied].max(initial=0) <= limit
    kept = ~denied
    alone = Servers(servers)
    assert_array_equal(alone.serve(arrive[kept], seconds[kept], tie=tie[kept]), start[kept])
    assert_array_equal(alone.free_at, line.free_at)
    retry = admission.retry_after(arrive, start, draws(1, "retry", tie))
    calm = np.maximum(start - arrive - limit, 0.5)
    assert (retry[kept] == 0).all()
    assert (retry[denied] >= calm[denied].astype(np.float32)).all()
    assert (retry[denied] <= 1.5 * calm[denied] * (1 + 1e-6)).all()


def test_denial_by_hand():
    # One server, 4 s each, limit 5 s. At 0, 1, 2, 3: begins 0, 4 (waits 3), 8 (would wait 6: denied), 8 (waits 5).
    arrive, tie = np.arange(4.0), np.arange(4)
    start = Servers(1).serve(arrive, np.full(4, 4.0), tie=tie, max_wait_s=5)
    assert_array_equal(start, [0, 4, 8, 8])
    admission = Admission(5)
    assert_array_equal(admission.denied(arrive, start), [False, False, True, False])
    spread = draws(3, "retry", tie)
    expected = 1.0 * (1 + 0.5 * spread.uniform()[2, 0])  # 1 s until somebody would wait 5 s only
    assert_allclose(admission.retry_after(arrive, start, spread), [0, 0, expected, 0], rtol=1e-6)


def test_overload_is_turned_away_in_part():
    """Offered load 1.5: about a third is denied, and the servers are busy all the time."""
    n, numbers = 60_000, rng(2, "overload")
    arrive, seconds = np.cumsum(numbers.exponential(1 / 3, n)), numbers.exponential(1, n)
    line = Servers(2)
    start = line.serve(arrive, seconds, tie=np.arange(n), max_wait_s=10)
    denied = Admission(10).denied(arrive, start)
    assert denied.mean() == pytest.approx(1 / 3, abs=0.02)
    assert seconds[~denied].sum() / (2 * arrive[-1]) == pytest.approx(1, abs=0.01)


def test_the_room_hands_out_in_order_and_refuses_the_past():
    room = WaitingRoom()
    room.add(np.array([5.0, 2.0, 5.0]), np.array([9, 4, 3]), np.array([1, 2, 3]))
    assert_array_equal(room.due(1.0).device, [])
    first = room.due(2.0)
    assert_array_equal(first.device, [4])
    assert_array_equal(first.step, [2])
    with pytest.raises(ContractError, match="live the steps in order"):
        room.add(np.array([1.5]), np.array([1]), np.array([1]))
    assert len(room) == 2
    assert_array_equal(room.due(np.inf).device, [3, 9])
    with pytest.raises(ContractError, match="finite"):
        room.add(np.array([np.inf]), np.array([1]), np.array([1]))


def test_a_wave_is_what_lies_within_the_window():
    at = np.array([4.0, 1.0, 1.0, 2.5, np.inf])
    for window, rows in ((0.0, [1, 2]), (1.5, [1, 2]), (2.0, [1, 2, 3])):  # 2.5 is not less than 1 + 1.5
        span = Span.next(at, window)
        assert span is not None
        assert_array_equal(span.rows(at), rows)
    assert Span.next(np.full(2, np.inf), 9.0) is None


def test_refusals():
    line, one = Servers(1), np.ones(1)
    line.serve(5 * one, one, tie=np.zeros(1, np.int64))
    with pytest.raises(ContractError, match=r"arrives at 4\.0 s"):
        line.serve(4 * one, one, tie=np.zeros(1, np.int64))
    with pytest.raises(ContractError, match="finite"):
        line.serve(6 * one, np.array([np.nan]), tie=np.zeros(1, np.int64))
    with pytest.raises(ConfigError, match="servers = 0"):
        Servers(0)
    with pytest.raises(ConfigError, match="max_wait_s"):
        Admission(-1.0)


@pytest.mark.parametrize("seed", range(5))
def test_waves_in_order_of_time_serve_as_if_all_requests_were_known(seed):
    """A window up to the service time gives the same starts as serving everything at once; so does no window."""
    numbers, devices, steps, service = rng(seed, "waves"), 12, 15, 0.5
    at = np.sort(numbers.uniform(0, 20, (devices, steps)), axis=1)
    link = numbers.exponential(0.8, (devices, steps))
    who = np.arange(devices * steps) // steps
    oracle = Servers(2).serve((at + link).ravel(), np.full(who.size, service), tie=who).reshape(devices, steps)
    for window in (0.0, service, 3.0):
        line, room, done = Servers(2), WaitingRoom(), np.zeros(devices, np.int64)
        start, future = np.full((devices, steps), np.nan), np.pad(at, ((0, 0), (0, 1)), constant_values=np.inf)
        while (span := Span.next(coming := future[np.arange(devices), done], window)) is not None:
            rows = span.rows(coming)
            now = done[rows]
            if window <= service:  # every reply that is there before a step is known when the step is lived
                known = np.nan_to_num(start[rows], nan=np.inf) + service
                missed = np.isinf(known) & (oracle[rows] + service < at[rows, now][:, None])
                assert not (missed & (np.arange(steps) < now[:, None])).any()
            room.add(at[rows, now] + link[rows, now], rows, now)
            done[rows] += 1
            due = room.due(future[np.arange(devices), done].min())
            start[due.device, due.step] = line.serve(due.arrive, np.full(len(due.step), service), tie=due.device)
        assert_array_equal(start, oracle)
