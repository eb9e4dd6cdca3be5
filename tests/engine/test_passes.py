import contextlib
import functools
import threading
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import MANY, ROWS, B, H, N, drawn, samples
from helpers import parameters as make_parameters

from cubic_cli.config import Activation, Initializer
from cubic_cli.data.source import Arrays
from cubic_cli.engine import mesh, passes, schedule
from cubic_cli.engine.layout import CPU, GPU
from cubic_cli.engine.passes import HISTORY, Clock, Pass, gather
from cubic_cli.float32 import EXTREMES, TENSORS
from cubic_cli.network import initialise
from cubic_cli.reference.network import activate

WAYS = [False, True]
CHUNKED = CPU._replace(chunk=80, block=10, plain_values=10 * H)  # two chunks, of two blocks a device
by_both_schedules = pytest.mark.parametrize("by_unit", WAYS, ids=["plain", "by_unit"])


def reference(parameters, x, y, batch, activation=Activation.relu):
    """Plain float64 loops over the batches."""
    w1, b1, w2, b2 = (np.asarray(array, np.float64) for array in parameters)
    for start in range(0, len(x), batch):
        xs, ys = x[start : start + batch, None].astype(np.float64), y[start : start + batch, None]
        z1 = xs @ w1 + b1
        a1 = activate(activation, z1)
        z2 = a1 @ w2 + b2
        yield z1, a1, z2, ((z2 - ys) ** 2).mean()


def make(parameters, x, y, batch, activation=Activation.relu, devices=4, **options):
    return Pass(parameters, Arrays(x, y), batch, activation, jax.devices()[:devices], **options)


def observe(*arguments, **options):
    """Run one epoch."""
    return gather(make(*arguments, **options).run())


def in_bits(columns):
    return {name: values.tobytes() for name, values in columns.items()}


@by_both_schedules
@pytest.mark.parametrize(
    ("n", "batch", "hidden", "activation"),
    [(1, B, 3, Activation.relu), (MANY, ROWS, H, Activation.relu), (N, B, 1024, Activation.tanh)],
    ids=["one sample", "rows", "wide"],
)
def test_every_batch_against_float64(n, batch, hidden, activation, by_unit):
    x, y = samples(n)
    parameters = drawn(hidden)
    epoch = observe(parameters, x, y, batch, activation, by_unit=by_unit)
    check_against_float64(epoch, parameters, x, y, batch, activation)


@by_both_schedules
@pytest.mark.parametrize("activation", Activation)
def test_every_activation_against_float64(activation, by_unit):
    x, y = samples(N)
    parameters = drawn(H, 1)
    epoch = observe(parameters, x, y, B, activation, by_unit=by_unit)
    check_against_float64(epoch, parameters, x, y, B, activation)


def check_against_float64(epoch, parameters, x, y, batch, activation=Activation.relu):
    rows = list(reference(parameters, x, y, batch, activation))
    columns = epoch.columns
    assert columns["size"].tolist() == [len(z2) for _, _, z2, _ in rows]
    tolerance = max(1e-5, parameters.hidden_size * 2.0**-24)  # float32 rounding of a sum of H terms
    for k, (*tensors, loss) in enumerate(rows):
        for name, values in zip(TENSORS, tensors, strict=True):
            scale = np.abs(values).max()
            assert abs(columns[f"{name}_min"][k] - values.min()) <= tolerance * scale
            assert abs(columns[f"{name}_max"][k] - values.max()) <= tolerance * scale
        assert columns["loss"][k] == pytest.approx(loss, rel=1e-4)
    for i, name in enumerate(TENSORS):
        values = np.concatenate([row[i] for row in rows])
        whole = epoch.tensors[name]
        assert whole.count == values.size
        assert whole.min <= whole.mean <= whole.max
        assert whole.mean == pytest.approx(values.mean(), rel=1e-4, abs=1e-5 * np.abs(values).max())
        assert whole.std == pytest.approx(values.std(), rel=1e-5)
    if activation is Activation.relu:
        assert epoch.tensors["a1"].zeros == sum(int((row[1] == 0).sum()) for row in rows)


