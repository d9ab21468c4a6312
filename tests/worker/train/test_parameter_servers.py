"""Parameter servers: what is lost of them, how far workers go ahead, and what is sent."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from torch import nn

from muster_worker.train.durable import read_json
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.model_directory import load_model
from muster_worker.train.parameter_server import client
from muster_worker.train.parameter_server.leases import Leases, Opened
from muster_worker.train.parameter_server.measured import Measured
from muster_worker.train.parameter_server.quantized import ErrorFeedback, check_real, decoded
from muster_worker.train.parameter_server.shard import Shard
from muster_worker.train.parameter_server.shards import parts_of
from muster_worker.train.parameter_server.wire import messages, packed, received, unpacked
from muster_worker.train.sample_log import surviving_epochs
from tests.worker.train import ranks

DEEP = "tests.worker.train.recipes:Deep"
LONG = {"epochs": 30, "samples": 80, "batchSize": 8}
STEPS = 300


@pytest.fixture
def start(start_ranks, tmp_path):
    """Starts some ranks of servers and workers; the servers' addresses are the same in each call."""
    addresses = {}

    def begin(servers, workers, *, recipe=DEEP, only=None, config=LONG, staleness=0, compression="none", **options):
        strategy = {"type": "parameterServer", "staleness": staleness, "gradientCompression": compression}
        where = addresses.setdefault(servers, ranks.addresses(servers))
        return start_ranks(
            *("storage", servers + workers),
            recipe=recipe,
            only=only,
            config=config,
            MUSTER_STRATEGY=json.dumps(strategy),
            MUSTER_PARAMETER_SERVERS=where,
            MUSTER_SAMPLE_LOG=str(tmp_path / "samples"),
            **options,
        )

    return begin


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process learns."""
    group = ranks.start(tmp_path_factory.mktemp("alone") / "storage", 1, recipe=DEEP, config=LONG)
    assert group.wait() == [0], group.output()
    return weights(group)


def weights(group):
    return load_model(group.storage / "model").weights()


def assert_learned(group, wanted):
    found = weights(group)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)


def assert_each_sample_once(tmp_path, config=LONG):
    epochs = surviving_epochs(tmp_path / "samples")
    assert sorted(epochs) == list(range(1, config["epochs"] + 1))
    for samples in epochs.values():
        assert sorted(samples) == list(range(config["samples"]))


# --- what is measured ---


@pytest.mark.long
@pytest.mark.parametrize("servers", [1, 2])
def test_of_servers_and_workers_there_are_figures(start, servers):
    group = start(servers, 2, LOCAL_RANK="0")  # each in a pod of its own
    assert group.wait() == [0] * (servers + 2), group.output()
    told = [line["preflight"] for line in group.reports() if "preflight" in line]
    whole = next(figures for figures in told if len(figures) == servers + 2)
    assert [one["rank"] for one in whole] == list(range(servers + 2))
    for one in whole:
        assert one["flops"] > 1e8
        has_links = one["rank"] >= servers or servers > 1
        assert ("latency" in one, "bandwidth" in one) == (has_links, has_links)
        if has_links:
            assert 0 < one["latency"] < 1
            assert one["bandwidth"] > 1e6


def test_of_a_worker_that_has_gone_nothing_is_told_any_more():
    told = []
    measured = Measured([{"rank": 0, "flops": 9}], told.append)
    first, again = object(), object()
    measured.come(first, {"rank": 1, "flops": 1})
    measured.go(first)
    measured.go(first)
    measured.come(again, {"rank": 1, "flops": 8})
    assert [[one["flops"] for one in figures] for figures in told] == [[9], [9, 1], [9], [9, 8]]


class SilentChannel:
    """To a server that has nothing to do."""

    def __init__(self, said):
        self._said = said

    def stream_stream(self, _):
        return self

    def __call__(self, messages):
        self._said.append(json.loads(next(messages))["preflight"])
        return self

    def __iter__(self):
        return iter(())

    def cancel(self):
        pass


def test_links_are_measured_anew_when_a_server_is_somewhere_else(monkeypatch):
    places, found, said = iter(["10.0.0.1", "10.0.0.1", "10.0.0.2"]), iter("ab"), []
    monkeypatch.setattr(client, "_place_of", lambda _: next(places))
    monkeypatch.setattr(client, "_measured", lambda _: next(found))
    worker = client.Client(["digits-0:7071"], "w", "f", figures=lambda links: {"links": links})
    worker._channels = [SilentChannel(said)]
    for _ in range(3):
        assert list(worker._session(compute=lambda _: None)) == []
    assert said == [{"links": ["a"]}, {"links": ["a"]}, {"links": ["b"]}]


# --- who is lost ---


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP], ids=lambda one: one.name)
def test_a_lost_worker_stops_nobody(start, alone, tmp_path, number):
    group = start(2, 3)
    group.until_step(50)
    group.signal(4, number)
    for process in group.processes[:4]:
        process.join(ranks.LIMIT)
        assert process.exitcode == 0, group.output()
    assert_learned(group, alone)
    assert_each_sample_once(tmp_path)
    assert "worker 2 (rank 4) is lost: share" in group.output()


@pytest.mark.long
def test_a_worker_may_come_later(start, alone, tmp_path):
    group = start(1, 3, only=[0, 1])
    group.until_step(50)
    late = start(1, 3, only=[2])
    assert group.wait() + late.wait() == [0] * 3, group.output()
    assert "worker 1 (rank 2) is here" in group.output()
    assert_learned(group, alone)
    assert_each_sample_once(tmp_path)


@pytest.mark.long
def test_workers_may_be_added_and_taken_away_and_share_each_step_among_those_that_are_there(start, alone, tmp_path):
    elastic = {"MUSTER_MIN_REPLICAS": "1"}
    group = start(2, 3, only=[0, 1, 2], **elastic)
    group.until_step(50)
    added = start(2, 3, only=[3, 4], **elastic)
    group.until_step(150)
    added.signal(1)
    group.signal(2)
    assert group.wait()[:2] + added.wait()[:1] == [0] * 3, group.output()
    assert_learned(group, alone)
    assert_each_sample_once(tmp_path)


def test_with_one_worker_of_several_that_there_can_be_each_step_is_one_share(start):
    group = start(1, 3, only=[0, 1], config=LONG | {"epochs": 1}, MUSTER_MIN_REPLICAS="1")
    assert group.wait() == [0, 0], group.output()
    size = sum(tensor.nbytes for tensor in weights(group).values())
    assert group.reports()[-1]["pushedBytes"] == 10 * (size + len(weights(group)))


@pytest.mark.long
def test_a_lost_server_comes_back_from_the_checkpoint_and_the_workers_wait_for_it(start, alone, tmp_path):
    options = {"checkpoint": {"everySteps": 40, "asynchronous": True}}
    group = start(2, 2, **options)
    group.until_step(100)
    group.signal(1, signal.SIGKILL)
    group.processes[0].join(ranks.LIMIT)
    assert group.processes[0].exitcode not in (0, None), "servers hold one state together"
    assert all(process.is_alive() for process in group.processes[2:])
    again = start(2, 2, only=[0, 1], **options)
    assert again.wait() == [0, 0], group.output()
    for process in group.processes[2:]:
        process.join(ranks.LIMIT)
        assert process.exitcode == 0, group.output()
    assert again.reports()[-1]["resumedFromStep"] in range(80, STEPS, 40)
    assert "waits for the servers" in group.output()
    assert_learned(group, alone)
    assert_each_sample_once(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("servers", [1, 2])
def test_checkpoints_are_made_by_the_clock_however_long_the_servers_wait_for_a_step(start, servers):
    config = {"epochs": 1, "samples": 24, "batchSize": 8}
    recipe = "tests.worker.train.recipes:Unhurried"
    group = start(servers, 1, recipe=recipe, config=config, checkpoint={"everySeconds": 0.1})
    assert group.wait() == [0] * (servers + 1), group.output()
    saved = [line["checkpoint"]["step"] for line in group.reports() if "checkpoint" in line]
    assert saved[-2:] == [2, 3]


# --- how far ahead, and how many bytes ---


def evaluations(group):
    manifest = read_json(max((group.storage / "checkpoints").iterdir()) / "manifest.json")
    return manifest["state"]["progress"]["history"]


@pytest.mark.long
@pytest.mark.parametrize(("staleness", "compression"), [(3, "none"), (0, "int8"), (2, "int8")])
def test_it_learns_with_stale_or_small_gradients(start, tmp_path, staleness, compression):
    config = LONG | {"epochs": 60}
    group = start(2, 3, staleness=staleness, compression=compression, config=config)
    assert group.wait() == [0] * 5, group.output()
    assert_each_sample_once(tmp_path, config)
    last = evaluations(group)[-10:]
    assert last[-1]["step"] == 2 * STEPS
    # How old gradients are is a matter of timing, and with old ones the loss swings. Were all of them as old as may be,
    # it would come below 0.5 within these ten epochs: so a simulation by one process.
    assert min(one["validationLoss"] for one in last) < 1.0, "of 14 at first"


def test_int8_sends_about_a_quarter(start):
    config = LONG | {"epochs": 1, "width": 64}
    sent = []
    for compression in ("none", "int8"):
        group = start(1, 2, config=config, compression=compression, only=None)
        assert group.wait() == [0] * 3, group.output()
        (told,) = {line["pushedBytes"] for line in group.reports()[-1:]}
        sent.append(told)
        group.storage.rename(group.storage.with_name(f"of-{compression}"))
    assert 0.2 < sent[1] / sent[0] < 0.3


def test_bytes_are_told(start):
    group = start(2, 2, config=LONG | {"epochs": 1})
    assert group.wait() == [0] * 4, group.output()
    size = sum(tensor.nbytes for tensor in weights(group).values())
    last = group.reports()[-1]
    flags = len(weights(group))
    assert last["pushedBytes"] == 10 * 2 * (size + flags), "ten steps of two shares"
    assert last["pulledBytes"] >= 10 * size


# --- leases ---


def test_a_step_is_leased_once_the_one_before_is_made():
    leases = Leases("run", staleness=0)
    leases.open(0, [Opened(5, 40, 2), Opened(6, 48, 2)])
    first, second = leases.take("a", 0), leases.take("b", 0)
    assert [(one.step, one.share, one.version) for one in (first, second)] == [(5, 0, 5), (5, 1, 5)]
    leases.finish("a", "of a")
    assert leases.take("a", 0) is None
    assert leases.told(0) is None
    leases.finish("b", "of b")
    assert leases.told(0) == ["of a", "of b"]
    leases.advance()
    assert (leases.take("b", 0).step, leases.take("a", 0).share) == (6, 1)


def test_a_worker_is_at_most_so_many_steps_ahead_of_the_slowest():
    leases = Leases("run", staleness=2)
    leases.open(0, [Opened(step, 8 * step, 2) for step in range(9)])
    assert (slow := leases.take("slow", 0)).step == 0
    steps = []
    while (lease := leases.take("fast", 0)) is not None:
        steps.append((lease.step, lease.version))
        leases.finish("fast", None)
    assert steps == [(0, 0), (1, 0), (1, 0), (2, 0), (2, 0)]
    leases.finish("slow", None)
    assert slow.share == 0
    leases.advance()
    assert (leases.take("fast", 0).step, leases.take("slow", 0).version) == (3, 1)


def test_another_gets_what_a_lost_worker_had():
    leases = Leases("run", staleness=0)
    leases.open(0, [Opened(0, 0, 2)])
    left = leases.take("lost", 0)
    assert leases.release("lost") == left
    assert leases.release("lost") is None
    leases.finish("lost", "too late")
    assert leases.told(0) is None
    assert leases.take("other", 0) == left


def test_where_workers_come_and_go_a_step_has_as_many_shares_as_there_are():
    leases = Leases("run", staleness=0, elastic=True)
    leases.come("a")
    leases.open(0, [Opened(step, 8 * step, 3) for step in range(5)])

    def make(*holders):
        found = [leases.take(holder, 0) for holder in holders]
        for holder in holders:
            leases.finish(holder, holder)
        assert leases.told(0) == list(holders)
        leases.advance()
        return [(lease.step, lease.share, lease.shares) for lease in found]

    assert make("a") == [(0, 0, 1)]
    leases.come("b")
    assert make("a") == [(1, 0, 1)], "it was opened before"
    for late in ("c", "d"):
        leases.come(late)
    assert make("a", "b") == [(2, 0, 2), (2, 1, 2)]
    assert make("a", "b", "d") == [(3, 0, 3), (3, 1, 3), (3, 2, 3)], "no more than it has samples, or workers"
    for gone in ("a", "b", "c", "d"):
        leases.release(gone)
    leases.evaluate(5, 3)
    leases.come("e")
    assert make("e") == [(5, 0, 1)], "who comes when nobody was there has all of it"


def test_an_end_is_told_to_all():
    leases = Leases("run", staleness=0)
    leases.end()
    assert {leases.take(holder, 0).kind for holder in "ab"} == {"end"}


# --- parts and bytes ---


def test_parts_are_about_as_large_and_have_everything():
    model = nn.Sequential(nn.Linear(100, 100), nn.BatchNorm1d(100), nn.Linear(100, 50), nn.Linear(50, 100))
    parts = parts_of(model, 2)
    names = [name for part in parts for name in part.parameters]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    tensors = dict(model.named_parameters())
    sizes = [sum(tensors[name].nbytes for name in part.parameters) for part in parts]
    assert max(sizes) < 1.05 * min(sizes)
    assert [len(part.buffers) for part in parts] == [3, 0]


def test_more_servers_than_parameters_are_named():
    with pytest.raises(ConfigurationError, match=r"spec\.strategy\.parameterServers: found 3, wanted at most 2"):
        parts_of(nn.Linear(2, 2), 3)


def test_bytes_become_the_tensors_again():
    tensors = [torch.randn(3, 5), torch.tensor(7), torch.tensor([True, False]), torch.empty(0, 4), torch.randn(2)]
    again = unpacked(packed(tensors), tensors)
    for found, wanted in zip(again, tensors, strict=True):
        assert torch.equal(found, wanted)
    with pytest.raises(ValueError, match="found 3 bytes, wanted"):
        unpacked(bytearray(3), tensors)


def test_messages_become_the_bytes_again():
    payload = packed([torch.randn(3 << 19)])
    sent = list(messages(payload))
    assert [len(one) for one in sent] == [2 << 20, 2 << 20, 2 << 20]
    assert received(sent, len(payload)) == payload
    for size in len(payload) - 1, len(payload) + 1:
        with pytest.raises(ValueError, match=f"found {len(payload)} bytes, wanted {size}"):
            received(sent, size)


def test_what_rounding_leaves_is_sent_later():
    torch.manual_seed(0)
    feedback, gradient = ErrorFeedback(), torch.randn(700)
    sent = [decoded(packed(feedback.encoded(["weight"], [gradient])), [gradient])[0] for _ in range(50)]
    assert len(packed([gradient])) / len(packed(ErrorFeedback().encoded(["weight"], [gradient]))) > 3.9
    assert 0 < (sent[0] - gradient).abs().max() < 0.02
    assert (sum(sent) - 50 * gradient).abs().max() < 0.02, "the error of fifty is that of one"


def test_complex_numbers_are_not_rounded_to_real_ones():
    model = nn.ParameterDict({"real": torch.ones(2), "phase": torch.ones(2, dtype=torch.complex64)})
    with pytest.raises(ConfigurationError, match="found int8, which has no complex numbers, as phase has, wanted none"):
        check_real(model)
    check_real(nn.Linear(2, 2))


def test_a_share_counts_once_and_in_its_place():
    parameter = nn.Parameter(torch.zeros(2))
    shard = Shard([parameter], [], version=4)

    def push(share, value, step=4):
        payload = bytearray([1]) + packed([torch.full((2,), value)])
        shard.push(step, share, payload, quantized=False)

    push(1, 10.0)
    push(1, 99.0)
    push(0, 1.0)
    push(0, 99.0)
    with shard.update(shares=2):
        assert parameter.grad.tolist() == [11.0, 11.0]
    push(0, 99.0)
    assert shard.pull(6, None, 0) is None
    assert shard.pull(5, 5, 0) == (5, b"")


def test_a_parameter_that_no_sample_reached_has_no_gradient():
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    shard = Shard(parameters, [], version=0)
    shard.push(0, 0, bytearray([0, 1]) + packed([torch.ones(1)]), quantized=False)
    with shard.update(shares=1):
        assert [one.grad for one in parameters] == [None, torch.ones(1)]
