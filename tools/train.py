"""Train a small network in plain NumPy, and save it as PyTorch would: `python -m tools.train data.csv folder`.

It writes `scaled.csv`, the samples with mean 0 and variance 1, and `trained.safetensors`, a `state_dict` of
`Sequential(Linear(1, 16), GELU(approximate="tanh"), Linear(16, 1))` after 3,000 steps of Adam (Kingma and Ba, 2015).
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from cubic_cli.config import Activation
from cubic_cli.reference.network import activate, differentiate

HIDDEN, STEPS, RATE = 16, 3000, 0.01


def main(dataset: Path, folder: Path) -> None:
    """Train on `dataset`, and write both files to `folder`."""
    samples = pl.read_csv(dataset).to_numpy().astype(np.float64)
    x, y = ((samples - samples.mean(axis=0)) / samples.std(axis=0)).T
    rng = np.random.default_rng(0)
    weights = [rng.uniform(-1, 1, HIDDEN), rng.uniform(-1, 1, HIDDEN), rng.uniform(-0.25, 0.25, HIDDEN), np.zeros(1)]
    first, second = ([np.zeros_like(w) for w in weights] for _ in range(2))
    for step in range(1, STEPS + 1):
        w1, b1, w2, b2 = weights
        z1 = x[:, None] * w1 + b1
        a1 = activate(Activation.gelu, z1)
        error = 2 * (a1 @ w2 + b2 - y) / len(x)
        delta = error[:, None] * w2 * differentiate(Activation.gelu, z1)
        gradients = [x @ delta, delta.sum(axis=0), error @ a1, error.sum(keepdims=True)]
        for w, g, m, v in zip(weights, gradients, first, second, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            w -= RATE * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    w1, b1, w2, b2 = (w.astype(np.float32) for w in weights)
    state = {"0.weight": w1[:, None], "0.bias": b1, "2.weight": w2[None, :], "2.bias": b2}
    save_file(state, folder / "trained.safetensors")
    pl.DataFrame({"x": x.astype(np.float32), "y": y.astype(np.float32)}).write_csv(folder / "scaled.csv")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
