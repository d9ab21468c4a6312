"""Under which address other pods reach this one, found without asking the DNS, and where names lead."""

from __future__ import annotations

import contextlib
import ipaddress
import queue
import socket
import threading

# Documentation addresses: nothing is sent to them, the kernel only says from which address it would.
_ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))

ASK_AGAIN = 0.3
"""Seconds: a name server that is there answers within a hundredth of it."""


def own_address(coordinator_host: str) -> str:
    """The address on the interface of the default route; loopback when the coordinator itself is there.

    The pod's own name is no use: it does not resolve for the others before its endpoint exists.
    """
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(coordinator_host).is_loopback:
            return coordinator_host
    if coordinator_host == "localhost":
        return "127.0.0.1"
    for family, elsewhere in _ELSEWHERE:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))
            return str(probe.getsockname()[0])
    with contextlib.suppress(OSError):
        # kubelet writes the pod's address and host name into /etc/hosts.
        return str(socket.getaddrinfo(socket.gethostname(), None)[0][4][0])
    return "127.0.0.1"


def look_up(name: str) -> str:
    """An address of the name; asks once more each time that no answer comes for a moment. Raises OSError.

    Of several name servers one may be lost with its node. Until Kubernetes knows, the look-ups that are led to it wait
    for seconds; each is led anew.
    """
    answers: queue.SimpleQueue[str | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0]))
        except OSError as error:
            answers.put(error)

    while True:
        threading.Thread(target=ask, name="look-up", daemon=True).start()
        with contextlib.suppress(queue.Empty):
            answer = answers.get(timeout=ASK_AGAIN)
            if isinstance(answer, OSError):
                raise answer
            return answer


def leads_elsewhere(name: str, address: str) -> tuple[str, ...]:
    """Where the name leads that once led to this address; empty if it still does, and where nobody can tell."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return ()
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    found = {str(answer[4][0]).removeprefix("::ffff:") for answer in answers}
    return tuple(sorted(found)) if address.removeprefix("::ffff:") not in found else ()


def free_port() -> int:
    """A port free a moment ago. Ranks start at once after, and a pod has its ports to itself."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
