"""The command line: `muster run`, `muster crds`, `muster plan FILE`, `muster version`."""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import click

import muster

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.control.observability import LogFormat
    from muster.control.operator import Options
    from muster.plan.model import Settings

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_GROUP = "muster.dev"


def _image(name: str, default: str, of_what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        f"--{name}-image",
        default=default,
        envvar=f"MUSTER_{name.upper().replace('-', '_')}_IMAGE",
        show_default=True,
        show_envvar=True,
        help=f"The image of {of_what} that name no other.",
    )


_worker_image = _image("worker", "localhost/muster-worker:dev", "worker pods")
_torchserve_image = _image("torchserve", "localhost/muster-torchserve:dev", "pods of the runtime torchserve")
_tensorflow_serving_image = _image(
    "tensorflow-serving", "tensorflow/serving:2.19.1", "pods of the runtime tensorflowServing"
)
_pull_policy = click.option(
    "--worker-image-pull-policy",
    type=click.Choice(["Always", "IfNotPresent", "Never"]),
    default="IfNotPresent",
    envvar="MUSTER_WORKER_IMAGE_PULL_POLICY",
    show_default=True,
    show_envvar=True,
    help="When nodes fetch these images.",
)

_model_cache = click.option(
    "--model-cache",
    default="",
    envvar="MUSTER_MODEL_CACHE",
    show_envvar=True,
    metavar="DIRECTORY",
    help="Where serving pods keep models that they fetched, on their node, for the next ones. None: nowhere.",
)


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Put together, for `command`, what is the same for every resource."""

    @_worker_image
    @_torchserve_image
    @_tensorflow_serving_image
    @_pull_policy
    @_model_cache
    @functools.wraps(command)
    def with_settings(
        worker_image: str,
        torchserve_image: str,
        tensorflow_serving_image: str,
        worker_image_pull_policy: str,
        model_cache: str,
        **others: Any,
    ) -> None:
        from muster.plan.model import Settings  # noqa: PLC0415

        settings = Settings(
            worker_image=worker_image,
            worker_image_pull_policy=worker_image_pull_policy,
            torchserve_image=torchserve_image,
            tensorflow_serving_image=tensorflow_serving_image,
            model_cache=model_cache,
        )
        command(settings=settings, **others)

    return with_settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train and serve large PyTorch models on Kubernetes."""


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(muster.__version__)


@main.command()
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Write one file each into this directory."
)
def crds(output: Path | None) -> None:
    """Print the custom resource definitions, as YAML."""
    from muster.api import crd  # noqa: PLC0415 - each command imports what it needs: `run` takes half a second

    if output is None:
        click.echo("---\n".join(crd.crds().values()), nl=False)
    else:
        crd.write_crds(output)


@main.command()
@click.argument("file", type=click.File(encoding="utf-8"))
@_with_settings
def plan(file: TextIO, settings: Settings) -> None:
    """Print what would be made of the resources in FILE (- for standard input), without a cluster."""
    import pydantic  # noqa: PLC0415
    import yaml  # noqa: PLC0415

    from muster.api.errors import explain  # noqa: PLC0415
    from muster.plan import offline  # noqa: PLC0415

    try:
        ours = [document for document in offline.each(yaml.safe_load_all(file)) if _is_ours(document)]
        if not ours:
            raise click.ClickException(
                f"{file.name} has no resource of {_GROUP}: wanted a TrainingJob or a ModelDeployment"
            )
        click.echo(offline.render(ours, settings), nl=False)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise click.ClickException(f"{file.name} is not YAML: {error}") from None
    except pydantic.ValidationError as error:
        raise click.ClickException(f"{file.name}: {explain(error)}") from None
    except offline.UnknownKindError as error:
        raise click.ClickException(f"{file.name}: {error}") from None


def _is_ours(document: object) -> bool:
    return isinstance(document, dict) and str(document.get("apiVersion", "")).startswith(f"{_GROUP}/")


@main.command()
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    help="Look after this namespace only (may be repeated). [env var: MUSTER_NAMESPACES, separated by commas;"
    " default: all namespaces]",
)
@_with_settings
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="info",
    envvar="MUSTER_LOG_LEVEL",
    show_default=True,
    show_envvar=True,
    help="What is worth a line.",
)
@click.option(
    "--log-format",
    type=click.Choice(["json", "console"]),
    default="json",
    envvar="MUSTER_LOG_FORMAT",
    show_default=True,
    show_envvar=True,
    help="For machines or for people.",
)
@click.option(
    "--leader-election/--no-leader-election",
    default=True,
    envvar="MUSTER_LEADER_ELECTION",
    show_default=True,
    show_envvar=True,
    help="Whether several operators may run, of which one writes.",
)
@click.option(
    "--lease-name",
    default="muster",
    envvar="MUSTER_LEASE_NAME",
    show_default=True,
    show_envvar=True,
    help="The Lease that they elect by.",
)
@click.option(
    "--lease-namespace",
    envvar="MUSTER_LEASE_NAMESPACE",
    show_envvar=True,
    help="Where that Lease is. [default: the operator's own namespace, else muster-system]",
)
@click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    default=8080,
    envvar="MUSTER_HTTP_PORT",
    show_default=True,
    show_envvar=True,
    help="Port of /healthz, /readyz and /metrics; 0: any that is free.",
)
@click.option(
    "--resync-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=180.0,
    envvar="MUSTER_RESYNC_SECONDS",
    show_default=True,
    show_envvar=True,
    help="How often everything known is compared with full lists.",
)
def run(
    *,
    settings: Settings,
    namespaces: tuple[str, ...],
    log_level: str,
    log_format: str,
    leader_election: bool,
    lease_name: str,
    lease_namespace: str | None,
    http_port: int,
    resync_seconds: float,
) -> None:
    """Run the operator until SIGTERM."""
    from muster.control.observability import configure_logging  # noqa: PLC0415
    from muster.control.operator import Options  # noqa: PLC0415

    configure_logging(log_level, cast("LogFormat", log_format))
    given = namespaces or tuple(os.environ.get("MUSTER_NAMESPACES", "").split(","))
    options = Options(
        settings=settings,
        # Told apart from an earlier life of the same pod, whose writes may still be on their way.
        identity=f"{os.environ.get('POD_NAME') or socket.gethostname()}_{secrets.token_hex(4)}",
        namespaces=tuple(dict.fromkeys(name.strip() for name in given if name.strip())),
        leader_election=leader_election,
        lease_name=lease_name,
        lease_namespace=lease_namespace or _own_namespace(),
        http_port=http_port,
        resync_every=resync_seconds,
    )
    asyncio.run(_run(options))


def _own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except OSError:
        return "muster-system"


async def _run(options: Options) -> None:
    from muster.client import KubernetesClient, NoCluster  # noqa: PLC0415
    from muster.control.controlled import CONTROLLED  # noqa: PLC0415
    from muster.control.observability import Metrics  # noqa: PLC0415
    from muster.control.operator import Operator  # noqa: PLC0415

    metrics = Metrics()
    try:
        client = await KubernetesClient.connect(metrics.called)
    except NoCluster as error:
        raise click.ClickException(str(error)) from None
    try:
        await Operator(options, CONTROLLED, client, metrics).run()
    finally:
        await client.close()


if __name__ == "__main__":
    main()
