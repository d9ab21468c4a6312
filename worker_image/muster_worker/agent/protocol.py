"""The words agents say to the coordinator and hear from it, and their JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Cause: TypeAlias = Literal["Signal", "ExitCode", "Hang", "Silent"]


@dataclass(frozen=True, slots=True)
class Member:
    """One pod's agent.

    `id` is drawn anew by each agent process, so that two processes never pass for one another. `attempt` is the
    fencing token: of two members with one rank, the higher wins. `address` is where the other pods reach this
    one, and `port` is free there for torch's store, should this be the pod with rank 0.
    """

    id: str
    rank: int
    pod: str
    attempt: int
    address: str
    port: int
    processes: int = 1
    agent_port: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """The end of one rank that should not have ended.

    `rank` is the global rank; None, like `pod`, when nobody knows which it was. `exit_code` is 128 + n for signal n.
    `secondary`: it died only because another rank went away. `permanent`: the job's owner says that starting again
    is no use.
    """

    rank: int | None
    pod: str | None
    cause: Cause
    exit_code: int | None
    message: str
    secondary: bool = False
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Join:
    """A member asks to be in the next round.

    `left` is the round it was in before, `attempt` the group's attempt then, and `fences` the pod attempts
    it knew by rank: so a coordinator that just started learns what the lost one knew. `replicas` is how many pods
    the job had when this one was made; 0: as many as the coordinator knows of.
    """

    run_id: str
    member: Member
    left: str | None = None
    attempt: int = 0
    fences: tuple[tuple[int, int], ...] = ()
    failures: tuple[Failure, ...] = ()
    replicas: int = 0


@dataclass(frozen=True, slots=True)
class Round:
    """One composition of the group: its members in the order of their ranks.

    A member's place in it is its group rank, which in an elastic job may be lower than its pod's rank.
    """

    id: str
    attempt: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """No round yet. `missing` are the ranks that have not joined."""

    missing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Formed:
    """The round that the member is in."""

    round: Round


@dataclass(frozen=True, slots=True)
class Healthy:
    """The round goes on."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The round is over: stop the ranks and join again.

    Ranks get `patience` more seconds to end by themselves: to save what they hold, or to say what went wrong.
    `hung`: they make no steps any more, and are to print where they stand before they are stopped. `leave`: nothing is
    wrong with them, and they are to be asked to save and leave.
    """

    reason: str
    patience: float = 0.0
    hung: bool = False
    leave: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """The whole group is done for good. `error` is None when it succeeded."""

    exit_code: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The agent that was asked lives, and hosts no coordinator: ask the pod with rank 0."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Never will this member be in the group."""

    reason: str


Answer: TypeAlias = Wait | Formed | Healthy | Broken | Finished | Elsewhere | Refused


class ProtocolError(ValueError):
    """What came over the network is not what this protocol says."""


def answer_to_json(answer: Answer) -> dict[str, Any]:
    return {"answer": type(answer).__name__, **asdict(answer)}


def answer_from_json(document: Mapping[str, Any]) -> Answer:
    fields = dict(document)
    name = fields.pop("answer", None)
    try:
        if name == "Formed":
            found = fields["round"]
            members = tuple(Member(**member) for member in found["members"])
            return Formed(Round(found["id"], found["attempt"], members))
        if name == "Wait":
            return Wait(tuple(fields["missing"]))
        for kind in (Healthy, Broken, Finished, Elsewhere, Refused):
            if name == kind.__name__:
                return kind(**fields)
    except (TypeError, KeyError, AttributeError) as error:
        raise ProtocolError(f"answer {name}: {error}") from error
    raise ProtocolError(f"answer {name!r} is unknown")


def join_to_json(join: Join) -> dict[str, Any]:
    return asdict(join)


def join_from_json(document: Mapping[str, Any]) -> Join:
    try:
        return Join(
            run_id=str(document["run_id"]),
            member=_member(document["member"]),
            left=document.get("left"),
            attempt=int(document.get("attempt", 0)),
            fences=tuple((int(rank), int(attempt)) for rank, attempt in document.get("fences", ())),
            failures=failures_from_json(document.get("failures", ())),
            replicas=int(document.get("replicas", 0)),
        )
    except (TypeError, KeyError, ValueError) as error:
        raise ProtocolError(f"join: {error}") from error


def _member(document: Mapping[str, Any]) -> Member:
    """Raises `TypeError`, `ValueError`."""
    found = Member(**document)
    numbers = {name: int(getattr(found, name)) for name in ("rank", "attempt", "port", "processes", "agent_port")}
    texts = {name: str(getattr(found, name)) for name in ("id", "pod", "address")}
    return Member(**numbers, **texts)  # type: ignore[arg-type]


def failures_from_json(documents: Any) -> tuple[Failure, ...]:
    try:
        return tuple(Failure(**document) for document in documents)
    except TypeError as error:
        raise ProtocolError(f"failures: {error}") from error


def ranks_from_json(document: Any) -> tuple[int, ...]:
    if not isinstance(document, (list, tuple)) or not all(isinstance(rank, int) for rank in document):
        raise ProtocolError(f"ranks: found {document!r}, wanted a list of whole numbers")
    return tuple(document)
