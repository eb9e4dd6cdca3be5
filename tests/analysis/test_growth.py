"""What a grid of runs says."""

import math

import pytest
import records
from hypothesis import given
from hypothesis import strategies as st

from cubic_cli.analysis import growth


@given(st.floats(-3, 3), st.floats(1e-3, 1e3), st.lists(st.integers(1, 10**6), min_size=2, max_size=6, unique=True))
def test_the_exponent_of_a_power(power, factor, widths):
    assert growth.exponent([(h, factor * h**power) for h in widths]) == pytest.approx(power, abs=1e-6)


def test_what_has_no_exponent():
    assert growth.exponent([]) is None
    assert growth.exponent([(8, 2.0), (8, 3.0)]) is None
    changes = ({"tensors__0__std": 0.0, "tensors__1__std": None}, {"tensors__0__nonfinite": 1}, {})
    made = [records.make(config={"hidden_size": h}, **c) for h, c in zip((8, 16, 32), changes, strict=True)]
    z1, a1, z2 = growth.growth(made)
    assert (z1["exponent"], [p["hidden_size"] for p in z1["points"]]) == (None, [32])
    assert (a1["exponent"], [p["hidden_size"] for p in a1["points"]]) == (0, [16, 32])
    assert len(z2["points"]) == 3


def test_a_spread_of_rounding_gives_no_point():
    # z2 of samples that are all alike, as blocks of different sizes round it: 1 and its neighbours.
    alike = {"tensors__2__min": 1 - 2.0**-24, "tensors__2__max": 1 + 2.0**-23, "tensors__2__std": 1.2e-7}
    made = [records.make(config={"hidden_size": h}, **alike) for h in (64, 128)]
    z1, _, z2 = growth.growth(made)
    assert (z2["exponent"], z2["points"]) == (None, [])
    assert z1["exponent"] == 0


def test_a_small_spread_that_float32_tells_is_a_point():
    narrow = {"tensors__2__min": 1.0, "tensors__2__max": 1 + 64 * 2.0**-23, "tensors__2__std": 16 * 2.0**-23}
    z2 = growth.growth([records.make(**narrow)])[2]
    assert [point["std"] for point in z2["points"]] == [16 * 2.0**-23]


@pytest.mark.parametrize(
    ("found", "changes", "expected"),
    [
        ([], {"context": {"r_squared": 0.93}}, ["fits: R² 0.93"]),
        ([], {"context": {"r_squared": 0.0}}, ["no better than the mean"]),
        ([], {"context": {"r_squared": math.nan}}, []),
        ([("explodes", 64.04, "z2")], {"context": {"r_squared": 0.4}}, ["explodes ×64", "better than the mean"]),
        ([("vanishes", 0.01, "z1")], {"context": {"r_squared": None}}, ["vanishes ×0.01"]),
        (
            [("dead_units", 64, "a1"), ("identical_units", 64, "a1"), ("vanishes", 0, "z1")],
            {"units": {"dead": 64, "distinct": 1, "rank": 0}, "context": {"r_squared": 0.0}},
            ["all units dead", "no better than the mean"],
        ),
        (
            [("identical_units", 2, "a1"), ("low_rank", 2, "a1"), ("worse_than_mean", -1, "loss")],
            {"units": {"distinct": 32, "rank": 2}, "context": {"r_squared": -1.0}},
            ["32 of 64 units distinct", "worse than the mean", "rank 2"],
        ),
        ([("nonfinite", 3, "a1")], {"context": {"r_squared": math.nan}}, ["not finite from a1 on"]),
        ([("unverified", 1, "z2")], {"context": {"r_squared": 0.5}}, ["not verified", "better than the mean"]),
    ],
)
def test_verdicts(found, changes, expected):
    findings = [
        {"id": id, "level": "warning", "tensor": tensor, "value": value, "limit": 0, "text": ""}
        for id, value, tensor in found
    ]
    assert growth.verdict(records.make(findings=findings, **changes)) == expected
