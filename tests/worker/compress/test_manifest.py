"""What the manifest says of compression, and errors that teach: field, found, wanted."""

from __future__ import annotations

import pytest

from muster_worker.compress.clip import Clip
from muster_worker.compress.manifest import parse_steps
from muster_worker.compress.prune import Prune
from muster_worker.compress.quantize import Quantize
from muster_worker.train.errors import ConfigurationError


def test_steps_are_read_in_their_order():
    steps = [
        {"clip": {"epsilon": "3.0"}},
        {"clip": {"standardDeviations": 2, "maxAccuracyDrop": "0"}},
        {"prune": {"fraction": "0.5"}},
        {"quantize": {"mode": "dynamic"}},
        {"quantize": {"bits": 4, "mode": "weightOnly", "maxAccuracyDrop": "0.01"}},
    ]
    assert parse_steps(steps) == {
        "spec.compression[0].clip": Clip(epsilon=3.0),
        "spec.compression[1].clip": Clip(standard_deviations=2.0, max_accuracy_drop=0.0),
        "spec.compression[2].prune": Prune(fraction=0.5),
        "spec.compression[3].quantize": Quantize(mode="dynamic"),
        "spec.compression[4].quantize": Quantize(bits=4, max_accuracy_drop=0.01),
    }
    assert parse_steps([]) == {}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"clip": {}}, 'spec.compression: found {"clip": {}}, wanted a list of steps'),
        (["clip"], 'spec.compression[0]: found "clip", wanted an object with one of clip, prune, quantize'),
        ([{}], "spec.compression[0]: found {}, wanted an object with one of"),
        (
            [{"clip": {}, "prune": {}}],
            'spec.compression[0]: found {"clip": {}, "prune": {}}, wanted an object with one',
        ),
        ([{"squeeze": {}}], "spec.compression[0].squeeze: unknown technique, wanted an object with one of clip"),
        ([{"clip": 3}], "spec.compression[0].clip: found 3, wanted an object"),
        ([{"prune": {"fractoin": 1}}], "prune.fractoin: unknown field, wanted one of fraction, maxAccuracyDrop; spec."),
        ([{"prune": {}}], "prune.fraction: missing, wanted a number, at least 0.01, at most 0.99"),
        ([{"prune": {"fraction": "1"}}], 'prune.fraction: found "1", wanted a number, at least 0.01, at most 0.99'),
        ([{"clip": {"epsilon": "0"}}], 'spec.compression[0].clip.epsilon: found "0", wanted a number, at least 1e-06'),
        ([{"clip": {}}], "spec.compression[0].clip: found neither of epsilon and standardDeviations, wanted one"),
        (
            [{"clip": {"epsilon": 1, "standardDeviations": 1}}],
            "spec.compression[0].clip: found both of epsilon and standardDeviations, wanted one of them",
        ),
        ([{"quantize": {"bits": 3}}], "spec.compression[0].quantize.bits: found 3, wanted one of 8, 4"),
        ([{"quantize": {"bits": "8"}}], 'spec.compression[0].quantize.bits: found "8", wanted one of 8, 4'),
        (
            [{"quantize": {"mode": "static"}}],
            'spec.compression[0].quantize.mode: found "static", wanted one of weightOnly, dynamic',
        ),
        (
            [{"quantize": {"bits": 4, "mode": "dynamic"}}],
            "spec.compression[0].quantize.bits: found 4, wanted 8 where the mode is dynamic",
        ),
        (
            [{"quantize": {"maxAccuracyDrop": "-1"}}],
            'spec.compression[0].quantize.maxAccuracyDrop: found "-1", wanted a number, at least 0.0, at most 1.0',
        ),
        (
            [{"quantize": {}}, {"prune": {"fraction": "0.5"}}],
            "spec.compression[1].prune: found after quantize, wanted before it",
        ),
    ],
)
def test_what_is_written_wrongly_names_field_found_and_wanted(steps, message):
    with pytest.raises(ConfigurationError) as raised:
        parse_steps(steps)
    assert message in str(raised.value)
