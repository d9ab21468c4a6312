"""Which image new pods get: that of the workers that go on, whom they have to understand.

Workers of different Musters, or different torches, need not agree on what comes next: a group of both stood still. So
an upgrade of the operator, which may bring another image, reaches a job once none of its pods is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.plan.training.failures import Loss
    from muster.plan.training.members import Member


def in_use(members: Iterable[Member], lost: Iterable[Loss] = ()) -> str | None:
    """Return the image of the first one that goes on; None where none does."""
    gone = {loss.member.uid for loss in lost if loss.member is not None}
    going_on = (one for one in members if not (one.ended or one.deleting or one.uid in gone))
    return next((one.image for one in going_on), None)
