"""Progress of phases and stages: lines in a file, nothing for short phases, an estimate of the whole run's time."""

import io
import time
from types import SimpleNamespace

import pytest

from trainers import progress
from trainers.progress import StageProgress, activity, progress_bar, quiet
from trainers.remaining_time import PlannedStage, RemainingTime


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


@pytest.fixture
def pipe(monkeypatch):
    """Stderr, as it is where it goes into a file."""
    stream = io.StringIO()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
    return stream


def steps(bar, clock, number: int, seconds: float) -> None:
    for _ in range(number):
        clock.now += seconds
        bar.update()


def test_a_file_gets_a_line_every_half_minute_and_one_at_the_end(clock, pipe):
    with progress_bar(description="encoding", total=100) as bar:
        steps(bar, clock, 100, 1.0)
    lines = pipe.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "encoding: 30 of 100", "encoding: 60 of 100", "encoding: 90 of 100", "encoding: 100 of 100",
    ]  # fmt: skip
    assert lines[1].endswith("00:40 left") and lines[-1].endswith("done in 01:40")
    assert not set("\r\x1b") & set(pipe.getvalue()) and "\n\n" not in pipe.getvalue()


def test_a_phase_shows_from_two_seconds_on(clock, pipe):
    for seconds, expected in ((0.9, ""), (1.1, "encoding: 2 of 2, done in 00:02\n")):
        with progress_bar(description="encoding", total=2) as bar:
            steps(bar, clock, 2, seconds)
        assert pipe.getvalue() == expected
    for _ in progress_bar(range(3), description="codes"):
        clock.now += 1
    assert pipe.getvalue().splitlines()[1:] == ["codes: 3 of 3, done in 00:03"]


def test_a_terminal_gets_a_bar(clock, pipe, monkeypatch):
    monkeypatch.setattr(pipe, "isatty", lambda: True, raising=False)
    with progress_bar(description="encoding", total=4) as bar:
        steps(bar, clock, 4, 1.0)
    drawn = pipe.getvalue().split("\r")
    assert "encoding:  50%" in drawn[1] and drawn[-1].endswith("\n")


@pytest.mark.parametrize("show", [progress_bar, activity])
def test_nothing_shows_where_it_is_quiet(clock, pipe, monkeypatch, show):
    monkeypatch.setattr(progress, "SHORT_PHASE", 0.0)
    with show(description="phase", disable=True):
        clock.now += 9
    with quiet(), quiet(False), show(description="phase"):
        clock.now += 9
    with quiet(False), show(description="phase"):
        clock.now += 9
        if show is activity:
            wait_for(pipe)
    assert pipe.getvalue().startswith("phase: ") and pipe.getvalue().endswith("done in 00:09\n")


def wait_for(stream: io.StringIO) -> None:
    """Until another thread has written."""
    deadline = time.monotonic() + 60
    while not stream.getvalue() and time.monotonic() < deadline:
        pass


def test_a_phase_without_steps_shows_that_it_goes_on(clock, pipe, monkeypatch):
    monkeypatch.setattr(progress, "SHORT_PHASE", 0.0)
    with activity("k-means of 9 vectors"):
        wait_for(pipe)
        clock.now += 61
    assert pipe.getvalue().splitlines() == [
        "k-means of 9 vectors: since 00:00", "k-means of 9 vectors: done in 01:01",
    ]  # fmt: skip
    with pytest.raises(KeyError), activity("k-means of 9 vectors"):
        raise KeyError


def test_what_is_stopped_is_not_done(clock, pipe, monkeypatch):
    monkeypatch.setattr(progress, "SHORT_PHASE", 0.0)
    with pytest.raises(KeyError), progress_bar(description="queries", total=100) as bar:
        steps(bar, clock, 5, 1.0)
        raise KeyError
    with pytest.raises(KeyError):
        for number in progress_bar(range(100), description="codes"):
            clock.now += 1
            if number == 5:
                raise KeyError
    with pytest.raises(KeyError), progress_bar(description="documents") as bar:
        steps(bar, clock, 5, 1.0)
        raise KeyError
    assert pipe.getvalue().splitlines() == [
        "queries: 5 of 100, ended after 00:05",
        "codes: 5 of 100, ended after 00:06",
        "documents: 5, ended after 00:05",
    ]
    pipe.truncate(pipe.seek(0))
    with pytest.raises(KeyboardInterrupt), activity("k-means of 9 vectors"):
        wait_for(pipe)
        clock.now += 61
        raise KeyboardInterrupt
    assert pipe.getvalue().splitlines()[1:] == ["k-means of 9 vectors: ended after 01:01"]


