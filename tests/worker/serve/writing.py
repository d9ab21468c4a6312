"""Models that write, and a client that reads."""

from __future__ import annotations

import contextlib
import http.client
import json
import re

import torch

from muster_worker.compress.apply import prepare
from muster_worker.recipes.chargpt import CharGPT, CharGPTConfig, Embedding, Writer
from muster_worker.train.config import config_as_json
from muster_worker.train.export import Trained, export_model
from muster_worker.train.language_model import LanguageModel
from tests.worker.serve.served import LIMIT

RECIPE = "muster_worker.recipes.chargpt:CharGPT"
CONFIG = CharGPTConfig(layers=2, heads=2, width=32, context=48)


def chargpt(steps=(), config=CONFIG):
    """A model that nobody has trained; its weights are larger than at the beginning, so that it has preferences."""
    torch.manual_seed(0)
    model = CharGPT(config).model()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    prepare(model, list(steps))
    return model.eval()


class Whole(CharGPT):
    """Writes only where one process has all layers."""

    def language_model(self, model):
        found = super().language_model(model)
        found.by_stages = False
        return found


class Refusing(Writer):
    """Takes no prompt with "#", whatever layers it has, and none with "!" where it has the first of them."""

    def prefill(self, cache, slot, tokens):
        text = self.decode(tokens.tolist())
        if "#" in text or ("!" in text and isinstance(self._model.embedding, Embedding)):
            raise ValueError(f"not so: {text}")
        return super().prefill(cache, slot, tokens)


class Particular(CharGPT):
    def language_model(self, model):
        found = Refusing(self.config, model)
        found.vocabulary = None  # its layers refuse tokens, too
        return found


def publish(directory, steps=(), config=CONFIG, recipe=RECIPE):
    """The model, as a training job publishes it to `directory`."""
    model = chargpt(steps, config)
    origin = {"recipe": recipe, "config": config_as_json(config), "step": 7, "epoch": 1}
    if steps:
        origin["compression"] = list(steps)
    tokens = torch.randint(96, (3, config.context))
    generation = {"context": CharGPT(config).language_model(model).context}
    export_model(directory, Trained(model, (tokens,), {}, origin, generation=generation), "token")
    return model


LONG_CONFIG = CharGPTConfig(layers=2, heads=2, width=32, context=4000)
LONG = 3900
"""Tokens: several seconds of writing."""


class Scripted(LanguageModel):
    """Its text is the alphabet; "!" ends it. A prompt with "?" gives no number, one with "#" an error."""

    context = 30
    end_token = ord("!")

    def encode(self, text):
        return [ord(character) for character in text]

    def decode(self, tokens):
        return "".join(map(chr, tokens))

    def cache(self, slots):
        return None

    def prefill(self, cache, slot, tokens):
        if ord("#") in tokens:
            raise ValueError("no such thing")
        return self._after(tokens[-1:])[0]

    def step(self, cache, tokens, places):
        if ord("d") in tokens and ord("D") in tokens:
            raise RuntimeError("too much")
        return self._after(tokens)

    def _after(self, tokens):
        logits = torch.zeros(len(tokens), 128)
        logits[torch.arange(len(tokens)), tokens + 1] = 5.0
        logits[tokens == ord("?")] = torch.nan
        logits[tokens == ord("z"), self.end_token] = 9.0
        return logits


PATH = "/v2/models/chargpt/"


def connection(served):
    return contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT))


def request(text, **parameters):
    return json.dumps({"text_input": text, "parameters": parameters})


def ask(served, text, path="generate", **parameters):
    """Status, headers, answer."""
    with connection(served) as one:
        one.request("POST", PATH + path, request(text, **parameters))
        answer = one.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())


def infer(served, tokens):
    """Status and answer."""
    tensor = {"name": "tokens", "datatype": "INT64", "shape": list(tokens.shape), "data": tokens.flatten().tolist()}
    return infer_tensors(served, {"inputs": [tensor]})


def infer_tensors(served, body):
    """Status and answer."""
    with connection(served) as one:
        one.request("POST", PATH + "infer", json.dumps(body))
        answer = one.getresponse()
        return answer.status, json.loads(answer.read())


def events(answer):
    """Those of a stream, as they come."""
    while line := answer.readline():
        if line != b"\n":
            name, _, event = line.partition(b": ")
            assert name == b"data"
            yield json.loads(event)


def stream(served, text, **parameters):
    with connection(served) as one:
        one.request("POST", PATH + "generate_stream", request(text, **parameters))
        answer = one.getresponse()
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        return list(events(answer))


def counted(served, name):
    with connection(served) as one:
        one.request("GET", "/metrics")
        found = re.search(rf"^{re.escape(name)} (\S+)$", one.getresponse().read().decode(), re.MULTILINE)
        return float(found[1])


def begin(served, text, **parameters):
    """A stream of which one event has come."""
    one = http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT)
    one.request("POST", PATH + "generate_stream", request(text, **parameters))
    answer = one.getresponse()
    return one, answer, next(events(answer))
