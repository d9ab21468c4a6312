from __future__ import annotations

from decimal import Decimal

import pytest

from muster.api.quantity import parse_quantity


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        (0, "0"),
        (3, "3"),
        ("1", "1"),
        ("+1", "1"),
        ("-2", "-2"),
        ("500m", "0.5"),
        ("250u", "0.00025"),
        ("1n", "0.000000001"),
        (".5", "0.5"),
        ("5.", "5"),
        ("1.5k", "1500"),
        ("2M", "2000000"),
        ("1Ki", "1024"),
        ("1.5Gi", "1610612736"),
        ("1Ei", "1152921504606846976"),
        ("1e3", "1000"),
        ("1E3", "1000"),
        ("2E", "2000000000000000000"),
        ("5e-1", "0.5"),
    ],
)
def test_a_quantity_is_read_as_kubernetes_reads_it(text: str | int, amount: str):
    assert parse_quantity(text) == Decimal(amount)


@pytest.mark.parametrize(
    "text", ["", " 1", "1 ", "2 cores", "4GB", "1K", "1mi", "0x10", "1_000", "\u0661", "1e", ".", "--1"]
)
def test_what_is_no_quantity_is_refused_with_examples_of_what_is(text: str):
    with pytest.raises(
        ValueError, match="is not a quantity: write a number with an optional suffix, like 500m, 2 or 4Gi"
    ):
        parse_quantity(text)
