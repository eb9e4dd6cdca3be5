"""The grid: a forward run for each combination of settings, in one process, which keeps what is done already.

The dataset is read once, and runs of the same shapes share what is compiled: hidden and batch sizes vary slowest, the
smallest first, so that a width too large for the memory spoils no other run.

A saved run is kept where running it again would give the same numbers: it has the name, the settings that affect them,
the samples (by SHA-256), the versions of cubic, jax and jaxlib and the kind of device; it is whole, and verified if
that is asked for, and has gradients if they are.
"""

import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cubic_cli.analysis import findings
from cubic_cli.config import AXES, ForwardConfig
from cubic_cli.errors import CubicError, RunError, UsageError, no_memory
from cubic_cli.experiments.watch import Watch
from cubic_cli.parsers import MAX_RUN_NAME, check_run_name
from cubic_cli.runs import store as runs
from cubic_cli.runs.record import Record

if TYPE_CHECKING:
    from cubic_cli.data.parameters_file import NetworkFile
    from cubic_cli.data.source import Ingested

_MAKE_NETWORKS = ("initializer", "hidden_size", "seed")  # whose place a file of parameters takes
_ASCENDING = ("hidden_size", "batch_size")
_SAME_SETTINGS = (*AXES, "num_epochs")
_SAME_VERSIONS = ("cubic", "jax", "jaxlib")


@dataclass(frozen=True)
class Outcome:
    """What came of one run: its record, or the error that left it without one; `kept` where it was there already."""

    config: ForwardConfig
    record: Record | None = None
    error: str | None = None
    kept: bool = False


class Point(NamedTuple):
    """A run of the grid: its settings, and the network, None where an initialiser makes it."""

    config: ForwardConfig
    network: "NetworkFile | None" = None


def expand(base: ForwardConfig, axes: dict[str, Sequence[Any]], networks: "Sequence[NetworkFile]" = ()) -> list[Point]:
    """Return the grid: `base` with each combination of the values of `axes`, repeats folded.

    A run is named after `base` and its values of the settings that vary, as in `exp1-h64-he_normal`; a grid of one
    point keeps the name. `networks` take the place of the axes that make one.

    Raises:
        UsageError: a name would be none for a run, or axes beside `networks` vary what these give.
    """
    if networks and (several := [name for name in _MAKE_NETWORKS if len(set(axes[name])) > 1]):
        flag = several[0].replace("_", "-")
        raise UsageError(f"--parameters takes the place of --{flag}; give one value of it, or no file")
    points = []
    for file, network in _label_networks(networks).items() if networks else [("", None)]:
        values = {name: list(dict.fromkeys(axes[name])) for name in AXES}
        shared = base
        if network is not None:
            values |= {"hidden_size": [network.parameters.hidden_size], "initializer": [None]}
            shared = replace(base, parameters=network.name)
        for name in _ASCENDING:
            values[name].sort()
        varying = [name for name in AXES if len(values[name]) > 1]
        for combination in itertools.product(*values.values()):
            point = dict(zip(AXES, combination, strict=True))
            words = [base.run_name, file, *(f"{AXES[name]}{point[name]}" for name in varying)]
            points.append(Point(replace(shared, **point, run_name="-".join(filter(None, words))), network))
    _check_names(base.run_name, [point.config.run_name for point in points])
    return points


def _label_networks(networks: "Sequence[NetworkFile]") -> "dict[str, NetworkFile]":
    """Return the networks, the narrowest first, by what names their runs: nothing for one alone."""
    distinct = {os.path.abspath(network.name): network for network in networks}
    paths = sorted(distinct, key=lambda path: distinct[path].parameters.hidden_size)
    labels = label(paths) if len(paths) > 1 else {paths[0]: ""}
    return {labels[path]: distinct[path] for path in paths}


def label(paths: Sequence[str]) -> dict[str, str]:
    """Return the shortest end of each of several different paths that tells it from the others, fit for a run's name.

    Raises:
        UsageError: two are alike in what a name can hold.
    """
    found: dict[str, str] = {}
    for path in paths:
        parts = Path(path).parts
        others = [Path(other).parts for other in paths if other != path]
        lengths = range(1, len(parts) + 1)
        length = next((n for n in lengths if all(other[-n:] != parts[-n:] for other in others)), len(parts))
        name = re.sub(r"[^A-Za-z0-9._-]", "-", "/".join(parts[-length:]))
        if (twin := next((other for other, text in found.items() if text == name), None)) is not None:
            raise UsageError(f"--parameters: the runs of {twin} and {path} would both be named {name!r}; rename a file")
        found[path] = name
    return found


