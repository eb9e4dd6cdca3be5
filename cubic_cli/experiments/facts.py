"""Facts of a device, for `check`: good to know, and neither right nor wrong."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cubic_cli.experiments.primitives import compile_plain, factors
from cubic_cli.float32 import Float32, Float64

# How far a product of `FACTOR` is off, at least, in each kind of arithmetic.
_PRECISIONS = ((2.0**-9, "bfloat16"), (2.0**-15, "tf32"), (2.0**-19, "bfloat16_3x"), (0.0, "float32"))


def find_facts(device: Any) -> dict[str, Any]:
    """Return what is good to know of a device and is neither right nor wrong.

    `default_precision` is that of products for which none is asked, as `jnp.matmul` has them, and
    `default_product_error` how far they are off, relatively; `subnormals` says whether numbers below 2⁻¹²⁶ survive as
    operands and as results; `exp_ulp` and `tanh_ulp` are the largest errors of the compiled functions in units in the
    last place of a float32.
    """

    def run(function: Callable[..., Any], *values: Any) -> Float64:
        given = jax.device_put(tuple(np.asarray(value, np.float32) for value in values), device)
        return np.asarray(jax.device_get(compile_plain(function, *given)(*given)), np.float64)

    x, weight = factors(16, 64, 5), factors(64, 8, 3)
    exact = x.astype(np.float64) @ weight.astype(np.float64)
    error = float(np.max(np.abs(run(jnp.matmul, x, weight) - exact) / exact))
    operand, result = run(jnp.multiply, [2.0**-130, 2.0**-100], [2.0**40, 2.0**-40])
    return {
        "default_precision": next(name for least, name in _PRECISIONS if error >= least),
        "default_product_error": error,
        "subnormals": {"operands": bool(operand == 2.0**-90), "results": bool(result == 2.0**-140)},
        "exp_ulp": _ulp(lambda v: run(jnp.exp, v), np.exp, 80.0),
        "tanh_ulp": _ulp(lambda v: run(jnp.tanh, v), np.tanh, 8.0),
    }


def _ulp(found: Callable[[Float32], Float64], exact: Callable[[Float64], Float64], limit: float) -> float:
    x = np.linspace(-limit, limit, 1 << 14, dtype=np.float32)
    right = exact(x.astype(np.float64))
    return float(np.max(np.abs(found(x) - right) / np.spacing(np.abs(right).astype(np.float32))))
