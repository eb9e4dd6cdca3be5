import math
import re

import pytest
import records

from cubic_cli.analysis import findings, limits


def found(record):
    return {finding.id: finding for finding in findings.find(record)}


def test_a_healthy_record_has_none():
    assert findings.find(records.RECORD) == ()


FAILURE = {"quantity": "z1_max", "batch": 3, "found": 5.0, "expected": 5.1, "relative_error": 0.02}
FIRST = {"tensor": "z2", "epoch": 1, "batch": 7, "row": 63, "cause": "overflow"}

# The finding, what makes it, its value, what its sentence says, and what is just short of it.
CASES = [
    ("nonfinite", {"tensors__0__nonfinite": 4, "first_nonfinite": FIRST}, 4, "z2, epoch 1, batch 7, row 63", {}),
    (
        "unverified",
        {"verification": {"passed": False, "failure": FAILURE}},
        0.02,
        "z1_max of batch 3 is 5 and float64 says 5.1",
        {"verification": None},
    ),
    (
        "nondeterministic",
        {"verification": {"deterministic": False}, "epochs__1__loss": 0.5},
        2,
        "2 different losses",
        {"epochs__1__loss": 0.5, "verification": {"deterministic": True}},
    ),
    (
        "explodes",
        {"tensors__2__max": 64 * 5.25},
        64,
        "layer 2 multiplies the range by 64 (limit 10): 5.25 → 336",
        {"tensors__2__max": 52.5},
    ),
    (
        "vanishes",
        {"tensors__2": {"min": 0.0, "max": 0.05}},
        0.05 / 5.25,
        "layer 2 multiplies the range by 0.0095238 (limit 0.1): 5.25 → 0.05",
        {"tensors__2__max": 0.53},
    ),
    ("dead_units", {"units": {"dead": 3, "distinct": 62}}, 3, "3 of 64 units", {"units": {"dead": 0}}),
    ("saturated_units", {"units": {"always_on": 48}}, 0.75, "48 of 64 units (limit 0.5)", {"units": {"always_on": 32}}),
    (
        "identical_units",
        {"units": {"distinct": 1}, "config__initializer": "ones"},
        64,
        "64 units, 1 distinct: with `ones` they all compute the same",
        {"units": {"distinct": 62, "dead": 3}},
    ),
    (
        "linear",
        {"units": {"switching": 0}, "config__activation": "leaky_relu"},
        0,
        "no unit's z1 takes both signs: over these samples leaky_relu bends nowhere",
        {"units": {"switching": 1}},
    ),
    (
        "low_rank",
        {"units": {"rank": 2}, "parameters__1": {"min": 0.0, "max": 0.0}},
        2,
        "a1 has rank 2 (limit 2): with zero biases the network can bend only at 0",
        {"units": {"rank": 3}},
    ),
    (
        "worse_than_mean",
        {"context": {"r_squared": -1.5}, "loss": 2.5},
        -1.5,
        "the loss 2.5 is 2.5 times that of predicting the mean of y",
        {"context": {"r_squared": -1e-8}},
    ),
    (
        "unscaled_data",
        {"config__scaling": "none", "tensors__0": {"min": -99.0, "max": 99.0}},
        9900.25,
        "y reaches 9,900.2 (limit 10)",
        {"config__scaling": "none", "dataset__x": {"min": -5.0, "max": 5.0}, "dataset__y": {"min": -5.0, "max": 10.0}},
    ),
]


FLOAT16 = {"tensor": "z2", "format": "float16", "overflow": 0.01, "underflow": 0.0, "median_error": 1e-4}
CASES.append(
    (
        "overflows_format",
        {"formats": [FLOAT16 | {"scale": 0.5, "scaled_underflow": 0.0}], "tensors__2__max": 70000.0},
        70000.0,
        "z2 reaches 70,000, beyond float16 (limit 65,504)",
        {"formats": [FLOAT16 | {"scale": 1.0, "scaled_underflow": 0.0}], "tensors__2__max": 65504.0},
    )
)