def _check_names(base: str, names: list[str]) -> None:
    longest = max(names, key=len)
    if len(longest) > MAX_RUN_NAME:
        room = MAX_RUN_NAME - (len(longest) - len(base))
        raise UsageError(
            f"--run-name: the grid would have a run {longest}, of {len(longest)} letters, and at most {MAX_RUN_NAME} "
            f"are accepted; give a name of at most {room}"
        )
    for name in names:
        try:
            check_run_name(name)
        except ValueError as error:
            raise UsageError(f"--run-name: the grid would have a run {name}; {error}") from None


def run_grid(
    points: Sequence[Point],
    base: ForwardConfig,
    sources: dict[str, str],
    rerun: bool,
    watch: Watch,
    tell: Callable[[str], None],
) -> Iterator[Outcome]:
    """Run the `points` and yield what comes of each; a run that fails stops no other.

    Args:
        points: they differ from `base` in their names, the values of `AXES` and their networks alone.
        base: the settings that all share.
        sources: where each setting came from.
        rerun: run again what is saved already.
        watch: shows the progress of reading, and of each run.
        tell: takes what people should know of the dataset.

    Raises:
        DatasetError: the dataset cannot be read.
        DeviceError: the device is not there.
    """
    from cubic_cli.engine.devices import keep_compiled, pick_devices
    from cubic_cli.experiments import run

    told: set[str] = set()

    def tell_once(line: str) -> None:
        if line not in told:
            tell(line)
        told.add(line)

    keep_compiled()
    device = pick_devices(base.device)[0]
    with runs.scratch_beside(Path(base.artifact_dir) / base.run_name) as scratch:
        with watch("reading", base.num_samples, "rows", "rows") as advance:
            data = run.read(base, scratch, tell, lambda rows: advance(rows, rows))
        for config, network in points:
            kind = device.platform, device.device_kind
            record = None if rerun else find_saved(config, data.sha256, *kind, network)
            if record is not None:
                yield Outcome(config, record, kept=True)
                continue
            with watch(config.run_name, config.num_epochs) as advance:
                outcome = _attempt(config, sources, data, advance, tell_once, network)
            yield outcome


def find_saved(
    config: ForwardConfig, sha256: str, platform: str, kind: str, network: "NetworkFile | None"
) -> Record | None:
    """Return the record of the saved run that `config` would give again, None where there is none."""
    from cubic_cli.analysis.describe import describe_versions
    from cubic_cli.runs.saved import inspect_run

    folder = Path(config.artifact_dir) / config.run_name
    try:
        found = inspect_run(folder)
    except RunError:
        return None
    if found.problems:
        return None
    record = found.record
    wanted, versions = config.as_json(), describe_versions()
    verification = record.verification
    same = (
        all(getattr(record.config, name) == wanted[name] for name in _SAME_SETTINGS if name != "seed" or not network)
        and (record.parameters_file.sha256 if record.parameters_file else None) == (network.sha256 if network else None)
        and all(record.versions.get(name) == versions[name] for name in _SAME_VERSIONS)
        and record.dataset.sha256 == sha256
        and (record.device.platform, record.device.kind) == (platform, kind)
    )
    verified = not config.verify or (verification is not None and verification.passed)
    measured = not config.gradients or record.gradients is not None
    return record if same and verified and measured else None


def _attempt(
    config: ForwardConfig,
    sources: dict[str, str],
    data: "Ingested",
    advance: Callable[[int, int], None],
    tell: Callable[[str], None],
    network: "NetworkFile | None",
) -> Outcome:
    """Run `config` and save the run; any failure is an outcome, too. CUBIC_DEBUG=1 lets it through."""
    from cubic_cli.experiments import run

    try:
        with runs.replacing(Path(config.artifact_dir) / config.run_name) as scratch:
            rows = data.source.count
            record, _ = run.run(
                config,
                sources,
                scratch,
                data,
                progress=lambda epoch, loss: advance(1, rows),
                tell=tell,
                network=network,
            )
        return Outcome(config, record)
    except CubicError as error:
        return Outcome(config, error=str(error))
    except Exception as error:
        if said := no_memory(error):
            return Outcome(config, error=said)
        if os.environ.get("CUBIC_DEBUG"):
            raise
        text = (str(error).splitlines() or [""])[0]
        return Outcome(config, error=f"{type(error).__name__}: {text}; CUBIC_DEBUG=1 shows where")


def refusals(outcome: Outcome, fail_on: Sequence[str]) -> list[str]:
    """Return why a run makes the sweep fail: an error, a failed verification, findings that `fail_on` names."""
    if outcome.record is None:
        return [outcome.error or "failed"]
    unverified, named = findings.refused(outcome.record, fail_on)
    return list(dict.fromkeys(finding.id for finding in (*unverified, *named)))


def rank(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes, the smallest loss in the data's units first; losses that are not finite, then errors."""

    def key(outcome: Outcome) -> tuple[int, float]:
        if outcome.record is None:
            return 2, 0.0
        loss = outcome.record.loss_in_data_units
        return (0, loss) if math.isfinite(loss) else (1, 0.0)

    return sorted(outcomes, key=key)
