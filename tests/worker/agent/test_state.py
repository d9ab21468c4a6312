"""What an agent says of its group: who is meant by a rank, and how many there are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from muster_worker.agent import termination
from muster_worker.agent.config import AgentConfig
from muster_worker.agent.protocol import Member
from muster_worker.agent.report import Progress, ReportReader
from muster_worker.agent.state import Group, Own, document
from muster_worker.train.errors import StorageError
from muster_worker.train.report import Report


def said(ranks, progress, *, servers=0, replicas=5):
    """By rank 0's agent, of a group of the pods of these ranks."""
    environment = {
        "MUSTER_JOB_UID": "uid",
        "MUSTER_POD": "digits-0-1",
        "MUSTER_RANK": "0",
        "MUSTER_REPLICAS": str(replicas),
        "MUSTER_COORDINATOR": "digits-0:1",
        "MUSTER_MIN_REPLICAS": "1",
        "MUSTER_MAX_REPLICAS": str(replicas),
        "MUSTER_PARAMETER_SERVERS": ",".join(f"digits-{number}:7071" for number in range(servers)),
    }
    config = AgentConfig.from_environment(environment, workload=None)
    members = tuple((Member(str(rank), rank, f"digits-{rank}-1", 1, "", 0), 0.1) for rank in ranks)
    group = Group(1, True, True, members, (), None, True, None)
    own = Own(formed=True, formed_before=True, attempt=1, world_size=servers or len(ranks), ranks_running=True)
    return document(config, own, group, progress, recipe=True, monotonic_to_epoch=0.0)


SLOW = Progress(stragglers=[{"rank": 3, "slowdown": 2.0}])


def test_ranks_of_a_group_that_lost_one_are_counted_over_those_that_are_there():
    state = said([0, 1, 3, 4], SLOW)
    assert state["stragglers"] == [{"pod": "digits-4-1", "slowdown": 2.0}]
    assert state["worldSize"] == 4


def test_a_worker_of_parameter_servers_has_its_rank_whoever_is_missing():
    state = said([0, 1, 3, 4], SLOW, servers=1)
    assert state["stragglers"] == [{"pod": "digits-3-1", "slowdown": 2.0}]
    assert said([0, 1, 2, 4], SLOW, servers=1)["stragglers"] == [], "it is gone since"


def test_servers_count_the_workers_that_are_there_not_those_that_there_can_be():
    assert said([0, 1, 2], Progress(), servers=1, replicas=9)["worldSize"] == 3


def test_of_a_metric_that_is_no_number_any_more_nothing_is_told(tmp_path):
    report, progress = Report(tmp_path / "report"), Progress()
    report.write(step=1, loss=0.3, learningRate=0.1)
    report.write(step=2, loss=math.nan, learningRate=0.1)
    for line in (tmp_path / "report").read_text().splitlines():
        progress.merge(json.loads(line), now=0.0)
    assert said([0], progress)["metrics"] == {"learningRate": 0.1}
    report.write(step=3, loss=0.2)
    progress.merge(json.loads((tmp_path / "report").read_text().splitlines()[-1]), now=0.0)
    assert said([0], progress)["metrics"] == {"learningRate": 0.1, "loss": 0.2}


def test_of_many_metrics_all_are_told_and_what_comes_with_them_is(tmp_path):
    report, progress = Report(tmp_path / "report"), Progress()
    metrics = {f"validationAccuracyOfClass{number}": number / 7 for number in range(300)}
    report.write(step=21, totalSteps=21, **metrics, model={"path": "model"}, checkpoint={"path": "x" * 5000})
    lines = (tmp_path / "report").read_bytes().splitlines(keepends=True)
    assert max(map(len, lines)) <= 4096
    for line in lines:
        progress.merge(json.loads(line), now=0.0)
    state = said([0], progress)
    assert state["metrics"] == metrics
    assert (state["progress"]["step"], state["model"], state["checkpoint"]) == (21, {"path": "model"}, None)


def test_without_room_for_a_report_training_goes_on_and_only_a_model_has_to_be_told():
    report = Report(Path("/dev/full"))
    report.write(step=1, loss=0.3)
    report.error("spec.recipe.name: no module 'nowhere'")
    with pytest.raises(StorageError, match="MUSTER_REPORT: what was published cannot be told: No space left on device"):
        report.write(step=21, model={"path": "model"})


def test_of_many_pods_the_last_words_are_short_enough_and_have_what_was_learned():
    machines = [{"rank": rank, "flops": 10**14, "latency": 0.000123, "bandwidth": 10**10} for rank in range(50)]
    learned = Progress({"step": 21}, {"validationAccuracy": 0.98}, model={"path": "model"}, preflight=machines)
    state = said(range(50), learned, replicas=50)
    words = termination.fit(state)
    assert len(words) <= termination.LIMIT < len(json.dumps(state))
    assert json.loads(words) == state | {"members": [], "stragglers": None, "preflight": None}


def test_a_report_is_read_on_whatever_is_written_and_also_where_it_is_written_anew(tmp_path):
    seen, progress = [], Progress()

    def take(line, now):
        progress.merge(line, now)
        seen.append(line)

    reader = ReportReader(tmp_path / "report", take)
    words = ['{"step": 1, "loss": 0.25}', "no JSON", "[" * 100_000, f'{{"loss": 1{"0" * 400}}}', '{"step": 2}']
    (tmp_path / "report").write_text("\n".join([*words, '{"step": 7']))
    reader.catch_up()
    assert [line["step"] for line in seen] == [1, 2]
    (tmp_path / "report").write_text('{"step": 3}\n')
    reader.catch_up()
    assert [line["step"] for line in seen] == [1, 2, 3]
    assert progress.metrics == {"loss": 0.25}


def test_last_words_of_what_is_no_text_are_told(tmp_path):
    (tmp_path / "log").touch()
    state = said([0], Progress()) | {"error": "/data/\udcff.csv cannot be read"}
    termination.write(tmp_path / "log", state)
    assert json.loads((tmp_path / "log").read_bytes()) == state
