import dataclasses
import functools

import jax
import numpy as np
import pytest
from helpers import B, H, N, drawn
from helpers import parameters as by_hand

from cubic_cli import network
from cubic_cli.config import Activation, Initializer
from cubic_cli.data.source import Arrays
from cubic_cli.engine import passes
from cubic_cli.engine.passes import Pass
from cubic_cli.network import initialise
from cubic_cli.parameters import Parameters
from cubic_cli.reference import expected, verify
from cubic_cli.reference.network import forward as forward64


def samples():
    rng = np.random.default_rng(5)
    return rng.uniform(-100, 100, N).astype(np.float32), rng.normal(0, 50, N).astype(np.float32)


def see(parameters, x, y, activation=Activation.relu, by_unit=False, batch=B):
    """Return what the devices say."""
    passing = Pass(parameters, Arrays(x, y), batch, activation, jax.devices(), by_unit=by_unit)
    (chunk,) = passing.run()
    with np.errstate(over="ignore"):
        loss = float(np.float32(chunk.squared_error / len(x)))
    return verify.Seen(chunk.columns, chunk.tensors, loss)


def check(parameters, seen, x, y, activation=Activation.relu, batch=B):
    reference = compute(parameters, x, y, activation, batch)
    return verify.verify(reference, seen, np.arange(len(reference.sizes)))


def compute(parameters, x, y, activation=Activation.relu, batch=B):
    return expected.compute(Parameters(*map(np.asarray, parameters)), x, y, batch, activation)


by_both_schedules = pytest.mark.parametrize("by_unit", [False, True], ids=["plain", "by_unit"])


@by_both_schedules
@pytest.mark.parametrize("activation", Activation)
def test_what_is_right_passes(activation, by_unit):
    x, y = samples()
    for initializer in Initializer:
        parameters = initialise(initializer, H, 2)
        result = check(parameters, see(parameters, x, y, activation, by_unit), x, y, activation)
        assert result.passed, (initializer, result)
        assert result.batches == 11
        assert result.max_relative_error < 1e-6


def test_zeros_of_gelu_that_float32_may_miss():
    """From −7.3 to −9 float64 finds zero; a float32 tanh may be the number after −1 there."""
    parameters = by_hand(1.0, 1, 1, 1)
    for z1, least in ((-7.5, 0), (-8.9, 0), (-9.5, B)):
        x = np.full(B, z1 - 1, np.float32)
        reference = compute(parameters, x, x, Activation.gelu)
        assert reference.tensors["a1"].zeros == (least, B)


@pytest.mark.parametrize(("activation", "largest"), [(Activation.relu, 0.0), (Activation.leaky_relu, 9.9)])
def test_a_bias_is_not_lost_where_the_slope_leaves_nothing_of_it(activation, largest):
    """z1 near −990, of a product and of a bias of a million: an error of 3e-2 in z1 is none in a1, or 3e-4."""
    parameters = by_hand([-1.0] * H, 1e6, 1.0, 0.0)
    x = np.linspace(1_000_990, 1_000_991, N, dtype=np.float32)
    reference = compute(parameters, x, x, activation)
    assert reference.tensors["z1"].rounding.max() > 0.03
    assert reference.tensors["a1"].magnitude.max() == pytest.approx(largest, abs=0.1)
    assert reference.tensors["a1"].rounding.max() < (1e-37 if activation is Activation.relu else 1e-3)
    seen = see(parameters, x, x, activation)
    assert check(parameters, seen, x, x, activation).passed
    low = np.asarray(seen.columns["a1_max"]) - 2e-3
    assert not check(
        parameters, dataclasses.replace(seen, columns={**seen.columns, "a1_max": low}), x, x, activation
    ).passed


