import jax
import numpy as np
import pytest

from cubic_cli.config import Activation, Initializer
from cubic_cli.data.source import Arrays
from cubic_cli.engine import layout, schedule
from cubic_cli.engine import passes as forward
from cubic_cli.engine.passes import Pass
from cubic_cli.network import Layer, Parameters, initialise
from cubic_cli.reference.network import activate

TENSORS = ("z1", "a1", "z2")


def reference(parameters, x, y, batch, activation=Activation.relu):
    """Plain float64 loops over the batches."""
    (w1, b1), (w2, b2) = ([np.asarray(a, np.float64) for a in layer] for layer in parameters)
    for start in range(0, len(x), batch):
        xs, ys = x[start : start + batch, None].astype(np.float64), y[start : start + batch, None]
        z1 = xs @ w1 + b1
        a1 = activate(activation, z1)
        z2 = a1 @ w2 + b2
        yield z1, a1, z2, ((z2 - ys) ** 2).mean()


def samples(n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-100, 100, n).astype(np.float32)
    return x, (0.01 * x**3 - 0.5 * x + 20 + rng.normal(0, 10, n)).astype(np.float32)


def run(parameters, x, y, batch, activation=Activation.relu, devices=4, **options):
    return Pass(parameters, Arrays(x, y), batch, activation, jax.devices()[:devices], **options)


