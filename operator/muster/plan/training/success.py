"""When a job has succeeded: every rank's newest pod ended with 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muster.plan.training.view import View


def succeeded(view: View) -> bool:
    return all(member is not None and member.succeeded for member in view.workers.values())
