"""Bodies that come compressed: Triton's client does so where it is told to."""

from __future__ import annotations

import zlib

from muster_worker.serve.errors import RequestError, TooLargeError, WrongEncodingError

_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""By which zlib knows what begins in which way."""


def decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """As it was before it was compressed, at most so many bytes. Raises RequestError."""
    if encoding.lower() == "identity":
        return body
    window = _WINDOWS.get(encoding.lower())
    if window is None:
        raise WrongEncodingError(f"Content-Encoding: found {encoding}, wanted {' or '.join(_WINDOWS)}, or none")
    reader = zlib.decompressobj(window)
    try:
        content = reader.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(f"the body is not what Content-Encoding says, which is {encoding}: {error}") from None
    if len(content) > limit:
        raise TooLargeError(f"the body: more than {limit} bytes")
    if not reader.eof or reader.unused_data:
        raise RequestError(f"the body: its {encoding} breaks off, or something follows it")
    return content