@pytest.mark.parametrize("by_unit", [False, True])
@pytest.mark.parametrize("devices", [1, 3, 4])
@pytest.mark.parametrize(
    ("n", "batch", "hidden"),
    [
        (1000, 10, 64),
        (1003, 10, 67),
        (1, 10, 64),
        (7, 1, 3),
        (1000, 99, 5),
        (1001, 100, 5),
        (50, 400, 5),
        (90_001, 45_000, 2),
        (300, 7, 4096),
    ],
)
def test_every_batch_against_float64(n, batch, hidden, devices, by_unit):
    x, y = samples(n)
    parameters = initialise(Initializer.he_normal, hidden, 1)
    epoch = run(parameters, x, y, batch, devices=devices, by_unit=by_unit).epoch()
    rows = list(reference(parameters, x, y, batch))
    assert len(epoch.batch_loss) == len(rows)
    tolerance = max(1e-5, hidden * 2.0**-24)  # float32 rounding of a sum of H terms
    for k, (*tensors, loss) in enumerate(rows):
        for name, values in zip(TENSORS, tensors, strict=True):
            scale = np.abs(values).max()
            assert abs(epoch.low[name][k] - values.min()) <= tolerance * scale
            assert abs(epoch.high[name][k] - values.max()) <= tolerance * scale
        assert epoch.batch_loss[k] == pytest.approx(loss, rel=1e-4)
    for i, name in enumerate(TENSORS):
        values = np.concatenate([row[i] for row in rows])
        whole = epoch.tensors[name]
        assert whole.count == values.size
        assert whole.mean == pytest.approx(values.mean(), rel=1e-4, abs=1e-5 * np.abs(values).max())
        assert whole.std == pytest.approx(values.std(), rel=1e-5)
    assert epoch.tensors["a1"].zeros == sum(int((row[1] == 0).sum()) for row in rows)


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("initializer", [Initializer.ones, Initializer.zeros, Initializer.glorot_uniform])
def test_the_schedules_agree(activation, initializer):
    x, y = samples(2_345)
    parameters = initialise(initializer, 19, 3)
    plain, fast = (run(parameters, x, y, 10, activation, 2, by_unit=by_unit).epoch() for by_unit in (False, True))
    for name in TENSORS:
        scale = max(np.abs(plain.low[name]).max(), np.abs(plain.high[name]).max(), 1e-30)
        # A product and a sum may or may not be fused, which rounds once less.
        np.testing.assert_allclose(plain.low[name], fast.low[name], rtol=0, atol=2e-6 * scale)
        np.testing.assert_allclose(plain.high[name], fast.high[name], rtol=0, atol=2e-6 * scale)
        a, b = plain.tensors[name], fast.tensors[name]
        assert (a.count, a.zeros, a.nonfinite) == (b.count, b.zeros, b.nonfinite)
        np.testing.assert_allclose([a.mean, a.std], [b.mean, b.std], rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(plain.batch_loss, fast.batch_loss, rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("batch", [10, 1000])
def test_a_million_samples_against_float64(batch):
    x, y = samples(1_000_000, 7)
    parameters = initialise(Initializer.he_normal, 64, 7)
    seen = run(parameters, x, y, batch, by_unit=True).epoch().tensors
    (w1, b1), (w2, b2) = ([np.asarray(a, np.float64) for a in layer] for layer in parameters)
    sums = {name: np.zeros(4) for name in TENSORS}
    for part in np.array_split(x.astype(np.float64), 50):
        z1 = np.outer(part, w1[0]) + b1
        a1 = np.maximum(z1, 0)
        for name, values in zip(TENSORS, (z1, a1, a1 @ w2 + b2), strict=True):
            sums[name] += [values.size, values.sum(), np.square(values).sum(), np.count_nonzero(values == 0)]
    for name, (count, total, squares, zeros) in sums.items():
        mean = total / count
        assert seen[name].count == count
        assert seen[name].mean == pytest.approx(mean, rel=1e-6)
        assert seen[name].std == pytest.approx(np.sqrt(squares / count - mean**2), rel=1e-5)
        assert seen[name].zeros == zeros


@pytest.mark.parametrize("by_unit", [False, True])
@pytest.mark.parametrize("batch", [10, 300, 50_000])
def test_devices_do_not_matter(by_unit, batch):
    x, y = samples(130_001)
    parameters = initialise(Initializer.glorot_normal, 6, 1)
    one, *others = (run(parameters, x, y, batch, Activation.gelu, d, by_unit=by_unit).epoch() for d in (1, 2, 3, 4))
    for other in others:
        for name in TENSORS:
            np.testing.assert_array_equal(one.low[name], other.low[name])
            np.testing.assert_array_equal(one.high[name], other.high[name])
            assert one.tensors[name].zeros == other.tensors[name].zeros
        assert one.loss == pytest.approx(other.loss, rel=1e-6)


@pytest.mark.parametrize("by_unit", [False, True])
@pytest.mark.parametrize("batch", [7, 64, 1000])
def test_chunks_do_not_matter(monkeypatch, batch, by_unit):
    x, y = samples(1_000)
    parameters = initialise(Initializer.he_normal, 5, 1)
    whole = run(parameters, x, y, batch, by_unit=by_unit).epoch()
    monkeypatch.setattr(layout, "_CHUNK", 100)
    parts = run(parameters, x, y, batch, by_unit=by_unit)
    assert len(list(parts.chunks())) > 1 or batch >= 1000
    epoch = parts.epoch()
    for name in TENSORS:
        np.testing.assert_array_equal(whole.low[name], epoch.low[name])
        assert whole.tensors[name].std == pytest.approx(epoch.tensors[name].std, rel=1e-6)
    np.testing.assert_array_equal(whole.sizes, epoch.sizes)
    np.testing.assert_allclose(whole.batch_loss, epoch.batch_loss, rtol=1e-6)


@pytest.mark.parametrize("by_unit", [False, True])
def test_history_alone_is_the_same_history(by_unit, monkeypatch):
    monkeypatch.setattr(forward, "_LITTLE_WORK", -1)
    x, y = samples(4_567)
    passing = run(initialise(Initializer.he_normal, 16, 1), x, y, 10, by_unit=by_unit)
    passing.wait_for_programs()
    full, alone = (list(passing.chunks(statistics)) for statistics in (True, False))
    assert [c.tensors is None for c in alone] == [by_unit] * len(alone)
    assert [c.loss.tobytes() for c in full] == [c.loss.tobytes() for c in alone]
    for name in TENSORS:
        assert [c.low[name].tobytes() for c in full] == [c.low[name].tobytes() for c in alone]


def test_without_statistics_only_the_history_is_compiled():
    x, y = samples(4_567)
    parameters = initialise(Initializer.he_normal, 16, 1)
    whole, alone = (run(parameters, x, y, 10, by_unit=True, statistics=wanted) for wanted in (True, False))
    assert (list(whole._programs), list(alone._programs)) == (["moments"], ["history"])
    full, epoch = whole.epoch(), alone.epoch()
    assert epoch.tensors == {}
    assert full.batch_loss.tobytes() == epoch.batch_loss.tobytes()
    assert all(full.high[name].tobytes() == epoch.high[name].tobytes() for name in TENSORS)


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("by_unit", [False, True])
def test_one_program_for_all_activations(by_unit, statistics):
    x, y = samples(1_003)
    parameters = initialise(Initializer.he_normal, 6, 1)
    how = {"by_unit": by_unit, "statistics": statistics}
    forward._compile.cache_clear()
    epochs = [run(parameters, x, y, 10, kind, any_activation=True, **how).epoch() for kind in Activation]
    assert forward._compile.cache_info().misses == 1
    for kind, epoch in zip(Activation, epochs, strict=True):
        alone = run(parameters, x, y, 10, kind, **how).epoch()
        np.testing.assert_allclose(epoch.batch_loss, alone.batch_loss, rtol=1e-5)
        assert set(epoch.tensors) == set(alone.tensors)
        for name in TENSORS:
            for ours, theirs in ((epoch.low, alone.low), (epoch.high, alone.high)):
                np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-4)
        for name, ours in epoch.tensors.items():
            assert (ours.count, ours.std) == (alone.tensors[name].count, pytest.approx(alone.tensors[name].std, 1e-5))


def test_the_next_epoch_begins_before_this_one_ends(monkeypatch):
    """Its first chunks are dispatched before the last chunk is looked at, and the figures stay those of each epoch."""
    monkeypatch.setattr(forward, "_LITTLE_WORK", -1)
    monkeypatch.setattr(layout, "_CHUNK", 1000)
    x, y = samples(4_567)
    passing = run(initialise(Initializer.he_normal, 16, 1), x, y, 10, by_unit=True, num_epochs=3)
    epochs, ahead, collect = [], [], passing._collect

    def collected(*arguments):
        ahead.append(len(passing._ahead))
        return collect(*arguments)

    monkeypatch.setattr(passing, "_collect", collected)
    for number in (1, 2, 3):
        epochs.append([(c.first_batch, c.loss.tobytes()) for c in passing.chunks(number == 1, more=number < 3)])
        passing.wait_for_programs()
    assert len(epochs[0]) == 5
    assert ahead == [2] * 13 + [1, 0]
    assert epochs[0] == epochs[1] == epochs[2]
    assert "history" in passing._programs


def test_equal_units_add_up_without_drift():
    """64 equal terms added one after the other round to the same side: 1e-6 of the sum. By steps it is a third."""
    x = np.linspace(0, 100, 3_001, dtype=np.float32)
    parameters = initialise(Initializer.ones, 64, 0)
    epoch = run(parameters, x, np.zeros_like(x), 1, by_unit=True).epoch()
    expected = 64 * (x.astype(np.float64) + 1) + 1
    assert np.abs(epoch.high["z2"] / expected - 1).max() < 4e-7


@pytest.mark.parametrize("by_unit", [False, True])
def test_what_the_loss_hides(by_unit):
    """−inf in z1 is 0 after ReLU: the loss is a healthy number, and z1 is not."""
    hidden = 4
    weight = np.array([[3e37, 1, 1, 1]], np.float32)
    ones = np.ones((hidden, 1), np.float32)
    parameters = Parameters(Layer(weight, np.ones(hidden, np.float32)), Layer(ones, np.zeros(1, np.float32)))
    x = -np.linspace(1, 50, 1000, dtype=np.float32)
    epoch = run(jax.tree.map(jax.numpy.asarray, parameters), x, x, 10, by_unit=by_unit).epoch()
    assert np.isfinite(epoch.loss)
    assert epoch.tensors["z1"].neginf == np.count_nonzero(x.astype(np.float64) * 3e37 < -3.4028235e38)
    assert epoch.tensors["z1"].nan == epoch.tensors["z1"].posinf == epoch.tensors["a1"].nonfinite == 0
    assert epoch.nonfinite.sum() == epoch.tensors["z1"].neginf
    assert epoch.low["z1"].min() >= -3.4028235e38


@pytest.mark.parametrize("by_unit", [False, True])
def test_values_that_are_not_finite_are_counted_apart(by_unit):
    x, y = samples(100)
    x[3], x[4], x[5], y[50] = np.nan, np.inf, -np.inf, np.nan
    epoch = run(initialise(Initializer.ones, 8, 0), x, y, 10, by_unit=by_unit).epoch()
    z1, a1 = epoch.tensors["z1"], epoch.tensors["a1"]
    assert (z1.nan, z1.posinf, z1.neginf, z1.count) == (8, 8, 8, 97 * 8)
    assert (a1.nan, a1.posinf, a1.neginf, a1.count) == (8, 8, 0, 98 * 8)
    assert np.flatnonzero(np.isnan(epoch.batch_loss)).tolist() == [0, 5]


def test_moments_that_cancel_are_left_to_the_plain_schedule():
    """A spread of 1e-3 about 1e3 has no digits left in a float32 mean of squares."""
    x = np.linspace(1000, 1000.01, 5_000, dtype=np.float32)
    epoch = run(initialise(Initializer.ones, 8, 0), x, x, 10, Activation.identity, by_unit=True).epoch()
    z1 = np.float32(x + np.float32(1)).astype(np.float64)
    assert epoch.tensors["z1"].std == pytest.approx(z1.std(), rel=1e-3)


@pytest.mark.parametrize(("by_unit", "name"), [(False, "plain"), (True, "by_unit")])
def test_one_trace_for_many_epochs(monkeypatch, by_unit, name):
    x, y = samples(200)
    traces = 0
    original = getattr(schedule, name)

    def counted(*arguments):
        nonlocal traces
        traces += 1
        return original(*arguments)

    monkeypatch.setattr(schedule, name, counted)
    forward._compile.cache_clear()
    losses = set()
    for _ in range(2):
        running = run(initialise(Initializer.ones, 8, 0), x, y, 7, devices=1, by_unit=by_unit)
        losses |= {running.epoch().loss for _ in range(5)}
    forward._compile.cache_clear()
    assert traces == 1
    assert len(losses) == 1


def test_an_epoch_that_must_compile_does_not_count_it(monkeypatch):
    """NaN needs the schedule that counts, whose program is made in the middle of the epoch."""
    now = [0.0]
    compiled = forward._compile

    def slowly(*shapes):
        now[0] += 100.0
        return compiled(*shapes)

    monkeypatch.setattr(forward, "_compile", slowly)
    monkeypatch.setattr(forward.time, "perf_counter", lambda: now[0])
    x, y = samples(100)
    x[3] = np.nan
    passing = run(initialise(Initializer.ones, 8, 0), x, y, 10, by_unit=True)
    passing.epoch()
    assert passing.compile_seconds == 200.0
    assert passing.epoch_seconds == 0.0


@pytest.mark.parametrize("nan", [False, True])
def test_the_times_of_epochs_do_not_overlap(monkeypatch, nan):
    """The devices have the next epoch before this one is done; NaN is seen by a second schedule, after the first."""
    monkeypatch.setattr(forward, "_LITTLE_WORK", -1)
    now = [0.0]
    get = jax.device_get

    def slowly(running):
        now[0] += 1.0
        return get(running)

    monkeypatch.setattr(forward.jax, "device_get", slowly)
    monkeypatch.setattr(forward.time, "perf_counter", lambda: now[0])
    x, y = samples(1_000)
    if nan:
        x[3] = np.nan
    passing = run(initialise(Initializer.ones, 8, 0), x, y, 10, by_unit=True, num_epochs=3)
    seconds = []
    for number in (1, 2, 3):
        assert len(list(passing.chunks(number == 1, more=number < 3))) == 1
        seconds.append(passing.epoch_seconds)
    assert seconds == ([2.0, 1.0, 1.0] if nan else [1.0, 1.0, 1.0])
