"""HTTP/1.1 and nothing else on a connection: who offers another protocol with a request is answered by this one.

Java's own client offers HTTP/2 with every request. The parser takes what follows such a head for the other protocol,
and the body would be lost.
"""

from __future__ import annotations

import re

from muster_worker.serve.joined import JoinedProtocol

_OFFER = re.compile(rb"^upgrade:[^\n]*\n", re.IGNORECASE | re.MULTILINE)


class OneProtocol(JoinedProtocol):
    """Without any offers."""

    def data_received(self, data: bytes) -> None:
        within = self.cycle is not None and (self.cycle.more_body or not self.cycle.response_complete)
        left = data if within else _without_offer(data)
        if left:
            super().data_received(left)


def _without_offer(data: bytes) -> bytes:
    blank = data.find(b"\r\n\r\n")
    end = blank + 2 if blank >= 0 else len(data)
    if data.find(b"pgrade", 0, end) < 0:  # as nearly always, and found out at once
        return data
    return _OFFER.sub(b"", data[:end]) + data[end:]