PLAN = [
    PlannedStage("0", "warm-up", 10), PlannedStage("1", "position 1, a", 20, "a"),
    PlannedStage("2", "position 1, b", 10, "b"), PlannedStage("3", "position 2, a", 40, "a"),
]  # fmt: skip


def test_the_time_of_a_run_is_that_of_its_stages_by_kind_and_of_what_is_between():
    clock = Clock()
    left = RemainingTime(clock)
    left.begin(PLAN, 0)
    left.start(0, 10)
    assert left.of_the_run() is None
    clock.now += 8
    left.step(4)
    assert left.of_the_run() == (6 + 20 + 10 + 40) * 2  # every stage at this pace
    clock.now += 12
    left.step(10)
    left.end()
    clock.now += 5  # a clustering
    left.begin(PLAN, 1)
    left.start(0, 20)
    clock.now += 20
    left.step(5)
    assert left.of_the_run() == (15 + 10 + 40) * 4 + 3 * 5
    clock.now += 60
    left.step(20)
    left.end()
    clock.now += 7
    left.begin(PLAN, 2)
    left.start(4, 10)  # goes on from a checkpoint, whose steps took no time here
    clock.now += 1
    left.step(5)
    assert left.of_the_run() == 5 * 1 + 40 * 4 + 2 * 6
    left.step(10)
    left.end()
    left.begin(PLAN, 3)
    left.start(0, 40)
    left.step(0)
    assert left.of_the_run() is None


class Arguments:
    disable_tqdm = False


class State:
    is_world_process_zero, max_steps, global_step = True, 20, 0


def test_a_stage_says_which_it_is_its_losses_and_both_times(clock, pipe):
    shown = StageProgress()
    shown.time.clock = clock
    shown.begin(PLAN, "1")
    state = State()
    shown.on_train_begin(Arguments, state, None)
    for step in range(1, 21):
        state.global_step = step
        clock.now += 3
        if step == 5:
            shown.on_log(Arguments, state, None, {"loss": 1.5, "reconstruction": 1.25, "other": 2.0})
        shown.on_step_end(Arguments, state, None)
    shown.on_train_end(Arguments, state, None)
    title = "stage 2 of 4: position 1, a"
    assert pipe.getvalue().splitlines() == [
        f"{title}: 10 of 20, 00:30 left, loss 1.500, reconstruction 1.250, whole run 03:00 left",
        f"{title}: 20 of 20, 00:00 left, loss 1.500, reconstruction 1.250, whole run 02:30 left",
        f"{title}: 20 of 20, done in 01:00, loss 1.500, reconstruction 1.250, whole run 02:30 left",
    ]


def test_a_stage_that_is_stopped_says_so(clock, pipe):
    shown, state = StageProgress(), State()
    shown.time.clock = clock
    shown.begin(PLAN, "1")
    shown.on_train_begin(Arguments, state, None)
    for state.global_step in range(1, 6):
        clock.now += 3
        shown.on_step_end(Arguments, state, None)
    shown.on_train_end(Arguments, state, None)
    assert pipe.getvalue().startswith("stage 2 of 4: position 1, a: 5 of 20, ended after 00:15, whole run ")


def test_other_processes_show_no_stage(pipe):
    state, shown = State(), StageProgress()
    state.is_world_process_zero = False
    shown.begin(PLAN, "0")
    shown.on_train_begin(Arguments, state, None)
    shown.on_step_end(Arguments, state, None)
    shown.on_train_end(Arguments, state, None)
    assert pipe.getvalue() == ""