@pytest.mark.parametrize(("id", "with_it", "value", "said", "without"), CASES, ids=[case[0] for case in CASES])
def test_every_finding_is_there_and_is_not(id, with_it, value, said, without):
    there = found(records.make(**with_it))[id]
    assert there.value == pytest.approx(value)
    assert there.limit == limits.LIMITS[id].limit
    assert there.level == limits.LIMITS[id].level
    assert said in there.text
    assert id not in found(records.make(**without))


def test_every_id_has_a_case():
    assert {case[0] for case in CASES} == set(limits.LIMITS)


def test_the_first_layer_counts_too():
    changes = {"tensors__0": {"min": -2.0, "max": 0.5}, "config__scaling": "none"}
    vanishing = found(records.make(**changes))["vanishes"]
    assert (vanishing.tensor, vanishing.value) == ("z1", pytest.approx(2 / 99.75))
    assert vanishing.text.startswith("layer 1 multiplies the range by 0.02005 (limit 0.1)")
    # Under scaling the network got x within ±1.74: the same z1 is no small range.
    assert "vanishes" not in found(records.make(tensors__0={"min": -2.0, "max": 0.5}))


def test_errors_come_first_and_the_order_is_that_of_the_limits():
    record = records.make(
        tensors__0__nonfinite=1,
        first_nonfinite=FIRST,
        tensors__2__max=1e6,
        units={"dead": 3, "rank": 1, "distinct": 2},
        config__scaling="none",
        context={"r_squared": -3.0},
    )
    ids = [finding.id for finding in findings.find(record)]
    assert ids == sorted(ids, key=list(limits.LIMITS).index)
    assert ids[0] == "nonfinite"
    assert len(ids) >= 5


@pytest.mark.parametrize("activation", ["gelu", "tanh", "identity"])
def test_always_on_says_nothing_where_there_is_no_bend_to_miss(activation):
    assert "saturated_units" not in found(records.make(units={"always_on": 64}, config__activation=activation))


def test_tanh_is_saturated_where_its_input_is_large():
    wide = records.tensor("z1", [10, 64], -100.0, 100.0, 0.0, 50.0)
    record = records.make(config__activation="tanh", tensors__0=wide)
    finding = found(record)["saturated_units"]
    # Of an even spread over ±100, all but ±2.65 of it is saturated; the histogram may lose the bins at the bound.
    assert 0.96 <= finding.value <= 1 - math.atanh(0.99) / 100
    narrow = records.tensor("z1", [10, 64], -3.0, 3.0, 0.0, 1.0)
    assert "saturated_units" not in found(records.make(config__activation="tanh", tensors__0=narrow))
    unknown = records.make(config__activation="tanh", tensors__0={**wide, "histogram": None})
    assert "saturated_units" not in found(unknown)


def test_zero_units_are_dead_and_not_worse_than_the_mean():
    zeros = records.make(
        units={"dead": 64, "distinct": 1, "rank": 0},
        config__initializer="zeros",
        tensors__0={"min": 0.0, "max": 0.0},
        tensors__2={"min": 0.0, "max": 0.0},
        context={"r_squared": -2e-8},
    )
    assert {"dead_units", "identical_units", "low_rank", "vanishes"} == set(found(zeros))


@pytest.mark.parametrize(("rows", "distinct", "there"), [(3, 64, True), (2, 64, False), (1000, 0, False)])
def test_the_rank_is_low_only_where_the_samples_leave_room_for_more(rows, distinct, there):
    record = records.make(dataset__rows=rows, units={"rank": 2 * (distinct > 0), "distinct": distinct})
    assert ("low_rank" in found(record)) == there


def test_nothing_finite_makes_no_claim_about_ranges():
    none = dict.fromkeys(("min", "max", "mean", "std"), None)
    record = records.make(tensors__0=none, tensors__2=none, context={"r_squared": math.nan})
    assert found(record) == {}


def test_the_table_for_the_readme_holds_every_limit():
    lines = limits.markdown().splitlines()[2:]
    assert [re.match(r"\| `(\w+)`", line)[1] for line in lines] == list(limits.LIMITS)
    # An escaped bar is text: every line has five cells.
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {6}
