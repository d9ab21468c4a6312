"""The tables of the benchmark, and where they are written."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.bench.counts import Latency, Server
from tests.bench.report import BENCH, Beside, Report, Row, record
from tests.bench.scenario import Calm, End, Life, Loss, Start
from tests.bench.usage import Usage


def start(pods: int, seconds: float, writes: int = 0) -> Start:
    return Start(pods, seconds, seconds, Server(1.0, 2.0, Counter({("POST", "pods"): writes})), Usage(1.0, 1 << 20))


def life(system: str, jobs: int, seconds: float) -> Life:
    latency, loss = Latency(0.1, 0.5), Loss(0.2, 0.3)
    server = Server(1.0, 2.0, Counter())
    return Life(
        system=system,
        jobs=jobs,
        start=start(jobs * 4, seconds, writes=jobs * 8),
        queue=latency,
        reconcile=latency,
        calm=Calm(0.1, 0.1),
        resync=None,
        alone=[loss],
        together=loss,
        end=End(1.0, server, 1.0),
        peak=100 << 20,
        status_writes=3.0,
    )


@pytest.mark.parametrize(("seconds", "verdict"), [(13.0, "met"), (13.1, "**missed**")])
def test_a_goal_that_depends_on_the_floor_is_met_up_to_and_with_it(seconds, verdict):
    row = Row("figure", lambda one: one.start.pods_run, lambda one: one.pods_run, goal="≤ 1.3", most=lambda f: 1.3 * f)
    beside = Beside(life("one", 10, seconds), (start(40, 8.0), start(40, 12.0)))
    cells = beside.cells(row, with_floor=True, with_goal=True)
    assert cells == ["10 s", f"{seconds:.{0 if seconds == 13 else 1}f} s", f"{seconds / 10:.2f}", "≤ 1.3", verdict]


def test_a_figure_that_a_system_does_not_have_is_left_empty():
    row = Row("figure", lambda one: one.resync and one.resync.writes, unit="", goal="0", most=lambda _: 0)
    beside = Beside(life("one", 10, 1.0), (start(40, 1.0), start(40, 1.0)))
    assert beside.cells(row, with_floor=True, with_goal=False) == ["", "", ""]


def test_each_system_has_a_column_beside_the_floor_with_as_many_jobs():
    lives = [life("Muster", 1000, 60.0), life("A v1", 1000, 120.0), life("B v2", 100, 10.0)]
    floors = {1000: (start(4000, 40.0, 24000),) * 2, 100: (start(400, 4.0),) * 2}
    lines = Report(floors, lives).text.splitlines()
    head = next(line for line in lines if line.startswith("| figure"))
    row = next(line for line in lines if line.startswith("| all pods run"))
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [
        *("figure", "floor", "Muster", "ratio", "goal", "", "A v1", "ratio"),
        *("floor, 100 jobs", "B v2, 100 jobs", "ratio"),
    ]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        *("all pods run", "40 s", "60 s", "1.50", "", "", "120 s", "3.00"),
        *("4 s", "10 s", "2.50"),
    ]
    posts = next(line for line in lines if line.startswith("| POST pods"))
    assert [cell.strip() for cell in posts.split("|")[2:-1]] == [
        *("6.00", "2.00", "-4.00", "2.00", "-4.00", "0.00", "2.00", "+2.00")
    ]
    assert any("B v2 was given 100 jobs" in line for line in lines)


def test_what_is_recorded_replaces_what_was_between_the_marks(tmp_path):
    document = tmp_path / "doc.md"
    document.write_text(f"before\n<!-- Written by `{BENCH}`. -->\n\nold\n\n<!-- End of `{BENCH}`. -->\nafter\n")
    record(document, BENCH, "new\n")
    assert document.read_text().split() == [
        *("before", "<!--", "Written", "by", *f"`{BENCH}`.".split(), "-->"),
        *("new", "<!--", "End", "of", *f"`{BENCH}`.".split(), "-->", "after"),
    ]
    with pytest.raises(SystemExit, match="must have the lines"):
        record(document, "make other", "new")
