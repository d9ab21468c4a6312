"""The coordinator, fed by hand: who gets into which round, and what is recorded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster_worker.agent.coordinator import Coordinator
from muster_worker.agent.protocol import (
    Broken,
    Elsewhere,
    Failure,
    Finished,
    Formed,
    Healthy,
    Join,
    Member,
    Refused,
    Round,
    Wait,
)
from muster_worker.agent.rounds import (
    FIRST_BACKOFF,
    GATHER,
    LONGEST_BACKOFF,
    PATIENCE_FOR_GROWING,
    PATIENCE_FOR_SAVING,
    PATIENCE_FOR_THE_CAUSE,
    SILENCE,
    STARTING_TAKES,
    Policy,
)


def member(rank: int, attempt: int = 1, process: str = "a") -> Member:
    return Member(f"{rank}.{attempt}.{process}", rank, f"digits-{rank}-{attempt}", attempt, "10.0.0.1", 4000 + rank)


def killed(rank: int) -> Failure:
    return Failure(rank, f"digits-{rank}-1", "Signal", 137, f"rank {rank} was killed by SIGKILL")


def peer_gone(rank: int) -> Failure:
    return Failure(rank, f"digits-{rank}-1", "ExitCode", 1, f"rank {rank}: Connection closed by peer", secondary=True)


class Job:
    """A coordinator with a clock and the members that talk to it."""

    def __init__(self, replicas: int = 3) -> None:
        self.now = 100.0
        self.replicas = replicas
        self.coordinator = Coordinator("uid-1", replicas, "c")

    def join(self, who: Member, left: str | None = None, **fields):
        return self.coordinator.join(self.now, Join("uid-1", who, left=left, **fields))

    def form(self, *members: Member, left: str | None = None) -> Round:
        members = members or tuple(member(rank) for rank in range(self.replicas))
        for who in members:
            self.join(who, left)
        answer = self.coordinator.answer_to_join(members[0].id, left)
        assert isinstance(answer, Formed)
        return answer.round

    def beat(self, who: Member, of: Round, **fields):
        return self.coordinator.beat(self.now, who.id, of.id, **fields)

    def fail(self, who: Member, of: Round, *failures: Failure) -> None:
        self.coordinator.fail(self.now, who.id, of.id, failures)

    def rejoin(self, of: Round, *, then: float = 0.0) -> Round | None:
        """Everybody leaves this round for the next; `then` seconds pass with everybody still asking."""
        for who in of.members:
            self.join(who, of.id)
        self.pass_time(then, of.members, of)
        answer = self.coordinator.answer_to_join(of.members[0].id, of.id)
        return answer.round if isinstance(answer, Formed) else None

    def pass_time(self, seconds: float, alive: tuple[Member, ...], of: Round | None) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.25)
            for who in alive:
                if of is not None:
                    self.beat(who, of)
            self.coordinator.tick(self.now)


@pytest.fixture
def job() -> Job:
    return Job()


def test_a_round_forms_when_every_rank_has_joined(job: Job) -> None:
    assert job.join(member(0)) == Wait((1, 2))
    assert job.join(member(2)) == Wait((1,))

    answer = job.join(member(1))

    assert isinstance(answer, Formed)
    assert [found.rank for found in answer.round.members] == [0, 1, 2]
    assert answer.round.attempt == 1


def test_a_lost_answer_is_given_again(job: Job) -> None:
    formed = job.form()

    assert job.join(member(1)) == Formed(formed)
    assert job.beat(member(1), formed) == Healthy()


@pytest.mark.parametrize(
    ("join", "said"),
    [
        (Join("uid-2", member(0)), "run id uid-2 is not this job's"),
        (Join("uid-1", member(3)), "rank 3 is not one of 0 … 2"),
    ],
)
def test_a_stranger_is_refused(job: Job, join: Join, said: str) -> None:
    answer = job.coordinator.join(job.now, join)

    assert isinstance(answer, Refused)
    assert said in answer.reason


def test_a_failed_rank_breaks_the_round_and_is_recorded_when_the_same_pods_form_again(job: Job) -> None:
    first = job.form()
    job.coordinator.step(job.now, 20, 0)
    job.fail(member(1), first, killed(1))

    assert job.beat(member(0), first) == Broken("rank 1 was killed by SIGKILL", 0.0)
    second = job.rejoin(first)

    assert second is not None
    assert second.attempt == 2
    (restart,) = job.coordinator.restarts
    assert (restart.attempt, restart.failure, restart.recovery_seconds) == (1, killed(1), None)


def test_recovery_and_lost_steps_are_known_at_the_next_step(job: Job) -> None:
    first = job.form()
    job.coordinator.step(job.now, 812, 0)
    job.fail(member(1), first, killed(1))
    job.now += 1.5
    assert job.rejoin(first) is not None
    job.now += 0.5

    job.coordinator.step(job.now, 801, 800)

    (restart,) = job.coordinator.restarts
    assert (restart.recovery_seconds, restart.steps_lost) == (2.0, 12)


def test_ranks_that_never_report_have_recovered_once_they_run(job: Job) -> None:
    first = job.form()
    job.pass_time(31, first.members, first)
    job.fail(member(1), first, killed(1))
    assert job.rejoin(first) is not None
    job.now += 0.5

    job.coordinator.ranks_started(job.now)

    assert job.coordinator.restarts[0].recovery_seconds == 0.5


def test_the_rank_to_blame_is_recorded_not_the_first_to_complain(job: Job) -> None:
    first = job.form()
    job.coordinator.step(job.now, 5, 0)
    job.fail(member(0), first, peer_gone(0))

    assert job.beat(member(2), first) == Broken(peer_gone(0).message, PATIENCE_FOR_THE_CAUSE)
    job.fail(member(1), first, killed(1))
    assert job.beat(member(2), first) == Broken(killed(1).message, 0.0)
    assert job.rejoin(first) is not None

    assert job.coordinator.restarts[0].failure == killed(1)


def test_a_failure_told_only_when_joining_counts_as_well(job: Job) -> None:
    first = job.form()
    job.coordinator.step(job.now, 5, 0)

    job.join(member(1), first.id, failures=(killed(1),))

    assert job.rejoin(first) is not None
    assert job.coordinator.restarts[0].failure == killed(1)


def test_a_silent_member_breaks_the_round(job: Job) -> None:
    first = job.form()
    job.coordinator.step(job.now, 5, 0)

    job.pass_time(SILENCE + 0.5, (member(0), member(1)), first)

    assert job.beat(member(0), first) == Broken("digits-2-1 did not answer for 3 s", 0.0)
    assert job.join(member(0), first.id) == Wait((1, 2))


def test_a_silent_member_that_comes_back_is_recorded(job: Job) -> None:
    first = job.form()
    job.coordinator.step(job.now, 5, 0)
    job.pass_time(SILENCE + 0.5, (member(0), member(1)), first)

    second = job.rejoin(first)

    assert second is not None
    assert second.attempt == 2
    assert job.coordinator.restarts[0].failure.cause == "Silent"


def test_a_replaced_pod_brings_its_own_attempt_and_no_record(job: Job) -> None:
    first = job.form()
    job.fail(member(0), first, peer_gone(0))
    job.pass_time(SILENCE + 0.5, (member(0), member(1)), first)

    second = job.form(member(0), member(1), member(2, 4), left=first.id)

    assert second.attempt == 4
    assert [found.pod for found in second.members] == ["digits-0-1", "digits-1-1", "digits-2-4"]
    assert job.coordinator.restarts == []


def test_a_pod_that_takes_a_living_ones_place_breaks_the_round(job: Job) -> None:
    first = job.form()

    job.join(member(2, 2))

    assert job.beat(member(0), first) == Broken("digits-2-2 has taken the place of digits-2-1", 0.0)
    assert isinstance(job.beat(member(2), first), Refused)
    assert isinstance(job.join(member(2), first.id), Refused)


def test_a_new_coordinator_learns_the_fences_and_the_attempt_from_the_members(job: Job) -> None:
    job.join(member(0, 6))
    job.join(member(1), "old-4", attempt=5, fences=((0, 1), (1, 1), (2, 3)))

    assert isinstance(job.join(member(2, 2)), Refused)
    answer = job.join(member(2, 3), "old-4", attempt=5)

    assert isinstance(answer, Formed)
    assert answer.round.attempt == 6


def test_a_zombie_that_came_first_is_put_out_once_its_better_is_known(job: Job) -> None:
    job.join(member(0))
    job.join(member(2, 1))

    answer = job.join(member(1), fences=((2, 3),))

    assert answer == Wait((2,))
    assert isinstance(job.coordinator.answer_to_join(member(2, 1).id, None), Refused)


def test_a_member_that_leaves_gives_the_others_time_to_save(job: Job) -> None:
    first = job.form()

    job.coordinator.leave(job.now, member(2).id, first.id)

    assert job.beat(member(0), first) == Broken("digits-2-1 left", PATIENCE_FOR_SAVING)
    job.join(member(1), first.id)
    assert job.join(member(0), first.id) == Wait((2,))


def test_ranks_that_ask_for_a_new_round_get_it_without_a_record(job: Job) -> None:
    first = job.form()
    job.coordinator.step(job.now, 5, 0)
    job.coordinator.leave(job.now, member(2).id, first.id, reform=True)

    second = job.rejoin(first)

    assert second is not None
    assert second.id != first.id
    assert (second.attempt, job.coordinator.restarts) == (1, [])


def test_the_group_is_done_when_every_member_is(job: Job) -> None:
    first = job.form()

    assert job.beat(member(0), first, done=True) == Healthy()
    assert job.beat(member(1), first, done=True) == Healthy()
    assert job.beat(member(2), first, done=True) == Finished(0)

    assert not job.coordinator.everybody_knows_the_end(job.now)
    assert job.beat(member(0), first, done=True) == Finished(0)
    assert job.beat(member(1), first, done=True) == Finished(0)
    assert job.coordinator.everybody_knows_the_end(job.now)


def test_where_rank_zero_decides_the_group_is_done_when_it_is(job: Job) -> None:
    job.coordinator = Coordinator("uid-1", job.replicas, "c", Policy(rank_0_decides=True))
    first = job.form()

    assert job.beat(member(1), first, done=True) == Healthy()
    assert job.beat(member(0), first, done=True) == Finished(0)
    assert job.beat(member(2), first) == Finished(0)


def test_members_that_were_done_start_again_with_the_others(job: Job) -> None:
    first = job.form()
    job.coordinator.step(job.now, 5, 0)
    job.beat(member(0), first, done=True)
    job.fail(member(1), first, killed(1))
    second = job.rejoin(first)
    assert second is not None

    job.beat(member(1), second, done=True)
    job.beat(member(2), second, done=True)

    assert job.coordinator.finished is None


def test_a_permanent_failure_ends_the_job_for_all(job: Job) -> None:
    first = job.form()
    hopeless = Failure(1, "digits-1-1", "ExitCode", 2, "rank 1 ended with exit code 2", permanent=True)

    job.fail(member(1), first, hopeless)

    assert job.beat(member(0), first) == Finished(2, "rank 1 ended with exit code 2")
    assert job.join(member(1), first.id, failures=(hopeless,)) == Finished(2, "rank 1 ended with exit code 2")


def test_a_permanent_code_of_a_rank_whose_peer_went_away_is_no_end(job: Job) -> None:
    first = job.form()

    job.fail(member(0), first, replace(peer_gone(0), permanent=True))

    assert job.coordinator.finished is None


def test_restarts_without_progress_wait_longer_and_longer(job: Job) -> None:
    formed = job.form()
    waits = []
    for _ in range(7):
        job.fail(member(1), formed, killed(1))
        failed_at = job.now
        following = job.rejoin(formed)
        while following is None:
            following = job.rejoin(formed, then=0.25)
        waits.append(job.now - failed_at)
        formed = following

    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_BACKOFF, LONGEST_BACKOFF]


def test_progress_ends_the_waiting(job: Job) -> None:
    formed = job.form()
    job.fail(member(1), formed, killed(1))
    second = job.rejoin(formed, then=1.0)
    assert second is not None
    job.coordinator.step(job.now, 1, 0)
    job.fail(member(1), second, killed(1))

    assert job.rejoin(second) is not None


def test_steps_made_before_are_no_progress(job: Job) -> None:
    formed = job.form()
    job.coordinator.step(job.now, 100, 0)
    job.fail(member(1), formed, killed(1))
    second = job.rejoin(formed)
    assert second is not None
    job.coordinator.step(job.now, 90, 80)
    job.fail(member(1), second, killed(1))

    assert job.rejoin(second) is None


def test_a_coordinator_that_was_held_up_blames_nobody(job: Job) -> None:
    first = job.form()
    job.coordinator.tick(job.now)
    job.now += 20

    job.coordinator.tick(job.now)

    assert job.beat(member(0), first) == Healthy()


def hanging(job: Job, *, steps_expected: bool = True) -> Round:
    job.coordinator = Coordinator("uid-1", 3, "c", Policy(hang_timeout=10, steps_expected=steps_expected))
    return job.form()


def test_ranks_that_report_nothing_for_too_long_hang(job: Job) -> None:
    first = hanging(job)
    job.pass_time(9.5, first.members, first)
    assert job.beat(member(1), first) == Healthy()

    job.pass_time(1, first.members, first)

    assert job.beat(member(1), first) == Broken("no progress was reported for 10 s", hung=True)
    second = job.rejoin(first, then=FIRST_BACKOFF)
    assert second is not None
    assert second.attempt == 2
    record = job.coordinator.restarts[0].failure
    assert (record.cause, record.rank, record.pod) == ("Hang", None, None)


def test_whatever_they_report_counts_as_progress(job: Job) -> None:
    first = hanging(job)
    for _ in range(5):
        job.pass_time(8, first.members, first)
        job.coordinator.reported(job.now)
    assert job.beat(member(1), first) == Healthy()


def test_a_rank_that_was_stopped_is_to_blame_for_the_hang(job: Job) -> None:
    first = hanging(job)
    job.pass_time(9.75, first.members, first)
    job.beat(member(2), first, stopped=(2,))
    job.pass_time(0.5, (), first)

    record = job.coordinator.primary_failure
    assert record is not None
    assert (record.rank, record.pod) == (2, "digits-2-1")
    assert "rank 2 was stopped by a signal" in record.message


def test_a_script_that_never_reports_does_not_hang(job: Job) -> None:
    first = hanging(job, steps_expected=False)
    job.pass_time(60, first.members, first)
    assert job.beat(member(1), first) == Healthy()


def test_without_a_limit_nothing_hangs(job: Job) -> None:
    first = job.form()
    job.coordinator.step(job.now, 1, 0)
    job.pass_time(10_000, first.members, first)
    assert job.beat(member(1), first) == Healthy()


def test_a_coordinator_that_was_held_up_sees_as_soon_as_ever_who_is_lost_then(job: Job) -> None:
    first = job.form()
    job.coordinator.tick(job.now)
    job.now += 60
    for who in first.members:
        job.beat(who, first)
    job.coordinator.tick(job.now + 0.1)

    job.pass_time(SILENCE + 0.3, first.members[1:], first)

    assert isinstance(job.beat(member(1), first), Broken)


def test_a_coordinator_that_was_held_up_finds_no_hang(job: Job) -> None:
    first = hanging(job)
    job.coordinator.tick(job.now)
    job.now += 60
    job.coordinator.tick(job.now)
    assert job.beat(member(1), first) == Healthy()


def elastic(replicas: int = 3, least: int = 2, most: int = 8) -> Job:
    job = Job(replicas)
    job.coordinator = Coordinator("uid-1", replicas, "c", Policy(least=least, most=most))
    return job


def ranks(formed: Round | None) -> list[int]:
    assert formed is not None
    return [found.rank for found in formed.members]


def test_an_elastic_group_begins_whole_where_it_can() -> None:
    job = elastic()
    job.join(member(0))
    assert job.join(member(1)) == Wait((2,))
    answer = job.join(member(2))
    assert isinstance(answer, Formed)
    assert ranks(answer.round) == [0, 1, 2]


def test_an_elastic_group_begins_without_those_that_do_not_come() -> None:
    job = elastic()
    for _ in range(int(STARTING_TAKES)):
        job.join(member(0))
        job.join(member(2))
        job.pass_time(1, (), None)
    answer = job.join(member(0))
    assert isinstance(answer, Formed)
    assert ranks(answer.round) == [0, 2]


def test_an_elastic_group_never_forms_of_fewer_than_it_may() -> None:
    job = elastic()
    for _ in range(int(STARTING_TAKES) * 2):
        job.join(member(0))
        job.pass_time(1, (), None)
    assert job.join(member(0)) == Wait((1, 2))


def test_an_elastic_group_goes_on_without_a_member_that_went_silent() -> None:
    job = elastic()
    first = job.form()
    job.coordinator.step(job.now, 40, 0)
    job.pass_time(SILENCE + 0.5, (member(0), member(1)), first)
    assert isinstance(job.beat(member(1), first), Broken)
    for who in (member(0), member(1)):
        job.join(who, first.id)
    second = job.coordinator.round
    assert ranks(second) == [0, 1]
    assert second.attempt == 2, "one failure, one restart"
    failure = job.coordinator.restarts[0].failure
    assert (failure.cause, failure.pod) == ("Silent", "digits-2-1")


def test_an_elastic_group_goes_on_without_a_member_that_left_and_that_is_no_restart() -> None:
    job = elastic()
    first = job.form()
    job.coordinator.leave(job.now, member(2).id, first.id)
    broken = job.beat(member(0), first)
    assert broken == Broken("digits-2-1 left", PATIENCE_FOR_SAVING)
    for who in (member(0), member(1)):
        job.join(who, first.id)
    assert ranks(job.coordinator.round) == [0, 1]
    assert (job.coordinator.attempt, job.coordinator.restarts) == (1, [])


def test_newcomers_are_let_in_together_and_the_ranks_are_asked_to_save_first() -> None:
    job = elastic(replicas=2)
    first = job.form()
    for new in (member(2, attempt=2), member(3, attempt=2)):
        assert isinstance(job.join(new, replicas=4), Wait)
    job.coordinator.tick(job.now)
    broken = job.beat(member(1), first)
    assert broken == Broken("digits-2-2, digits-3-2 came", PATIENCE_FOR_GROWING, leave=True)
    for who in (member(0), member(1)):
        job.join(who, first.id)
    assert ranks(job.coordinator.round) == [0, 1, 2, 3]
    assert (job.coordinator.attempt, job.coordinator.restarts) == (2, [])


def test_a_single_newcomer_of_several_is_waited_with_for_a_moment() -> None:
    job = elastic(replicas=2)
    first = job.form()
    job.join(member(2, attempt=2), replicas=4)
    job.pass_time(GATHER - 0.5, first.members, first)
    assert job.beat(member(1), first) == Healthy()
    job.join(member(2, attempt=2), replicas=4)
    job.pass_time(1, first.members, first)
    assert isinstance(job.beat(member(1), first), Broken)


def test_a_newcomer_that_went_away_again_disturbs_nobody() -> None:
    job = elastic(replicas=2)
    first = job.form()
    job.join(member(2, attempt=2), replicas=3)
    job.coordinator.leave(job.now, member(2, attempt=2).id, "none")
    job.pass_time(GATHER + 1, first.members, first)
    assert job.beat(member(1), first) == Healthy()


def test_the_members_of_the_round_decide_when_the_group_is_done_not_who_waits_to_be_let_in() -> None:
    job = elastic(replicas=2)
    first = job.form()
    job.join(member(2, attempt=2), replicas=4)
    job.beat(member(0), first, done=True)
    assert job.beat(member(1), first, done=True) == Finished(0)
    assert job.join(member(2, attempt=2), replicas=4) == Finished(0)


def test_a_new_coordinator_does_not_wait_for_pods_as_if_they_were_starting() -> None:
    job = elastic()
    for _ in range(int(SILENCE)):
        job.join(member(0, attempt=2))
        job.join(member(1), left="b-1", attempt=1, fences=((0, 1), (1, 1), (2, 1)))
        job.pass_time(1, (), None)
    answer = job.join(member(0, attempt=2))
    assert isinstance(answer, Formed)
    assert ranks(answer.round) == [0, 1]


def test_a_rank_above_the_most_is_refused() -> None:
    assert isinstance(elastic(most=4).join(member(4)), Refused)


def test_of_more_than_half_that_are_lost_an_elastic_group_waits_for_those_it_does_not_know_to_be_gone() -> None:
    """They may have gone on without the others."""
    job = elastic(least=1)
    first = job.form()
    job.pass_time(SILENCE + 0.5, (member(0),), first)
    for _ in range(10):
        assert isinstance(job.join(member(0), first.id), Wait)
        assert job.coordinator.asks_for(job.now) is None, "no word makes it half of them"
        job.pass_time(1, (), None)
    job.coordinator.hear(job.now, None, ("digits-2-1",))
    job.join(member(0), first.id)
    job.coordinator.hear(job.now, job.coordinator.asks_for(job.now), ("digits-2-1",))
    answer = job.join(member(0), first.id)
    assert isinstance(answer, Formed)
    assert ranks(answer.round) == [0]


def test_half_of_an_elastic_group_goes_on_with_the_word_it_asks_for() -> None:
    job = elastic(replicas=2, least=1)
    first = job.form()
    job.coordinator.step(job.now, 40, 0)
    job.pass_time(SILENCE + 0.5, (member(0),), first)
    assert isinstance(job.join(member(0), first.id), Wait)
    word = job.coordinator.asks_for(job.now)
    assert word is not None
    assert word.startswith(f"{first.id}/")
    job.pass_time(SILENCE + 0.5, (), None)
    job.join(member(0), first.id)
    job.coordinator.hear(job.now, word, ())
    assert isinstance(job.join(member(0), first.id), Wait), "that word was on its way for too long"
    job.coordinator.hear(job.now, job.coordinator.asks_for(job.now), ())
    assert isinstance(job.join(member(0), first.id), Formed)
    assert job.coordinator.asks_for(job.now) is None


def test_those_that_left_or_were_replaced_are_not_waited_for() -> None:
    job = elastic(replicas=4, least=1)
    first = job.form()
    job.coordinator.leave(job.now, member(3).id, first.id)
    job.join(member(2, attempt=2))
    job.pass_time(SILENCE + 0.5, (member(0), member(1)), first)
    for who in (member(0), member(1)):
        job.join(who, first.id)
    assert ranks(job.coordinator.round) == [0, 1]


def in_place(job: Job, last: Round, least: int = 1, *, rank_0_decides: bool = False) -> None:
    policy = Policy(least=least, most=8, rank_0_decides=rank_0_decides)
    job.coordinator = Coordinator.in_place_of_the_lost("uid-1", len(last.members), "d", policy, last=last, now=job.now)


def test_the_members_form_anew_around_the_one_that_took_rank_0s_place() -> None:
    job = elastic()
    first = job.form()
    in_place(job, first)
    assert isinstance(job.join(member(1), first.id, attempt=1), Wait)
    answer = job.join(member(2), first.id, attempt=1)
    assert isinstance(answer, Formed)
    assert (ranks(answer.round), answer.round.attempt) == ([1, 2], 2)
    record = job.coordinator.restarts[0]
    assert (record.attempt, record.failure.pod, record.failure.cause) == (1, "digits-0-1", "Silent")


def test_where_rank_0_decides_and_is_lost_the_first_that_is_left_does() -> None:
    job = elastic()
    first = job.form()
    in_place(job, first, rank_0_decides=True)
    job.join(member(1), first.id, attempt=1)
    answer = job.join(member(2), first.id, attempt=1)
    assert isinstance(answer, Formed)
    assert job.beat(member(2), answer.round, done=True) == Healthy()
    assert job.beat(member(1), answer.round, done=True) == Finished(0)
    assert job.beat(member(2), answer.round) == Finished(0)


def test_who_was_lost_together_with_rank_0_is_not_waited_for_as_long_again() -> None:
    job = elastic(replicas=5)
    first = job.form()
    in_place(job, first)
    asking = [member(rank) for rank in (1, 2, 3)]
    for who in asking:
        job.join(who, first.id)
    job.now += SILENCE / 2 + 0.1
    for who in asking:
        answer = job.join(who, first.id)
    assert isinstance(answer, Formed)
    assert ranks(answer.round) == [1, 2, 3]


def test_a_coordinator_that_gives_up_has_the_ranks_save_and_sends_the_members_away() -> None:
    job = elastic()
    first = job.form()
    job.coordinator.give_up(job.now, "rank 0 is back")
    assert job.beat(member(1), first) == Broken("rank 0 is back", PATIENCE_FOR_GROWING, leave=True)
    assert job.join(member(1), first.id) == Elsewhere()
    job.pass_time(60, (), None)
    assert job.coordinator.round is first, "it forms no round any more"


def test_rank_0_that_is_back_lets_in_those_that_have_gone_on_and_that_is_no_restart() -> None:
    job = elastic(least=2)
    first = job.form()
    job.pass_time(SILENCE + 0.5, (member(0),), first)
    job.join(member(0), first.id, attempt=1)
    for who in (member(1), member(2)):
        job.join(who, "d-1", attempt=2)
    job.join(member(0), first.id, attempt=1)
    formed = job.coordinator.round
    assert (ranks(formed), formed.attempt, job.coordinator.restarts) == ([0, 1, 2], 2, [])


REACHED = st.sampled_from([(), (True,), (False,), (True, False)])


@given(
    sides=st.lists(st.booleans(), min_size=2, max_size=6),
    reached=st.lists(REACHED, min_size=60, max_size=60),
    late=st.integers(0, 20),
)
def test_of_a_torn_group_at_most_one_part_goes_on(
    sides: list[bool], reached: list[tuple[bool, ...]], late: int
) -> None:
    """`sides`: where each member is. The operator reaches these in each half of a second, and its words come late by as
    many of these; it gives those for one round to one part.
    """
    job = elastic(replicas=len(sides), least=1)
    first = job.form()
    parts = {side: [who for who in first.members if sides[who.rank] is side] for side in (True, False)}
    with_rank_0 = sides[0]
    coordinators = {with_rank_0: job.coordinator}
    if parts[not with_rank_0]:
        in_place(job, first)
        coordinators[not with_rank_0] = job.coordinator
    given_to: dict[str, bool] = {}
    on_their_way: dict[int, list[tuple[bool, str]]] = {}
    went_on = set()
    for moment, reachable in enumerate(reached):
        job.now += 0.5
        for side, coordinator in coordinators.items():
            coordinator.tick(job.now)
            for who in parts[side]:
                answer = coordinator.join(job.now, Join("uid-1", who, left=first.id, attempt=1))
                if isinstance(answer, Formed) and answer.round.id != first.id:
                    went_on.add(side)
            word = coordinator.asks_for(job.now)
            if side in reachable and word is not None and given_to.setdefault(word.split("/")[0], side) is side:
                on_their_way.setdefault(moment + late, []).append((side, word))
        for side, word in on_their_way.pop(moment, []):
            coordinators[side].hear(job.now, word, ())
    assert len(went_on) <= 1
    if len(parts[True]) == len(parts[False]) and late == 0:
        assert bool(went_on) is bool(given_to)


# --- workers of parameter servers ---


class Served(Job):
    """Two servers, ranks 0 and 1, and two workers."""

    def __init__(self) -> None:
        super().__init__(2)
        self.coordinator = Coordinator("uid-1", 2, "c", Policy(workers=2, hang_timeout=20, steps_expected=True))


def test_a_round_of_servers_needs_no_worker_and_one_that_comes_is_in_it():
    job = Served()
    assert job.join(member(2)) == Wait((0, 1))
    of = job.form(member(0), member(1))
    assert [one.rank for one in of.members] == [0, 1]
    assert job.coordinator.answer_to_join(member(2).id, None) == Formed(of)
    assert job.beat(member(2), of) == Healthy()


def test_a_failed_worker_ends_no_round_and_counts_once():
    job = Served()
    of = job.form(member(0), member(1))
    job.join(member(2))
    job.beat(member(2), of)
    job.fail(member(2), of, killed(2))
    answer = job.join(member(2), of.id, failures=(killed(2),))
    assert isinstance(answer, Formed)
    assert answer.round.id == of.id
    assert job.beat(member(0), of) == Healthy()
    (restart,) = job.coordinator.restarts
    assert (restart.failure.rank, restart.attempt, restart.steps_lost) == (2, 1, 0)
    assert job.coordinator.attempt == 2


def test_a_worker_that_fails_at_once_waits_longer_each_time():
    job = Served()
    of = job.form(member(0), member(1))
    waits = []
    for _ in range(4):
        began = job.now
        while not isinstance(job.coordinator.join(job.now, Join("uid-1", member(2))), Formed):
            job.now += 0.5
            job.beat(member(0), of)
            job.beat(member(1), of)
            job.coordinator.tick(job.now)
        waits.append(job.now - began)
        job.beat(member(2), of)
        job.fail(member(2), of, killed(2))
    assert waits == [0, 0, 1, 2]


def test_workers_go_on_without_a_round_and_with_the_next():
    job = Served()
    of = job.form(member(0), member(1))
    job.join(member(2))
    job.beat(member(2), of)
    job.fail(member(1), of, killed(1))
    assert isinstance(job.beat(member(0), of), Broken)
    assert job.beat(member(2), of) == Healthy()
    assert job.rejoin(of, then=FIRST_BACKOFF).attempt == 2
    assert job.beat(member(2), of) == Healthy()


def test_the_successor_of_a_worker_has_its_place_and_the_old_one_none():
    job = Served()
    of = job.form(member(0), member(1))
    job.join(member(2))
    answer = job.join(member(2, attempt=2))
    assert (answer.round.id, answer.round.attempt) == (of.id, 2)
    assert isinstance(job.beat(member(2), of), Refused)
    assert job.coordinator.restarts == []


def test_a_hang_ends_the_ranks_of_workers_too():
    job = Served()
    of = job.form(member(0), member(1))
    job.join(member(2))
    for _ in range(50):
        job.now += 0.5
        for rank in range(3):
            job.beat(member(rank), of)
        job.coordinator.tick(job.now)
    assert job.beat(member(2), of).hung
    assert isinstance(job.beat(member(0), of), Broken)


def test_servers_that_wait_for_their_first_worker_do_not_hang():
    job = Served()
    of = job.form(member(0), member(1))
    for _ in range(100):
        job.now += 0.5
        job.beat(member(0), of)
        job.beat(member(1), of)
        job.coordinator.tick(job.now)
    assert job.beat(member(0), of) == Healthy()


def test_the_end_is_that_of_the_servers_and_permanent_failures_of_workers():
    job = Served()
    of = job.form(member(0), member(1))
    job.join(member(2))
    for rank in range(2):
        job.beat(member(rank), of, done=True)
    assert job.beat(member(2), of) == Finished(0)
    job = Served()
    of = job.form(member(0), member(1))
    job.join(member(3))
    job.beat(member(3), of)
    job.fail(member(3), of, replace(killed(3), permanent=True, exit_code=2))
    assert job.beat(member(0), of) == Finished(2, killed(3).message)
