"""The resources that this operator looks after, each with its planner."""

from muster.client import AUTOSCALERS, BUDGETS, REVISIONS, SLICES
from muster.control.kinds import MODEL_DEPLOYMENTS, TRAINING_JOBS, Controlled, Watched
from muster.plan.serving import identity, model
from muster.plan.serving import planner as serving
from muster.plan.training import initial_model
from muster.plan.training import planner as training

CONTROLLED = (
    Controlled(TRAINING_JOBS, training.plan, names=initial_model.named),
    Controlled(
        MODEL_DEPLOYMENTS,
        serving.plan,
        names=model.named,
        makes=(AUTOSCALERS, BUDGETS, REVISIONS),
        sees=(Watched(SLICES, identity.UID),),
    ),
)