@pytest.mark.parametrize("activation", Activation)
def test_what_cancels_is_no_failure(activation):
    """A batch of one sample, ten times, may be nearly zero where its terms are not: z2 is a difference of saturated
    units, a1 of gelu that of 1 and tanh, the loss that of z2 and y.
    """
    fine = np.linspace(-4, 4, 4001, dtype=np.float32)
    drawn_from = [(initializer, 0) for initializer in Initializer] + [(Initializer.he_normal, s) for s in range(1, 5)]
    for initializer, seed in drawn_from:
        for bias in (0.0, 0.7):
            parameters = Parameters(*map(np.asarray, initialise(initializer, H, seed)))
            parameters = parameters._replace(b1=np.full(H, bias, np.float32))
            _, a1, z2 = forward64(parameters, fine, activation)
            left = np.abs(z2) / (np.abs(a1 * parameters.w2[:, 0]).sum(axis=1) + 1e-30)
            x = np.repeat(np.r_[fine[np.argsort(left)[:5]], fine[::750]], B)[:N]
            y = np.float32(forward64(parameters, x, activation)[2])
            result = check(parameters, see(parameters, x, y, activation), x, y, activation)
            assert result.passed, (initializer, seed, bias, result)
            assert result.max_relative_error < 5e-6  # half of what is allowed


@pytest.mark.parametrize("hidden", [4, 4096])
@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("initializer", [Initializer.ones, Initializer.he_normal])
def test_a_small_error_is_noticed_at_any_width(initializer, activation, hidden):
    """z2 off by three thousandths of the largest of its batch, where float32 rounds 1e-6 of it."""
    x, y = samples()
    x, y = x[:100] / 100, y[:100] / 50
    parameters = drawn(hidden, 2) if initializer is Initializer.he_normal else by_hand([1.0] * hidden, 1, 1, 1)
    reference = compute(parameters, x, y, activation)
    magnitude = reference.tensors["z2"].magnitude
    for end in ("z2_min", "z2_max"):
        for batch in range(10):
            seen = see_expected(reference)
            seen.columns[end][batch] += 0.003 * magnitude[batch]
            result = verify.verify(reference, seen, np.arange(10))
            assert (result.passed, result.failure.batch) == (False, batch + 1)


def see_expected(reference):
    """Return what a device would say that computes in float64."""
    history = {"loss": reference.loss.copy(), "nonfinite": np.zeros(len(reference.sizes))}
    for name, tensor in reference.tensors.items():
        history |= {f"{name}_min": tensor.low.copy(), f"{name}_max": tensor.high.copy()}
    return verify.Seen(history, {})


@pytest.fixture
def case():
    x, y = samples()
    parameters = drawn(H, 2)
    return parameters, see(parameters, x, y), x, y


@pytest.mark.parametrize("quantity", ["loss", "z1_min", "z1_max", "a1_max", "z2_min", "z2_max"])
def test_one_wrong_figure_of_the_history_is_named(case, quantity):
    parameters, seen, x, y = case
    seen.columns[quantity] = seen.columns[quantity].copy()
    seen.columns[quantity][4] *= np.float32(1.001)
    result = check(parameters, seen, x, y)
    assert not result.passed
    assert result.failure.quantity == quantity
    assert result.failure.batch == 5


@pytest.mark.parametrize("tensor", ["z1", "a1", "z2"])
@pytest.mark.parametrize("quantity", ["min", "max", "mean", "std", "zeros", "nan", "count"])
def test_one_wrong_figure_of_the_record_is_named(case, tensor, quantity):
    parameters, seen, x, y = case
    seen.tensors[tensor] = seen.tensors[tensor]._replace(**{quantity: getattr(seen.tensors[tensor], quantity) + 1})
    result = check(parameters, seen, x, y)
    assert not result.passed
    assert result.failure.quantity.startswith(tensor)


def test_a_wrong_loss_of_the_epoch_is_named(case):
    """The batches' own are right: they were added up wrongly."""
    parameters, seen, x, y = case
    result = check(parameters, dataclasses.replace(seen, loss=seen.loss * 1.001), x, y)
    assert (result.failure.quantity, result.failure.batch) == ("epoch_loss", None)


def test_epochs_that_differ_fail(case):
    parameters, seen, x, y = case
    result = check(parameters, dataclasses.replace(seen, deterministic=False), x, y)
    assert result.failure is None
    assert not result.passed


