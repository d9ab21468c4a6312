"""Asks a DNS server one question, to see that the cluster's own answers."""

import socket
import struct

_QUESTION_ID = 0x6D75
_TYPE_A, _CLASS_IN = 1, 1


def answers(server: str, name: str = "kubernetes.default.svc.cluster.local", timeout: float = 0.5) -> bool:
    """Whether the server knows an address for the name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(timeout)
        try:
            udp.sendto(question(name), (server, 53))
            return has_answer(udp.recv(512))
        except OSError:
            return False


def question(name: str) -> bytes:
    header = struct.pack("!6H", _QUESTION_ID, 0x0100, 1, 0, 0, 0)  # recursion desired, one question
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return header + labels + b"\0" + struct.pack("!2H", _TYPE_A, _CLASS_IN)


def has_answer(reply: bytes) -> bool:
    if len(reply) < 12:
        return False
    header: tuple[int, ...] = struct.unpack("!6H", reply[:12])
    number, flags, _questions, found = header[:4]
    return number == _QUESTION_ID and flags & 0x000F == 0 and found > 0
