"""The coordinator's promises, whatever the members say in whatever order."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from muster_worker.agent.coordinator import Coordinator
from muster_worker.agent.protocol import Broken, Failure, Finished, Formed, Join, Member, Refused, Round
from muster_worker.agent.rounds import GATHER, LONGEST_BACKOFF, SILENCE, Policy

RANKS = st.integers(0, 3)
OUTCOMES = st.sampled_from(["killed", "peer gone", "reform"])


@dataclass
class Agent:
    """A member as the network sees it: it may be silent, late, or dead without knowing that it was replaced."""

    member: Member
    round: Round | None = None
    left: Round | None = None
    refused: bool = False

    def join_request(self) -> Join:
        last = self.left
        fences = tuple((other.rank, other.attempt) for other in last.members) if last else ()
        return Join("uid", self.member, last.id if last else None, last.attempt if last else 0, fences)


class Network(RuleBasedStateMachine):
    """All agents that ever were, talking in any order, through any number of coordinators."""

    @initialize(replicas=st.integers(1, 4), least=st.none() | st.integers(1, 4))
    def begin(self, replicas: int, least: int | None) -> None:
        self.replicas = replicas
        self.least = None if least is None else min(least, replicas)
        self.now = 0.0
        self.attempt = 1
        self.processes = 0
        self.coordinators = 0
        self.agents: list[Agent] = []
        self.rounds: dict[str, Round] = {}
        self.refused_here: set[str] = set()
        self.start_coordinator()
        for rank in range(replicas):
            self.start_agent(rank, 1)

    def start_coordinator(self) -> None:
        self.coordinators += 1
        self.refused_here = set()
        policy = Policy(least=self.least, most=self.least and self.replicas)
        self.coordinator = Coordinator("uid", self.replicas, f"c{self.coordinators}", policy)

    def start_agent(self, rank: int, attempt: int) -> Agent:
        self.processes += 1
        agent = Agent(Member(f"p{self.processes}", rank, f"job-{rank}-{attempt}", attempt, "10.0.0.1", 1))
        self.agents.append(agent)
        return agent

    def newest(self, rank: int) -> Agent:
        """The agent that must win the rank: of the highest attempt, and of these the last started."""
        own = [agent for agent in self.agents if agent.member.rank == rank]
        return max(own, key=lambda agent: (agent.member.attempt, int(agent.member.id[1:])))

    def say_join(self, agent: Agent) -> None:
        agent.left = agent.round or agent.left
        agent.round = None
        answer = self.coordinator.join(self.now, agent.join_request())
        self.take(agent, answer)

    def take(self, agent: Agent, answer: object) -> None:
        if isinstance(answer, Refused):
            agent.refused = True
            self.refused_here.add(agent.member.id)
        elif isinstance(answer, Formed):
            assert agent.member.id not in self.refused_here
            assert agent.left is None or answer.round.id != agent.left.id, "a member is back in the round it left"
            agent.round = answer.round
            self.check_round(answer.round)

    def check_round(self, formed: Round) -> None:
        ranks = [member.rank for member in formed.members]
        assert ranks == sorted(set(ranks))
        assert len({member.id for member in formed.members}) == len(ranks)
        assert len(ranks) == self.replicas if self.least is None else len(ranks) >= self.least
        assert self.rounds.setdefault(formed.id, formed) == formed, "two rounds have one id"

    # -- what may happen -----------------------------------------------------------------------------------

    @rule(number=st.integers(0, 30))
    def an_agent_joins(self, number: int) -> None:
        self.say_join(self.agents[number % len(self.agents)])

    @rule(number=st.integers(0, 30))
    def an_agent_asks_again(self, number: int) -> None:
        """Its request or the answer was lost."""
        agent = self.agents[number % len(self.agents)]
        if agent.round is None:
            self.take(agent, self.coordinator.join(self.now, agent.join_request()))

    @rule(number=st.integers(0, 30), done=st.booleans())
    def an_agent_beats(self, number: int, done: bool) -> None:
        agent = self.agents[number % len(self.agents)]
        if agent.round is not None:
            self.take(agent, self.coordinator.beat(self.now, agent.member.id, agent.round.id, done=done))

    @rule(number=st.integers(0, 30), outcome=OUTCOMES)
    def a_rank_ends(self, number: int, outcome: str) -> None:
        agent = self.agents[number % len(self.agents)]
        if agent.round is None:
            return
        if outcome == "reform":
            self.coordinator.leave(self.now, agent.member.id, agent.round.id, reform=True)
            return
        failure = Failure(agent.member.rank, agent.member.pod, "Signal", 137, outcome, secondary=outcome != "killed")
        self.coordinator.fail(self.now, agent.member.id, agent.round.id, [failure])

    @rule(number=st.integers(0, 30))
    def an_agent_leaves(self, number: int) -> None:
        agent = self.agents[number % len(self.agents)]
        if agent.round is not None:
            self.coordinator.leave(self.now, agent.member.id, agent.round.id)

    @rule(rank=RANKS, same_attempt=st.booleans())
    def a_pod_is_replaced(self, rank: int, same_attempt: bool) -> None:
        """The old one is a zombie from now on: it may go on talking. One of the same attempt is dead: there is one
        pod for each rank and attempt, so only the end of a process makes room for another.
        """
        self.attempt += not same_attempt
        rank %= self.replicas
        self.agents = [a for a in self.agents if (a.member.rank, a.member.attempt) != (rank, self.attempt)]
        self.start_agent(rank, self.attempt)

    @rule()
    def the_coordinator_is_lost(self) -> None:
        self.start_coordinator()

    @rule(step=st.integers(0, 50))
    def a_step_is_made(self, step: int) -> None:
        self.coordinator.step(self.now, step, 0)

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.coordinator.tick(self.now)

    # -- what must hold ------------------------------------------------------------------------------------

    @invariant()
    def the_running_round_is_whole_and_fenced(self) -> None:
        formed = self.coordinator.round
        if formed is None or not self.coordinator.running:
            return
        self.check_round(formed)
        for member in formed.members:
            assert member.id not in self.refused_here

    @invariant()
    def the_attempt_covers_every_member(self) -> None:
        formed = self.coordinator.round
        if formed is not None:
            assert formed.attempt >= max(member.attempt for member in formed.members)

    @precondition(lambda self: self.coordinator.finished is None)
    @rule()
    def everybody_who_should_keeps_asking(self) -> None:
        """Then a round forms, of the newest member of each rank, after the longest back-off at the latest."""
        chosen = [self.newest(rank) for rank in range(self.replicas)]
        for agent in chosen:
            self.say_join(agent)
        deadline = self.now + LONGEST_BACKOFF + 2 * SILENCE + GATHER
        while not all(agent.round is not None and agent.round == self.coordinator.round for agent in chosen):
            assert self.now < deadline, "no round forms though everybody asks"
            self.now += 0.5
            self.coordinator.tick(self.now)
            for agent in chosen:
                if agent.round is None:
                    self.take(agent, self.coordinator.join(self.now, agent.join_request()))
                else:
                    answer = self.coordinator.beat(self.now, agent.member.id, agent.round.id)
                    if isinstance(answer, Finished):
                        return
                    if isinstance(answer, Broken):
                        self.say_join(agent)
        assert [member.id for member in self.coordinator.round.members] == [agent.member.id for agent in chosen]


Network.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestNetwork = Network.TestCase