def named(result):
    assert not result.passed
    return result.failure.quantity.split("_")[0]


@by_both_schedules
class TestInjectedErrors:
    """What a broken device would do; the reference has the right parameters and samples."""

    def test_wrong_bias(self, by_unit):
        x, y = samples()
        right = drawn(H, 2)
        hidden = right._replace(b1=right.b1 + np.eye(H, dtype=np.float32)[3])
        output = right._replace(b2=right.b2 + 1.0)
        assert named(check(right, see(hidden, x, y, by_unit=by_unit), x, y)) == "z1"
        assert named(check(right, see(output, x, y, by_unit=by_unit), x, y)) == "z2"

    def test_bfloat16_products(self, by_unit):
        x, y = samples()
        right = drawn(H, 2)
        rough = Parameters(*(a.astype(jax.numpy.bfloat16).astype(np.float32) for a in right))
        assert named(check(right, see(rough, x, y, by_unit=by_unit), x, y)) == "z1"
        output_only = right._replace(w2=rough.w2, b2=rough.b2)
        assert named(check(right, see(output_only, x, y, by_unit=by_unit), x, y)) == "z2"

    def test_one_wrong_row(self, by_unit):
        x, y = samples()
        right = drawn(H, 2)
        wrong_x, wrong_y = x.copy(), y.copy()
        wrong_x[87], wrong_y[87] = 0.0, wrong_y[87] + 40
        assert named(check(right, see(right, wrong_x, y, by_unit=by_unit), x, y)) in ("z1", "a1")
        result = check(right, see(right, x, wrong_y, by_unit=by_unit), x, y)
        assert named(result) == "loss"
        assert result.failure.batch == 9

    def test_dropped_batch(self, by_unit):
        x, y = samples()
        right = drawn(H, 2)
        x2, y2 = x.copy(), y.copy()
        x2[50:60], y2[50:60] = x[40:50], y[40:50]  # batch 6 shows batch 5 again
        result = check(right, see(right, x2, y2, by_unit=by_unit), x, y)
        assert named(result) == "z1"
        assert result.failure.batch == 6

    def test_shuffled_statistic(self, by_unit):
        x, y = samples()
        right = drawn(H, 2)
        seen = see(right, x, y, by_unit=by_unit)
        seen.columns["a1_max"] = np.roll(seen.columns["a1_max"], 1)
        assert named(check(right, seen, x, y)) == "a1"

    def test_one_flipped_bit_in_one_activation(self, by_unit, monkeypatch):
        """A high bit of the mantissa of the largest activation of all."""
        x, y = samples()
        right = drawn(H, 2)
        peak = np.outer(x, right.w1[0]).max()

        def flipped(z):
            a = network.relu(z)
            bits = jax.lax.bitcast_convert_type(a, jax.numpy.int32) ^ (1 << 20)
            return jax.numpy.where(z > peak * (1 - 1e-6), jax.lax.bitcast_convert_type(bits, jax.numpy.float32), a)

        monkeypatch.setitem(network.ACTIVATIONS, Activation.relu, flipped)
        for how in (passes.MOMENTS, passes.PLAIN):  # others than those whose programs are known
            monkeypatch.setattr(passes, how.name.upper(), dataclasses.replace(how, see=functools.partial(how.see)))
        assert named(check(right, see(right, x, y, by_unit=by_unit), x, y)) == "a1"


def test_overflow_is_no_failure():
    """Where float32 overflows, float64 must be beyond its range, and may differ in what is left."""
    x, y = samples()
    x = (x * np.float32(3e36)).astype(np.float32)
    for parameters in (by_hand([1.0] * H, 1, 1, 1), drawn(H, 2)):
        for by_unit in (False, True):
            result = check(parameters, see(parameters, x, y, by_unit=by_unit), x, y)
            assert result.passed, result


def test_values_that_are_not_finite_in_the_data_are_no_failure():
    x, y = samples()
    x[7], x[18], y[29] = np.nan, np.inf, -np.inf
    parameters = drawn(H, 2)
    result = check(parameters, see(parameters, x, y), x, y)
    assert result.passed, result


