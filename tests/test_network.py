import jax
import numpy as np
import pytest
from helpers import H

from cubic_cli.config import Activation, Initializer
from cubic_cli.network import ACTIVATIONS, forward, initialise, linear, mean_squared_error, relu


def by_numpy(parameters):
    """Return the parameters as arrays of NumPy, whose operations are not compiled."""
    return type(parameters)(*map(np.asarray, parameters))


def test_the_row_of_the_contract():
    x = np.linspace(-82.228, 66.615, 10, dtype=np.float32)[:, None]
    tensors = jax.jit(forward)(initialise(Initializer.ones, 64, 0), x)
    seen = [(list(t.shape), f"{t.min():.3f}", f"{t.max():.3f}") for t in map(np.asarray, tensors)]
    assert seen == [
        ([10, 64], "-81.228", "67.615"),
        ([10, 64], "0.000", "67.615"),
        ([10, 1], "1.000", "4328.360"),
    ]


def test_relu_keeps_nan_and_has_no_negative_zero():
    out = np.asarray(relu(np.array([-1.0, -0.0, 0.0, 2.0, np.nan, np.inf, -np.inf], np.float32)))
    np.testing.assert_array_equal(out, [0, 0, 0, 2, np.nan, np.inf, 0])
    assert not np.signbit(out[:4]).any()


def test_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        mean_squared_error(np.zeros((3, 1), np.float32), np.zeros(3, np.float32))


@pytest.mark.parametrize("kind", Activation)
def test_activations_against_their_formulas(kind):
    z = np.linspace(-6, 6, 1001)
    formulas = {
        Activation.relu: [max(v, 0) for v in z],
        Activation.leaky_relu: [v if v > 0 else 0.01 * v for v in z],
        Activation.gelu: [0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3))) for v in z],
        Activation.tanh: [np.tanh(v) for v in z],
        Activation.identity: list(z),
    }
    # float32 holds z to 6e-8 relative; tanh and gelu add a few roundings of values up to 6.
    np.testing.assert_allclose(ACTIVATIONS[kind](z.astype(np.float32)), formulas[kind], rtol=1e-6, atol=1e-6)


def test_the_loss_is_the_mean_of_the_squares():
    z2, y = np.array([[1.0], [2.0], [4.0]], np.float32), np.array([[0.0], [0.0], [1.0]], np.float32)
    assert mean_squared_error(z2, y) == pytest.approx(14 / 3, rel=1e-6)
    assert mean_squared_error(z2, y, np.array([[True], [True], [False]])) == 2.5
    assert mean_squared_error(z2, y, scale=2.0) == pytest.approx(4 * 14 / 3, rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "variance"),
    [("glorot_uniform", 2 / (1 + H)), ("glorot_normal", 2 / (1 + H)), ("he_uniform", 2), ("he_normal", 2)],
)
def test_drawn_weights_have_the_variance_of_their_paper(kind, variance):
    seeds = [by_numpy(initialise(Initializer(kind), H, seed)) for seed in range(114)]
    # 1026 draws: the sample variance has a standard error of sqrt(2/1026) = 4.4 %; five of them are allowed.
    assert np.var([parameters.w1 for parameters in seeds]) == pytest.approx(variance, rel=0.22)
    assert not any(parameters.b1.any() or parameters.b2.any() for parameters in seeds)
    assert len({parameters.w1.tobytes() for parameters in seeds}) == 114
    again = by_numpy(initialise(Initializer(kind), H, 3))
    assert all((a == b).all() for a, b in zip(again, seeds[3], strict=True))


@pytest.mark.parametrize("kind", [k for k in Initializer if k not in (Initializer.ones, Initializer.zeros)])
def test_drawn_weights_are_those_of_jax(kind):
    """One key for each layer, as `jax.random.split` gives them."""
    parameters = initialise(kind, H, 7)
    draw = getattr(jax.nn.initializers, kind.value)()
    for key, weight in zip(jax.random.split(jax.random.key(7)), (parameters.w1, parameters.w2), strict=True):
        np.testing.assert_allclose(weight, draw(key, weight.shape), rtol=1e-6)
    assert {array.dtype for array in parameters} == {np.dtype(np.float32)}


def test_the_seed_alone_decides_what_is_drawn():
    """Whatever JAX is told of its generator (`JAX_DEFAULT_PRNG_IMPL`, `JAX_THREEFRY_PARTITIONABLE`, …)."""
    usual = {kind: initialise(kind, H, 3) for kind in Initializer}
    jax.clear_caches()  # or the programs of the line above would be taken once more
    jax.config.update("jax_random_seed_offset", 5)
    try:
        with jax.default_prng_impl("rbg"), jax.threefry_partitionable(False):
            told = {kind: initialise(kind, H, 3) for kind in Initializer}
    finally:
        jax.config.update("jax_random_seed_offset", 0)
    for kind, parameters in usual.items():
        for ours, theirs in zip(parameters, told[kind], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_products_ask_every_device_for_full_float32():
    """By default a TPU rounds their factors to eight bits, and a GPU may to eleven; a CPU does not show it."""
    ones = np.ones((1, 3), np.float32)
    program = jax.jit(linear).lower(ones, np.zeros(3, np.float32), ones.T).as_text()
    assert "precision = [HIGHEST, HIGHEST]" in program
