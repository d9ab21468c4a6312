"""Every sample exactly once an epoch, at any world size, also across resumes."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from muster_worker.train.sharding import EpochPlan, share
from muster_worker.train.trainer import epoch_order

plans = st.builds(EpochPlan, st.integers(1, 400), st.integers(1, 70), st.integers(1, 5))
world_sizes = st.integers(1, 9)


def used(step, world_size):
    """The positions each rank uses, batch by batch."""
    return [list(share(batch, rank, world_size)) for batch in step.batches for rank in range(world_size)]


@given(plans, world_sizes)
def test_an_epoch_uses_every_position_exactly_once(plan, world_size):
    positions = [p for step in plan.steps_from(0) for part in used(step, world_size) for p in part]
    assert positions == list(range(plan.samples))


@given(plans, st.lists(st.tuples(world_sizes, st.integers(0, 30)), max_size=5), world_sizes)
def test_also_when_the_world_size_changes_in_the_middle_of_an_epoch(plan, interruptions, last_world_size):
    position, positions = 0, []
    for world_size, steps in [*interruptions, (last_world_size, plan.steps)]:
        for _, step in zip(range(steps), plan.steps_from(position), strict=False):
            positions += [p for part in used(step, world_size) for p in part]
            position = step.stop
    assert positions == list(range(plan.samples))


@given(plans)
def test_steps_are_counted_as_they_are_made(plan):
    steps = list(plan.steps_from(0))
    assert len(steps) == plan.steps
    assert all(step.samples == plan.batch_size * plan.accumulation for step in steps[:-1])
    assert all(len(batch) <= plan.batch_size for step in steps for batch in step.batches)


@given(plans, world_sizes)
def test_the_shares_of_a_batch_differ_by_at_most_one_sample(plan, world_size):
    for step in plan.steps_from(0):
        for batch in step.batches:
            sizes = [len(share(batch, rank, world_size)) for rank in range(world_size)]
            assert max(sizes) - min(sizes) <= 1


@given(st.integers(0, 2**70), st.integers(0, 1000), st.integers(1, 300))
def test_the_order_of_an_epoch_is_a_permutation_that_seed_and_epoch_decide(seed, epoch, samples):
    order = epoch_order(seed, epoch, samples)
    assert sorted(order.tolist()) == list(range(samples))
    assert torch.equal(order, epoch_order(seed, epoch, samples))


def test_epochs_have_different_orders():
    assert not torch.equal(epoch_order(0, 0, 100), epoch_order(0, 1, 100))