# What an accelerator gets: one block a device; and several, of parts of a batch, where its memory holds no more.
ACCELERATORS = {"one block": GPU, "blocks": GPU._replace(chunk=700, block=300)}


@pytest.mark.parametrize(
    ("n", "batch", "hidden", "devices", "activation", "tuning"),
    [
        (206, 1, 1, 1, Activation.identity, "one block"),
        (206, 10, 3, 3, Activation.leaky_relu, "one block"),
        (206, 100, 20, 4, Activation.gelu, "one block"),
        (2003, 1000, 33, 2, Activation.relu, "blocks"),
    ],
)
def test_what_an_accelerator_gets_has_equal_figures(n, batch, hidden, devices, activation, tuning):
    x, y = samples(n)
    parameters = drawn(hidden)
    epoch = observe(parameters, x, y, batch, activation, devices, tuning=ACCELERATORS[tuning])
    check_against_float64(epoch, parameters, x, y, batch, activation)


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("initializer", [Initializer.ones, Initializer.zeros, Initializer.glorot_uniform])
def test_the_schedules_agree(activation, initializer):
    x, y = samples(N)
    parameters = initialise(initializer, H, 3)
    plain, fast = (observe(parameters, x, y, B, activation, by_unit=by_unit) for by_unit in WAYS)
    for name in TENSORS:
        ends = [f"{name}_{end}" for end in ("min", "max")]
        scale = max(*(np.abs(plain.columns[end]).max() for end in ends), 1e-30)
        for end in ends:
            # A product and a sum may or may not be fused, which rounds once less.
            np.testing.assert_allclose(plain.columns[end], fast.columns[end], rtol=0, atol=2e-6 * scale)
        a, b = plain.tensors[name], fast.tensors[name]
        assert (a.count, a.zeros, a.nonfinite) == (b.count, b.zeros, b.nonfinite)
        np.testing.assert_allclose([a.mean, a.std], [b.mean, b.std], rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(plain.columns["loss"], fast.columns["loss"], rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("batch", [10, 1000])
def test_a_million_samples_against_float64(batch):
    x, y = samples(1_000_000, 7)
    parameters = initialise(Initializer.he_normal, 64, 7)
    seen = observe(parameters, x, y, batch, by_unit=True).tensors
    w1, b1, w2, b2 = (np.asarray(array, np.float64) for array in parameters)
    sums = {name: np.zeros(4) for name in TENSORS}
    for part in np.array_split(x.astype(np.float64), 50):
        z1 = np.outer(part, w1[0]) + b1
        a1 = np.maximum(z1, 0)
        for name, values in zip(TENSORS, (z1, a1, a1 @ w2 + b2), strict=True):
            sums[name] += [values.size, values.sum(), np.square(values).sum(), np.count_nonzero(values == 0)]
    for name, (count, total, squares, zeros) in sums.items():
        mean = total / count
        assert seen[name].count == count
        std = np.sqrt(squares / count - mean**2)
        # z2 itself is rounded some ten times; what is added is not.
        ulps = 16 if name == "z2" else 4
        assert abs(seen[name].mean - mean) <= ulps * 2**-24 * (abs(mean) + std)
        assert abs(seen[name].std - std) <= ulps * 2**-24 * std
        assert seen[name].zeros == zeros


def assert_alike(name, one, other, exactly):
    """Hold a column of one pass against that of another of other blocks, bit for bit where units are taken in turn.

    All units at once, another shape may add up the terms of z2 in another order.
    """
    expected = one.columns[name]
    ulps = H if name.startswith("z2") and not exactly else 0
    np.testing.assert_allclose(other.columns[name], expected, rtol=0, atol=ulps * 2.0**-24 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("n", "batch", "hidden", "devices", "by_unit"),
    [(N, B, H, 4, True), (90_001, 45_000, 60, 3, True), (N, B, H, 4, False)],
    ids=["columns", "pieces", "plain"],
)
def test_devices_do_not_matter(n, batch, hidden, devices, by_unit):
    """Of the pieces one device sees a single sample, whose deviation says nothing of the whole.

    Of 60 units: by a power of two the pivot of that sample would be exact, and nothing would be lost.
    """
    x, y = samples(n)
    parameters = drawn(hidden, 1)
    tuning = CPU if by_unit else CPU._replace(plain_values=30 * H)  # else there is one block, for one device
    one, many = (
        make(parameters, x, y, batch, Activation.gelu, d, by_unit=by_unit, tuning=t)
        for d, t in ((1, CPU), (devices, tuning))
    )
    assert [len(each.devices) for each in (one, many)] == [1, devices]
    passes_of = one, many
    one, many = (gather(each.run()) for each in passes_of)
    assert by_unit == all(list(each._programs) == ["moments"] for each in passes_of)
    for name in EXTREMES:
        assert_alike(name, one, many, by_unit)
    assert [one.tensors[name].zeros for name in TENSORS] == [many.tensors[name].zeros for name in TENSORS]
    assert one.loss == pytest.approx(many.loss, rel=1e-6)
    check_against_float64(many, parameters, x, y, batch, Activation.gelu)


@pytest.mark.parametrize(
    ("tuning", "by_unit"),
    [(CHUNKED, True), (CHUNKED, False), (CPU._replace(chunk=B // 2), True)],
    ids=["by_unit", "plain", "parts of a batch"],
)
def test_chunks_do_not_matter(tuning, by_unit):
    x, y = samples(N)
    parameters = drawn(H, 1)
    whole = observe(parameters, x, y, B, by_unit=by_unit)
    parts = make(parameters, x, y, B, by_unit=by_unit, tuning=tuning)
    assert len(list(parts.run())) > 1
    epoch = gather(parts.run())
    for name in ("size", *EXTREMES):
        assert_alike(name, whole, epoch, by_unit)
    for name in TENSORS:
        assert whole.tensors[name].std == pytest.approx(epoch.tensors[name].std, rel=1e-6)
    np.testing.assert_allclose(whole.columns["loss"], epoch.columns["loss"], rtol=1e-6)


@by_both_schedules
def test_later_epochs_have_the_same_history_and_no_statistics(by_unit):
    """By the program of the history alone, too, which another thread compiles while the first epoch passes."""
    x, y = samples(N)
    tuning = CPU._replace(history_values=0)
    passing = make(drawn(H, 1), x, y, B, by_unit=by_unit, tuning=tuning)
    later = []
    for chunk in passing.run(5):
        for thread in threading.enumerate():
            if thread.name.startswith("cubic: compiles"):
                thread.join()
        assert (chunk.tensors is None) == (chunk.epoch > 1)
        later.append(in_bits(chunk.columns))
    assert later == [later[0]] * 5
    assert (HISTORY.name in passing._programs) == by_unit


@pytest.mark.parametrize("devices", [1, 4])
def test_figures_come_through_locked_pages(monkeypatch, devices):
    """As from a GPU; a CPU can lock pages too."""
    x, y = samples(N)
    given = drawn(H, 1), x, y, B, Activation.gelu, devices
    usual = observe(*given)
    monkeypatch.setattr(mesh, "locks_pages", lambda device: True)
    locked = observe(*given)
    assert in_bits(locked.columns) == in_bits(usual.columns)
    assert locked.tensors == usual.tensors


class Backend:
    """A device of some platform with memories of some kinds; a plugin may know none."""

    def __init__(self, platform, *kinds):
        self.platform, self.kinds = platform, kinds

    def addressable_memories(self):
        if not self.kinds:
            raise NotImplementedError
        return [SimpleNamespace(kind=kind) for kind in self.kinds]


def test_which_devices_lock_pages():
    assert mesh.locks_pages(Backend("gpu", "device", "pinned_host"))
    for other in (Backend("cpu", "device", "pinned_host"), Backend("tpu", "device"), Backend("a plugin")):
        assert not mesh.locks_pages(other)


@pytest.mark.parametrize("first", [1.0, np.nan], ids=["finite", "one that is NaN"])
def test_other_samples_pass_by_the_usual_program_and_by_the_plain_one_only_where_it_must(first):
    x, y = samples(N)
    x[0] = first
    passing = make(drawn(H, 1), x, y, B, by_unit=True)
    seen = passing.observe(x, y)
    assert list(passing._programs) == ["moments", "plain"][: 1 + bool(np.isnan(first))]
    assert seen == gather(passing.run()).tensors


def test_passes_share_a_program_whatever_memory_is_free():
    """A sweep on a card: what is free there is never twice the same."""
    x, y = samples(N)
    one, other = (make(drawn(H, 1), x, y, B, tuning=CPU._replace(resident=free)) for free in (N, N + 1))
    assert one._programs["moments"]._run is other._programs["moments"]._run


def test_without_statistics_only_the_history_is_compiled():
    x, y = samples(N)
    parameters = drawn(H, 1)
    whole, alone = (make(parameters, x, y, B, by_unit=True, statistics=wanted) for wanted in (True, False))
    assert (list(whole._programs), list(alone._programs)) == (["moments"], ["history"])
    full, epoch = gather(whole.run()), gather(alone.run())
    assert epoch.tensors == {}
    assert in_bits(full.columns) == in_bits(epoch.columns)


def test_two_chunks_are_always_on_their_way(monkeypatch):
    """Across the end of an epoch too: its first chunks are dispatched before the last chunk is looked at."""
    events = []
    start, fetch = mesh.start_fetch, mesh.fetch
    monkeypatch.setattr(mesh, "start_fetch", lambda seen: (events.append("start"), start(seen))[1])
    monkeypatch.setattr(mesh, "fetch", lambda seen: (events.append("fetch"), fetch(seen))[1])
    x, y = samples(N)
    passing = make(drawn(H, 1), x, y, B, tuning=CHUNKED)
    chunks = list(passing.run(3))
    assert [(chunk.epoch, chunk.first_batch) for chunk in chunks] == [(e, b) for e in (1, 2, 3) for b in (0, 6)]
    assert events == ["start"] * 2 + ["start", "fetch"] * 4 + ["fetch"] * 2
    epochs = [[in_bits(chunk.columns) for chunk in chunks if chunk.epoch == e] for e in (1, 2, 3)]
    assert epochs[0] == epochs[1] == epochs[2]


def test_equal_units_add_up_without_drift():
    """64 equal terms added one after the other round to the same side: 1e-6 of the sum. By steps it is a third."""
    x = np.linspace(0, 100, 1000, dtype=np.float32)
    parameters = initialise(Initializer.ones, 64, 0)
    expected = (64 * (x.astype(np.float64) + 1) + 1).reshape(-1, B)
    epoch = observe(parameters, x, np.zeros_like(x), B, by_unit=True)
    for end, at in (("z2_min", 0), ("z2_max", -1)):
        assert np.abs(epoch.columns[end] / expected[:, at] - 1).max() < 4e-7


@by_both_schedules
@pytest.mark.parametrize(
    ("first", "last", "at_last"), [(-3e38, 3e38, 0), (-3e38, 1e37, 0), (1e38, 3e38, 0), (3e38, 3e38, B)]
)
def test_values_that_fill_the_range_of_float32(by_unit, first, last, at_last):
    """Sorted, so that the first samples are far from the mean of all; and a batch at the other end, far from most."""
    x = np.linspace(first, last, N).astype(np.float32)
    x[N - at_last :] *= -np.linspace(0.8, 1, at_last, dtype=np.float32)
    epoch = observe(make_parameters([1] * H, 0, 1 / H, 0), x, x, B, by_unit=by_unit)
    exact = x.astype(np.float64)
    z1 = epoch.tensors["z1"]
    assert abs(z1.mean - exact.mean()) <= 1e-6 * np.abs(exact).max()
    assert z1.std == pytest.approx(exact.std(), rel=1e-6)


@by_both_schedules
def test_what_the_loss_hides(by_unit):
    """−inf in z1 is 0 after ReLU: the loss is a healthy number, and z1 is not."""
    parameters = make_parameters([3e37] + [1] * (H - 1), 1, 1, 0)
    x = -np.linspace(1, 50, N, dtype=np.float32)
    epoch = observe(parameters, x, x, B, by_unit=by_unit)
    assert np.isfinite(epoch.loss)
    assert epoch.tensors["z1"].neginf == np.count_nonzero(x.astype(np.float64) * 3e37 < -3.4028235e38)
    assert epoch.tensors["z1"].nan == epoch.tensors["z1"].posinf == epoch.tensors["a1"].nonfinite == 0
    assert epoch.columns["nonfinite"].sum() == epoch.tensors["z1"].neginf
    assert epoch.columns["z1_min"].min() >= -3.4028235e38
    later = observe(parameters, x, x, B, by_unit=by_unit, statistics=False)  # as epochs after the first are
    assert in_bits(later.columns) == in_bits(epoch.columns)


@by_both_schedules
def test_values_that_are_not_finite_are_counted_apart(by_unit):
    x, y = samples(N)
    x[3], x[4], x[5], y[50] = np.nan, np.inf, -np.inf, np.nan
    epoch = observe(initialise(Initializer.ones, H, 0), x, y, B, by_unit=by_unit)
    z1, a1 = epoch.tensors["z1"], epoch.tensors["a1"]
    assert (z1.nan, z1.posinf, z1.neginf, z1.count) == (H, H, H, (N - 3) * H)
    assert (a1.nan, a1.posinf, a1.neginf, a1.count) == (H, H, 0, (N - 2) * H)
    assert np.flatnonzero(np.isnan(epoch.columns["loss"])).tolist() == [0, 5]
    # H each of z1, two of a1 and one z2 each, and the loss
    assert epoch.columns["nonfinite"].tolist() == [3 * H + 2 * H + 2 + 1, 0, 0, 0, 0, 1] + [0] * 5


def test_epochs_are_alike_though_only_the_first_needs_the_statistics():
    """Squares of 1e33 have no place in a float32: the plain schedule tells the deviation, and then every epoch."""
    x, y = samples(N)
    parameters = drawn(H, 0)
    parameters = parameters._replace(w2=parameters.w2 * 1e33)
    chunks = list(make(parameters, x, y * 0, B, Activation.tanh, by_unit=True).run(4))
    assert len({chunk.columns["loss"].tobytes() for chunk in chunks}) == 1
    assert np.isfinite(chunks[0].tensors["z2"].std)


@by_both_schedules
def test_squares_below_the_range_of_float32_are_a_loss_all_the_same(by_unit):
    """(1e-19)² = 1e-38 is below 2⁻¹²⁶, which a device may flush to zero."""
    x, y = samples(N)[0], np.zeros(N, np.float32)
    y[:B] = np.resize([1e-19, -1e-19], B)
    epoch = observe(initialise(Initializer.zeros, H, 0), x, y, B, by_unit=by_unit)
    np.testing.assert_allclose(epoch.columns["loss"], [1e-38] + [0] * 10, rtol=1e-6)
    assert epoch.loss == pytest.approx(1e-38 * B / N, rel=1e-6)


@by_both_schedules
def test_one_trace_for_many_epochs(monkeypatch, by_unit):
    x, y = samples(N)
    traces = 0
    how = passes.MOMENTS if by_unit else passes.PLAIN

    def counted(*arguments):
        nonlocal traces
        traces += 1
        return how.see(*arguments)

    monkeypatch.setattr(passes, how.name.upper(), functools.partial(passes.replace, how)(see=counted))
    losses = set()
    for _ in range(2):
        running = make(initialise(Initializer.ones, H, 0), x, y, B, by_unit=by_unit)
        losses |= {chunk.columns["loss"].tobytes() for chunk in running.run(5)}
    assert traces == 1
    assert len(losses) == 1


class Counting:
    """A clock's source that moves when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class SlowCompiler(Clock):
    """A clock by which each program takes 100 seconds to make."""

    def __init__(self):
        self.counting = Counting()
        super().__init__(self.counting)

    @contextlib.contextmanager
    def standing_still(self):
        with super().standing_still():
            yield
            self.counting.now += 100.0


def test_an_epoch_that_must_compile_does_not_count_it():
    """NaN needs the schedule that counts, whose program is made in the middle of the epoch."""
    x, y = samples(N)
    x[3] = np.nan
    passing = make(initialise(Initializer.ones, H, 0), x, y, B, by_unit=True, clock=SlowCompiler())
    (chunk,) = passing.run()
    assert passing.clock.compile_seconds == 200.0
    assert chunk.seconds == 0.0


@pytest.mark.parametrize("nan", [False, True])
def test_the_times_of_epochs_do_not_overlap(monkeypatch, nan):
    """The devices have the next epoch before this one is done; NaN is seen by a second schedule, after the first."""
    read, fetch = Counting(), mesh.fetch

    def slowly(running):
        read.now += 1.0
        return fetch(running)

    monkeypatch.setattr(mesh, "fetch", slowly)
    x, y = samples(N)
    if nan:
        x[3] = np.nan
    passing = make(initialise(Initializer.ones, H, 0), x, y, B, by_unit=True, clock=Clock(read))
    assert [chunk.seconds for chunk in passing.run(4)] == ([2.0, 1.0, 1.0, 1.0] if nan else [1.0] * 4)


def test_widths_beyond_two_counts_in_a_word_go_by_the_plain_schedule(monkeypatch):
    assert schedule.MAX_UNITS * 2**16 + schedule.MAX_UNITS < 2**31  # of z1 and of a1
    monkeypatch.setattr(schedule, "MAX_UNITS", H - 1)
    x, y = samples(N)
    passing = make(drawn(H), x, y, B)
    assert list(passing._programs) == ["plain"]


@pytest.mark.gpu
@by_both_schedules
@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize(("n", "batch", "hidden"), [(100_003, 10, 64), (50_000, 1000, 100)])
def test_a_gpu_against_float64(n, batch, hidden, activation, by_unit):
    x, y = samples(n)
    parameters = initialise(Initializer.he_normal, hidden, 1)
    passing = Pass(parameters, Arrays(x, y), batch, activation, jax.devices("gpu"), by_unit=by_unit)
    check_against_float64(gather(passing.run()), parameters, x, y, batch, activation)
    assert len({chunk.columns["loss"].tobytes() for chunk in passing.run(3)}) == 1


@pytest.mark.gpu
@by_both_schedules
def test_a_gpu_counts_what_is_not_finite_and_keeps_its_digits_far_from_zero(by_unit):
    x = np.float32(1e7) + np.arange(1000, dtype=np.float32) % 2
    parameters = initialise(Initializer.ones, 64, 0)
    far = gather(Pass(parameters, Arrays(x, x), 10, Activation.relu, jax.devices("gpu"), by_unit=by_unit).run())
    assert (far.tensors["z1"].mean, far.tensors["z1"].std) == (10_000_001.5, 0.5)
    x[3], x[4], x[5] = np.nan, np.inf, -np.inf
    odd = gather(Pass(parameters, Arrays(x, x), 10, Activation.relu, jax.devices("gpu"), by_unit=by_unit).run())
    z1 = odd.tensors["z1"]
    assert (z1.nan, z1.posinf, z1.neginf, z1.count) == (64, 64, 64, 997 * 64)