@pytest.mark.parametrize("activation", Activation)
@by_both_schedules
def test_what_overflows_or_is_infinite_is_no_failure_under_any_activation(activation, by_unit):
    """z1 may leave float32's range where a1 does not: 0.01 z1 of `leaky_relu`, and 0 of `gelu` at −∞."""
    x, y = samples()
    infinite = x.copy()
    infinite[7], infinite[18], infinite[29] = np.inf, -np.inf, np.nan
    parameters = drawn(H, 2)
    for column in (infinite, (x * np.float32(3e36)).astype(np.float32)):
        result = check(parameters, see(parameters, column, y, activation, by_unit), column, y, activation)
        assert result.passed, result


# --- every figure to its own scale ----------------------------------------------------------------------------------

OFFSETS = {
    "ten million, and one more": np.resize([1e7, 1e7 + 1], N),
    "ten million and a uniform": 1e7 + np.random.default_rng(1).uniform(-1, 1, N),
    "Unix time": 1.7e9 + 128.0 * np.random.default_rng(2).integers(0, 2, N),
    "about zero": np.random.default_rng(3).uniform(-100, 100, N),
}


@pytest.mark.parametrize("activation", [Activation.relu, Activation.identity, Activation.gelu])
@by_both_schedules
@pytest.mark.parametrize("name", OFFSETS)
def test_mean_and_deviation_are_held_to_the_deviation_however_far_from_zero(name, by_unit, activation):
    """Three times what is allowed, tolerance · std and a few 2⁻²⁴ of the values, not 1e-5 of their magnitude."""
    x = OFFSETS[name].astype(np.float32)
    parameters = by_hand([1.0] * H, 1, 1, 1)
    seen = see(parameters, x, x, activation, by_unit)
    result = check(parameters, seen, x, x, activation)
    assert result.passed, result
    for tensor, width in (("z1", 1), ("a1", 1), ("z2", H)):
        told = seen.tensors[tensor]
        assert told.min <= told.mean <= told.max
        values = width * x.astype(float)
        allowed = 1e-5 * values.std() + 8 * 2.0**-24 * np.abs(values).max()
        for figure in ("mean", "std"):
            for error in (3 * allowed, -3 * allowed):
                moved = told._replace(**{figure: getattr(told, figure) + error})
                wrong = dataclasses.replace(seen, tensors={**seen.tensors, tensor: moved})
                assert check(parameters, wrong, x, x, activation).failure.quantity == f"{tensor}_{figure}"


def test_a_mean_outside_of_the_range_and_a_constant_that_deviates_are_wrong_however_little():
    x = np.full(N, 0.3, np.float32)
    parameters = by_hand([1.0] * H, 1, 1, 1)
    seen = see(parameters, x, x)
    assert check(parameters, seen, x, x).passed
    for tensor in ("z1", "a1", "z2"):
        told = seen.tensors[tensor]
        for figure, value in (("mean", np.nextafter(told.min, 0)), ("std", 1e-12)):
            wrong = dataclasses.replace(seen, tensors={**seen.tensors, tensor: told._replace(**{figure: value})})
            assert check(parameters, wrong, x, x).failure.quantity == f"{tensor}_{figure}"


@by_both_schedules
def test_a_loss_of_tiny_squares_is_what_it_is(by_unit):
    """An answer of 0 to everything, y = ±1e-19: the loss is 1e-38, below float32's smallest normal one, and not 0."""
    x, y = samples()[0], np.resize(np.array([1e-19, -1e-19], np.float32), N)
    parameters = by_hand([0.0] * H, 0, 0, 0)
    seen = see(parameters, x, y, by_unit=by_unit)
    assert seen.loss == pytest.approx(1e-38, rel=1e-6)
    assert check(parameters, seen, x, y).passed
    lost = dataclasses.replace(seen, columns={**seen.columns, "loss": 0 * seen.columns["loss"]})
    assert check(parameters, lost, x, y).failure.quantity == "loss"


