import jax
import numpy as np
import pytest

from cubic_cli.config import Activation, Initializer
from cubic_cli.forward import Pass
from cubic_cli.network import initialise


def reference(parameters, x, y, batch):
    """Plain float64 loops over the batches; ReLU."""
    (w1, b1), (w2, b2) = ([np.asarray(a, np.float64) for a in layer] for layer in parameters)
    for start in range(0, len(x), batch):
        xs, ys = x[start : start + batch, None].astype(np.float64), y[start : start + batch, None]
        z1 = xs @ w1 + b1
        a1 = np.where(z1 > 0, z1, 0)
        z2 = a1 @ w2 + b2
        yield z1, a1, z2, ((z2 - ys) ** 2).mean()


def samples(n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-100, 100, n).astype(np.float32)
    return x, (0.01 * x**3 - 0.5 * x + 20 + rng.normal(0, 10, n)).astype(np.float32)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize(
    ("n", "batch", "hidden"),
    [
        (1000, 10, 64),
        (1003, 10, 64),
        (1, 10, 64),
        (7, 1, 3),
        (50, 400, 5),
        (40_001, 20_000, 2),
        (300, 7, 4096),
    ],
)
def test_every_batch_against_float64(n, batch, hidden, devices):
    x, y = samples(n)
    parameters = initialise(Initializer.he_normal, hidden, 1)
    epoch = Pass(parameters, x, y, batch, Activation.relu, jax.devices()[:devices]).epoch()
    rows = list(reference(parameters, x, y, batch))
    assert len(epoch.batch_loss) == len(rows)
    whole = epoch.tensors()
    tolerance = max(1e-5, hidden * 2.0**-24)  # float32 rounding of a sum of H terms
    for k, (*tensors, loss) in enumerate(rows):
        for name, values in zip(("z1", "a1", "z2"), tensors, strict=True):
            scale = np.abs(values).max()
            seen = getattr(epoch, f"batch_{name}")
            assert abs(seen.min[k] - values.min()) <= tolerance * scale
            assert abs(seen.max[k] - values.max()) <= tolerance * scale
        assert epoch.batch_loss[k] == pytest.approx(loss, rel=1e-4)
    for i, name in enumerate(("z1", "a1", "z2")):
        values = np.concatenate([row[i] for row in rows])
        assert whole[name].count == values.size
        assert whole[name].mean == pytest.approx(values.mean(), rel=1e-4, abs=1e-5 * np.abs(values).max())
        assert whole[name].std == pytest.approx(values.std(), rel=1e-5)
    assert whole["a1"].zeros == sum(int((row[1] == 0).sum()) for row in rows)


def test_devices_do_not_matter():
    x, y = samples(30_000)
    parameters = initialise(Initializer.glorot_normal, 64, 1)
    one, four = (Pass(parameters, x, y, 10, Activation.gelu, jax.devices()[:d]).epoch() for d in (1, 4))
    for a, b in zip(one.tensors().values(), four.tensors().values(), strict=True):
        assert (a.min, a.max, a.zeros) == (b.min, b.max, b.zeros)
    assert one.loss == pytest.approx(four.loss, rel=1e-6)


def test_one_trace_for_many_epochs():
    x, y = samples(200)
    traces = 0
    from cubic_cli import forward

    original = forward.observe

    def counted(*arguments):
        nonlocal traces
        traces += 1
        return original(*arguments)

    forward.compiled_epoch.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "observe", counted)
        running = Pass(initialise(Initializer.ones, 8, 0), x, y, 7, Activation.relu, jax.devices()[:1])
        losses = {running.epoch().loss for _ in range(5)}
    forward.compiled_epoch.cache_clear()
    assert traces == 1
    assert len(losses) == 1
