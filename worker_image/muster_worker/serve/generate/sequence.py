"""One text that is generated: its prompt, its tokens, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from muster_worker.serve.errors import RequestError
from muster_worker.serve.generate.sampling import Draws
from muster_worker.serve.generate.text import Text

if TYPE_CHECKING:
    from muster_worker.serve.generate.parameters import Parameters
    from muster_worker.serve.generate.sampling import Chosen
    from muster_worker.train.language_model import LanguageModel

LENGTH, END, STOP = "length", "eos_token", "stop_sequence"
"""Why a text ends, in the protocol's words: it is as long as it may be, the model ended it, or a `stop` came."""


@dataclass(frozen=True, slots=True)
class Token:
    """As the protocol describes one. `special`: it ends the text and is no part of it."""

    id: int
    text: str
    logprob: float
    special: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """What one token adds: its text may come with a later one. `finish_reason`: of the last piece alone."""

    text: str
    token: Token
    finish_reason: str | None


class Sequence:
    def __init__(self, model: LanguageModel, text: str, parameters: Parameters) -> None:
        """Raises RequestError where the prompt has no token, or leaves no room for one."""
        self.tokens = model.encode(text)
        """Those of its prompt, and all that were taken."""

        self.parameters = parameters
        self.draws = Draws(parameters.seed)
        self._model = model
        self._text = Text(model.decode, parameters.stop)
        self._end = len(self.tokens) + parameters.max_tokens
        if not self.tokens:
            raise RequestError("text_input: found no token, wanted at least one to go on from")
        if len(self.tokens) >= model.context:
            raise RequestError(
                f"text_input: found {len(self.tokens)} tokens, wanted at most {model.context - 1}: the model looks back"
                f" at {model.context}, those that it generates among them"
            )

    def take(self, chosen: Chosen) -> Piece:
        """The next token."""
        self.tokens.append(chosen.token)
        self.draws.advance()
        special = chosen.token == self._model.end_token
        token = Token(chosen.token, self._model.decode([chosen.token]), chosen.logprob, special)
        text = "" if special else self._text.add(chosen.token)
        reason = self._finish_reason(special=special)
        if reason is not None:
            text += self._text.rest()
        return Piece(text, token, STOP if self._text.stopped else reason)

    def _finish_reason(self, *, special: bool) -> str | None:
        if special:
            return END
        if self._text.stopped:
            return STOP
        return LENGTH if len(self.tokens) == min(self._end, self._model.context) else None