@by_both_schedules
@pytest.mark.parametrize("activation", Activation)
def test_what_a_device_takes_for_zero_is_no_failure(activation, by_unit):
    """x, products and sums below 2⁻¹²⁶ are themselves or zero: in the zeros counted, and in what follows from them."""
    y = samples()[1] / 50
    parameters = drawn(H, 1)
    for scale in (1e-33, 1e-35, 1e-37, 1e-39, 1e-42, 1e-45):
        with np.errstate(under="ignore"):
            x = (scale * samples()[0] / 100).astype(np.float32)
        result = check(parameters, see(parameters, x, y, activation, by_unit), x, y, activation)
        assert result.passed, (scale, result)


@by_both_schedules
def test_what_would_overflow_but_for_a_tiny_x_taken_for_zero_is_no_failure(by_unit):
    x = np.float32([1e-39, -1e-39, 0, 1e-39])
    parameters = by_hand([1e38, 1], 0, [1e36, 0], np.finfo(np.float32).max)  # b2 and 0.1 W2, which is lost
    for activation in (Activation.relu, Activation.identity):
        assert check(parameters, see(parameters, x, x, activation, by_unit), x, x, activation).passed


@by_both_schedules
def test_a_large_output_bias_and_an_infinite_x_times_a_tiny_weight_are_no_failure(by_unit):
    """The sum may begin with the bias, and round at its size; ∞ · 1e-45 is NaN where a device takes 1e-45 for zero."""
    x, y = samples()
    wide = drawn(1024, 2)
    biased = wide._replace(b1=wide.b1 + 1000, b2=wide.b2 - 1000)
    assert check(biased, see(biased, x / 100, y, Activation.tanh, by_unit), x / 100, y, Activation.tanh).passed
    x[7] = -np.inf
    with np.errstate(under="ignore"):
        tiny = by_hand([1e-45] + [1.0] * (H - 1), 1, 1, 1)
    for activation in Activation:
        result = check(tiny, see(tiny, x, y, activation, by_unit), x, y, activation)
        assert result.passed, result


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_loss_that_is_not_finite_where_float64_s_is(case, value):
    parameters, seen, x, y = case
    seen.columns["loss"] = seen.columns["loss"].copy()
    seen.columns["loss"][4] = value
    result = check(parameters, seen, x, y)
    assert (result.failure.quantity, result.failure.batch) == ("loss", 5)


@pytest.mark.parametrize("kind", ["nan", "posinf", "neginf"])
def test_a_number_that_is_counted_as_none(case, kind):
    """As many values as there are, but one of them is said to be no number."""
    parameters, seen, x, y = case
    told = seen.tensors["a1"]
    seen.tensors["a1"] = told._replace(**{kind: getattr(told, kind) + 1, "count": told.count - 1})
    assert check(parameters, seen, x, y).failure.quantity == "a1_nonfinite"


def test_of_many_batches_an_even_spread_is_verified():
    picked = verify.choose_batches(1_000_007, 10)
    assert len(picked) == 10_000
    assert (picked[0], picked[-1]) == (0, 100_000)
    assert set(np.diff(picked)) <= {10, 11}


@by_both_schedules
@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("sign", [-1, 1])
def test_infinite_parameters_are_no_failure(activation, by_unit, sign):
    """A bias saturates its unit, or is no number where the product overflows to the other side; so is 0 · ∞."""
    x, y = samples()
    x[[3, 14, 60]] = 1e-40, -1e-40, 3e38
    w1, b1, w2, b2 = (array.copy() for array in drawn(H, 4))
    infinite = np.float32(sign * np.inf)
    bias, weight = b1.copy(), w1.copy()
    bias[2], weight[0, 5] = infinite, infinite
    for parameters in (
        Parameters(w1, bias, w2, b2),
        Parameters(weight, b1, w2, b2),
        Parameters(100 * w1, bias, w2, b2),
    ):
        seen = see(parameters, x, y, activation, by_unit)
        assert check(parameters, seen, x, y, activation).failure is None
