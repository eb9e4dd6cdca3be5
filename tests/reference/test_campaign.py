"""A small campaign of `tools/campaign.py`: all figures right, no false alarm, and injected errors are caught."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import B, H, N

_spec = importlib.util.spec_from_file_location("campaign", Path(__file__).parents[2] / "tools" / "campaign.py")
campaign = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(campaign)


@pytest.mark.parametrize("seed", range(2))
def test_right_runs_are_verified_and_wrong_ones_are_not(seed, monkeypatch):
    monkeypatch.setattr(campaign, "WIDTHS", (H,))
    monkeypatch.setattr(campaign, "SIZES", ((N, B),))
    result = campaign.campaign(2 * campaign.PER_SHAPE, seed, jax.devices())
    assert result["wrong"] == []
    assert result["alarms"] == []
    assert result["caught"] >= 0.99, result["examples"]


def test_a_wrong_pass_is_noticed_by_both(monkeypatch):
    """The oracle and the verification can fail: a pass that adds 1e-3 to b1."""
    observe = campaign.observe

    def wrong(case, devices):
        return observe(
            case._replace(parameters=case.parameters._replace(b1=case.parameters.b1 + np.float32(1e-3))), devices
        )

    monkeypatch.setattr(campaign, "WIDTHS", (H,))
    monkeypatch.setattr(campaign, "SIZES", ((N, B),))
    monkeypatch.setattr(campaign, "observe", wrong)
    result = campaign.campaign(12, 1, jax.devices())
    assert len(result["alarms"]) >= 3  # where 1e-3 is more than rounding
    assert {text.split()[0] for text in result["alarms"]} <= {text.split()[0] for text in result["wrong"]}
