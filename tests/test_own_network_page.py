"""The page on a network of one's own: its figures, and its code where PyTorch is there."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "your-own-network.md").read_text(encoding="utf-8")
TRAINED = ROOT / "tests" / "trained"


def look(cubic, *arguments):
    status, out, err = cubic("forward", *arguments, "--json", "--num-epochs", 1)
    assert status == 0, err
    return json.loads(out)


def growth(record):
    largest = {t["name"]: max(abs(t["min"]), abs(t["max"])) for t in record["tensors"]}
    return largest["z2"] / largest["z1"]


def test_table_has_the_figures_of_both_networks(cubic):
    gate = ("--activation", "gelu", "--fail-on", "nonfinite,explodes")
    trained = look(cubic, "--dataset", TRAINED / "scaled.csv", "--parameters", TRAINED / "trained.safetensors", *gate)
    ones = look(cubic, "--dataset", ROOT / "tests" / "original" / "data.csv")
    rows = {
        "R²": [f"{r['context']['r_squared']:.3f}" for r in (ones, trained)],
        "largest magnitude of z2 over that of z1": [f"{growth(ones):.0f}", f"{growth(trained):.2f}"],
        "distinct units, rank of a1": [f"{r['units']['distinct']}, {r['units']['rank']}" for r in (ones, trained)],
    }
    for name, cells in rows.items():
        assert f"| {name} | {' | '.join(cells)} |" in PAGE
    assert trained["units"]["rank"] > 2
    assert trained["findings"] == []
    found = [f"`{f['id']}`" for f in ones["findings"]]
    assert f"| findings | {', '.join(found)} | none |" in PAGE
    assert trained["verification"]["passed"]


def test_code_of_the_page_trains_a_network_that_fits(cubic):
    pytest.importorskip("torch")
    cubic("generate", "--n", 1000)
    code, changed = re.subn("STEPS = 3000", "STEPS = 500", re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1])
    assert changed == 1
    exec(code, {})
    record = look(cubic, "--dataset", "scaled.csv", "--parameters", "trained.safetensors", "--activation", "gelu")
    assert record["context"]["r_squared"] > 0.99
