"""The command line."""

import argparse
import sys
from pathlib import Path

from local_cluster import interrupts, tools
from local_cluster.checkout import Checkout, this_checkout
from local_cluster.errors import ClusterError
from local_cluster.images import bases, build
from local_cluster.images.engines import Recipe
from local_cluster.provider import Provider, Size
from local_cluster.providers import existing, for_new_cluster

_DESCRIPTION = """\
A real Kubernetes on this machine, for development and tests.

With Docker or Podman it runs kind; without, as root, the real components as processes of this machine.
What belongs to the cluster lies in .cluster of this checkout, what is expensive to build in ~/.cache/muster.
"""
_EPILOG = """\
first steps:
  python3 -m local_cluster up
  export KUBECONFIG=$PWD/.cluster/kubeconfig PATH=$(python3 -m local_cluster tools):$PATH
  kubectl get nodes
  python3 -m local_cluster node fail node-2    # cut its network; `node heal node-2` mends it
  python3 -m local_cluster down

exit status: 0 done (status: usable), 1 not done (status: not usable), 2 wrong usage, 130 interrupted
"""


def main(words: list[str]) -> int:
    given = _parser().parse_args(words)
    try:
        return int(given.run(this_checkout(), given) or 0)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except interrupts.Interrupted as interrupt:
        print(f"stopped by {interrupt}", file=sys.stderr)
        return 128 + interrupt.signum


def _up(checkout: Checkout, given: argparse.Namespace) -> None:
    nodes = given.nodes if given.nodes is not None else 0 if given.simulated_nodes else 3
    with checkout.lock():
        provider = for_new_cluster(checkout, given.provider)
        if existing(checkout) and (status := provider.status()).usable:
            _agree(provider, given)
            print("\n".join(("the cluster is running already", *status.details)))
        else:
            provider.up(Size(nodes, given.simulated_nodes))
    print(f"export KUBECONFIG={checkout.kubeconfig}")


def _agree(provider: Provider, given: argparse.Namespace) -> None:
    """A size that was asked for in so many words and is not there must not pass for done."""
    size = provider.size()
    if given.nodes not in (None, size.nodes) or given.simulated_nodes not in (0, size.simulated):
        raise ClusterError(
            f"a cluster with {size.nodes} nodes and {size.simulated} simulated ones is running: "
            "join more by `node add node-N`, or run `down` first"
        )


def _down(checkout: Checkout, _given: argparse.Namespace) -> None:
    with checkout.lock():
        provider = existing(checkout)
        if provider is None:
            print("there is no cluster")
        else:
            provider.down()
            print("the cluster is gone")


def _status(checkout: Checkout, _given: argparse.Namespace) -> int:
    provider = existing(checkout)
    if provider is None:
        print("state: none")
        return 1
    status = provider.status()
    print(f"state: {status.summary}")
    print(f"provider: {provider.name}")
    for line in status.details:
        print(f"  {line}")
    print(f"kubeconfig: {checkout.kubeconfig}")
    return 0 if status.usable else 1


def _load_image(checkout: Checkout, given: argparse.Namespace) -> None:
    with checkout.lock():
        _present(checkout).load(given.images)


def _node(checkout: Checkout, given: argparse.Namespace) -> None:
    with checkout.lock():
        provider = _present(checkout)
        act = {
            "fail": provider.fail_node,
            "hang": provider.hang_node,
            "heal": provider.heal_node,
            "add": provider.add_node,
        }[given.action]
        act(given.name)


def _present(checkout: Checkout) -> Provider:
    provider = existing(checkout)
    if provider is None:
        raise ClusterError("there is no cluster: run `up` first")
    return provider


def _build_image(checkout: Checkout, given: argparse.Namespace) -> None:
    arguments = dict(argument.split("=", 1) for argument in given.build_arg)
    dockerfile = given.file or given.context / "Dockerfile"
    for path in (given.context, dockerfile):
        if not path.exists():
            raise ClusterError(f"{path} is not there: wanted CONTEXT with a Dockerfile in it, or --file DOCKERFILE")
    recipe = Recipe(given.context.resolve(), dockerfile.resolve(), arguments)
    built = build.build(checkout, given.tag, recipe, given.base)
    print(f"{given.tag}: {'built' if built else 'unchanged'}")


def _run_in_image(checkout: Checkout, given: argparse.Namespace) -> int:
    environment = dict(setting.split("=", 1) for setting in given.env)
    return build.run(checkout, given.image, given.command, environment)


def _tools(_checkout: Checkout, _given: argparse.Namespace) -> None:
    print(tools.directory())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m local_cluster",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_cluster_commands(commands)
    _add_image_commands(commands)
    return parser


def _add_cluster_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    up = commands.add_parser("up", help="start a cluster; returns at once when it runs already")
    up.add_argument("--nodes", type=_count, metavar="N", help="how many real nodes (3; with simulated nodes 0)")
    up.add_argument(
        "--simulated-nodes", type=_count, metavar="N", default=0, help="nodes that kwok plays, for benchmarks (0)"
    )
    up.add_argument("--provider", choices=["kind", "native"], help="kind where Docker or Podman runs, otherwise native")
    up.set_defaults(run=_up)
    down = commands.add_parser("down", help="remove the cluster and every trace of it from the machine")
    down.set_defaults(run=_down)
    status = commands.add_parser("status", help="say how the cluster is; exit status 0 only when it is usable")
    status.set_defaults(run=_status)
    node = commands.add_parser("node", help="harm, heal or add a node")
    node.add_argument(
        "action",
        choices=["fail", "hang", "heal", "add"],
        help="fail: cut its network; hang: stop its kubelet; heal: undo either; add: join one more",
    )
    node.add_argument("name", metavar="NAME", help="for example node-2")
    node.set_defaults(run=_node)


def _add_image_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    load = commands.add_parser("load-image", help="bring built images onto all nodes, and those to come")
    load.add_argument("images", nargs="+", metavar="IMAGE")
    load.set_defaults(run=_load_image)
    image = commands.add_parser("build-image", help="build an image unless nothing that goes into it has changed")
    image.add_argument("tag", metavar="TAG", help="for example localhost/muster-worker:dev")
    image.add_argument("context", type=Path, metavar="CONTEXT", help="the directory with what is copied into it")
    image.add_argument("--file", type=Path, metavar="DOCKERFILE", help="CONTEXT/Dockerfile")
    image.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", type=_assignment)
    image.add_argument(
        "--base",
        metavar="BASE",
        help=f"pass it as BASE: a prepared Debian ({', '.join(bases.BASES)}), or the TAG of an image built before",
    )
    image.set_defaults(run=_build_image)
    run = commands.add_parser("run-in-image", help="run a command in an image, this checkout mounted")
    run.add_argument("image", metavar="IMAGE")
    run.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", type=_assignment)
    run.add_argument("command", nargs="+", metavar="-- COMMAND")
    run.set_defaults(run=_run_in_image)
    names = ", ".join(tools.WANTED)
    tool = commands.add_parser("tools", help=f"build {names} and print the directory for PATH")
    tool.set_defaults(run=_tools)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: wanted a whole number, 0 or more")
    return int(text)


def _assignment(text: str) -> str:
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"{text}: wanted NAME=VALUE")
    return text
