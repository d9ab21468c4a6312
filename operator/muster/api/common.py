"""What every resource of Muster has: group and version, metadata, conditions."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from muster.api.base import Int, Model, Reported
from muster.api.names import Timestamp

GROUP = "muster.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
OPERATOR = f"{GROUP}/operator"


class Metadata(Model):
    """What Muster reads of an object's metadata; everything else there is none of its business."""

    model_config = ConfigDict(extra="ignore")

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class Condition(Reported):
    """One aspect of the state, in the form that all of Kubernetes uses."""

    type: Annotated[str, StringConstraints(max_length=316)]
    """What is spoken of, for example Admitted or Complete."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, StringConstraints(max_length=1024)]
    """Why, in one CamelCase word that programs can rely on."""
    message: Annotated[str, StringConstraints(max_length=32768)]
    """Why, in a sentence for people."""
    last_transition_time: Timestamp
    """When `status` last changed."""
    observed_generation: Int | None = None
    """The metadata.generation that this was said of."""
