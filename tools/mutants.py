"""Break the code in small ways, one at a time, and say which tier and test notice: `python tools/mutants.py`.

    python tools/mutants.py --only statistics

Each mutant is a change of one place in a copy of the sources; the quick tests of the rooms it concerns then run until
one fails. Of processes, where these notice nothing, the other tiers run too. The exit status is 1 if a mutant lives. A
mutant whose place is gone is an error: mend the table below.
"""

import argparse
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Mutant(NamedTuple):
    """What breaks, where, and the tests that should notice."""

    what: str
    file: str  # below cubic_cli/
    tests: str  # below tests/, separated by blanks
    old: str
    new: str


# fmt: off
MATHEMATICS = (
    Mutant("the bias is left out", "network.py", "test_network.py",
           "return product + jnp.broadcast_to(bias, product.shape)", "return product"),
    Mutant("the loss is a sum", "network.py", "test_network.py",
           "return jnp.mean(squared)", "return jnp.sum(squared)"),
    Mutant("padding counts in the loss", "network.py", "test_network.py engine/test_passes.py",
           "return jnp.sum(squared, where=mask)", "return jnp.sum(squared)"),
    Mutant("He's variance is halved", "network.py", "test_network.py",
           "variance = 2 / (fan_in", "variance = 1 / (fan_in"),
    Mutant("the generator is JAX's default", "network.py", "test_network.py",
           ', impl="threefry2x32"', ""),
    Mutant("the seed is ignored", "network.py", "test_network.py",
           "jnp.stack([jnp.uint32(0), seed])", "jnp.zeros(2, jnp.uint32)"),
    Mutant("both layers are drawn from one key", "network.py", "test_network.py experiments/test_check.py",
           'seed]), impl="threefry2x32"))', 'seed]), impl="threefry2x32"))[jnp.zeros(2, jnp.int32)]'),
    Mutant("leaky_relu leaks nothing", "network.py", "test_network.py",
           "jnp.where(z > 0, z, 0.01 * z)", "jnp.where(z > 0, z, 0.0)"),
    Mutant("gelu is taken at 2 for all beyond", "network.py", "test_network.py",
           "jnp.where(above > 8, 8.0, above)", "jnp.where(above > 2, 2.0, above)"),
    Mutant("products are less than float32", "network.py", "test_network.py",
           "jax.lax.Precision.HIGHEST", "jax.lax.Precision.DEFAULT"),
    Mutant("the mean is not corrected", "statistics.py", "test_statistics.py engine/test_numbers.py",
           "xp.clip((rough + correction) / scale", "xp.clip(rough / scale"),
    Mutant("a merged mean may leave its range", "statistics.py", "test_statistics.py engine/test_numbers.py",
           "np.clip(mean, low, high)", "mean"),
    Mutant("NaN is counted among the zeros", "statistics.py", "test_statistics.py engine/test_numbers.py",
           "zeros=total(values == 0)", "zeros=total(~(values != 0) | xp.isnan(values))"),
    Mutant("what is left over of a merge is dropped", "statistics.py", "test_statistics.py",
           "zip(merge(left, right), rest, strict=True)",
           "zip(merge(left, right), Statistics(*(f[..., :0] for f in rest)), strict=True)"),
    Mutant("the variance is not corrected", "statistics.py", "test_statistics.py engine/test_numbers.py",
           " / n - correction * correction", " / n"),
    Mutant("a merge forgets the distance of the means", "statistics.py", "test_statistics.py",
           " + weight_a * weight_b * np.square(delta)", ""),
    Mutant("a merge takes the mean of the means", "statistics.py", "test_statistics.py",
           "a.mean + weight_b * delta", "a.mean + 0.5 * delta"),
    Mutant("-inf counts as +inf", "statistics.py", "test_statistics.py engine/test_numbers.py",
           "neginf=total(values == -np.inf)", "neginf=total(values == np.inf)"),
    Mutant("padding is seen", "engine/schedule.py", "engine/test_passes.py engine/test_numbers.py",
           "summarise(values, mask, (1, 2), pivot)", "summarise(values, True, (1, 2), pivot)"),
    Mutant("padding is in the error of units", "engine/schedule.py", "engine/test_passes.py engine/test_numbers.py",
           "error = jnp.where(mask, z2 - y, 0.0)", "error = z2 - y"),
    Mutant("what was flushed to zero is believed", "engine/schedule.py", "engine/test_passes.py engine/test_numbers.py",
           " & ~flushed,", ","),
    Mutant("units that are left over are dropped", "engine/schedule.py", "engine/test_passes.py engine/test_numbers.py",
           "    if hidden % unroll:\n", "    if False:\n"),
    Mutant("an infinite end of z1 is believed", "engine/schedule.py", "engine/test_passes.py engine/test_numbers.py",
           "& jnp.isfinite(z1.min) & jnp.isfinite(z1.max)", ""),
    Mutant("zeros of z1 and a1 change places", "engine/schedule.py", "engine/test_passes.py engine/test_numbers.py",
           "(*values, zeros >> 16, zeros & 0xFFFF)", "(*values, zeros & 0xFFFF, zeros >> 16)"),
    Mutant("zeros of z1 and a1 change places on an accelerator", "engine/schedule.py", "engine/test_passes.py",
           "[count(zeros[0], (z1_is_zero, 1)), count(zeros[1], (a1_is_zero, 1))]",
           "[count(zeros[0], (a1_is_zero, 1)), count(zeros[1], (z1_is_zero, 1))]"),
    Mutant("an accelerator forgets the sums of earlier steps", "engine/schedule.py", "engine/test_passes.py",
           "sums=tuple(map(operator.add, seen.sums, _totals(new.sums, total)))", "sums=_totals(new.sums, total)"),
    Mutant("padding is in the sums", "engine/schedule.py", "engine/test_passes.py",
           "values = jnp.where(used, values, 0)", "values = values"),
    Mutant("a pivot is taken where differences leave the range", "engine/schedule.py", "engine/test_passes.py",
           "jnp.where(jnp.abs(pivots) < _FAR, pivots, 0.0)", "pivots"),
    Mutant("a1's least is made of z1's largest", "engine/schedule.py", "engine/test_passes.py",
           "a1_min = f(seen.z1_min)", "a1_min = f(seen.z1_max)"),
    Mutant("the output bias is lost by units", "engine/schedule.py", "engine/test_passes.py",
           "seen.z2 + add(start[0], product) if start", "seen.z2 + add(start[0] * 0, product) if start"),
    Mutant("pieces are merged about 0 and not their pivots", "engine/observed.py",
           "engine/test_passes.py engine/test_numbers.py",
           "np.clip(parts.mean + pivots, parts.min, parts.max)", "np.clip(parts.mean, parts.min, parts.max)"),
    Mutant("moments are merged about 0 and not their pivots", "engine/observed.py",
           "engine/test_passes.py engine/test_numbers.py",
           "about + np.where(np.isnan(shift), 0.0, shift)", "np.where(np.isnan(shift), 0.0, shift)"),
    Mutant("moments that cancel are believed", "engine/observed.py", "engine/test_passes.py engine/test_numbers.py",
           "(np.square(whole.std) >= least)", "(whole.std >= 0)"),
    Mutant("what cancels is judged on each device alone", "engine/observed.py", "engine/test_passes.py",
           "(np.square(whole.std) >= least)", "np.all(variance >= _MIN_RELATIVE_VARIANCE * square, axis=0)"),
    Mutant("the last batch counts as a whole one", "engine/layout.py", "engine/test_layout.py engine/test_passes.py",
           "sizes[-1] = samples - (len(sizes) - 1) * self.batch", "pass"),
    Mutant("gradients are of the sum", "engine/gradients.py", "engine/test_gradients.py",
           "total / source.count for", "total for"),
    Mutant("thousands of samples are added up in float32", "engine/gradients.py", "engine/test_gradients.py",
           "piece: int = 64", "piece: int = 4096"),
    Mutant("padding is in the gradients", "engine/gradients.py", "engine/test_gradients.py",
           "np.arange(blocks * samples) < len(x)", "np.full(blocks * samples, True)"),
    Mutant("the least rate is half of what it is", "analysis/learning_rate.py", "analysis",
           "        return _cross(change, low, high)\n    near",
           "        return _cross(change, low, high) / 2\n    near"),
    Mutant("a step is measured against its square", "analysis/learning_rate.py", "analysis engine/test_gradients.py",
           "LEARNING_RATE * norm / length", "LEARNING_RATE * norm / length**2"),
    Mutant("standard divides by the range", "data/scaling.py", "data/test_scaling.py",
           "Scale(float(column.mean), float(column.std))", "Scale(float(column.mean), high - low)"),
    Mutant("the loss stays in scaled units", "experiments/described.py", "data/test_scaling.py",
           "loss_in_data_units=loss * square,", "loss_in_data_units=loss,"),
    Mutant("dead units are those that are ever zero", "analysis/units.py", "analysis",
           "(a1 == 0).all(axis=0)", "(a1 == 0).any(axis=0)"),
    Mutant("explodes only from a hundred on", "analysis/limits.py", "analysis test_docs.py",
           '        10,\n        "a layer\'s largest', '        100,\n        "a layer\'s largest'),
    Mutant("a constant column is divided by zero", "data/scaling.py", "data/test_scaling.py",
           "if self.factor == 0:", "if self.factor < 0:"),
)
RECORD = (
    Mutant("NaN is written as infinity", "runs/values.py", "runs",
           '{"NaN": math.nan, "Infinity": math.inf', '{"NaN": math.inf, "Infinity": math.nan'),
    Mutant("true counts as a number", "runs/values.py", "runs",
           "isinstance(value, bool) or not isinstance(value, int)", "not isinstance(value, int)"),
    Mutant("a tensor may miss in a record", "runs/record.py", "runs",
           "_check_tensors(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:\n",
           "_check_tensors(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:\n    return tensors\n"),
    Mutant("a number beyond float32 may be an end", "runs/values.py", "runs",
           "if math.isfinite(value) and abs(value) >= _ROUNDS_BEYOND:", "if False:"),
    Mutant("the digest is of x alone", "data/source.py", "data cli/test_cli.py",
           "np.stack([x, y], axis=1)", "np.stack([x, x], axis=1)"),
    Mutant("zeros are a share of the finite values", "analysis/describe.py", "analysis engine/test_nonfinite.py runs",
           "int(seen.zeros) / (int(seen.count) + nonfinite)", "int(seen.zeros) / max(int(seen.count), 1)"),
    Mutant("two columns of the history change places", "runs/history.py", "runs cli/test_cli.py",
           "**dict.fromkeys(EXTREMES, np.float32)", "**dict.fromkeys(EXTREMES[::-1], np.float32)"),
    Mutant("an epoch that differs is not kept", "runs/history.py", "runs",
           "self._others[epoch, self._place] = self._keep(columns)", "pass"),
    Mutant("compared means may lie anywhere", "analysis/compare.py", "cli/test_inspect.py",
           'for name in ("min", "max", "mean"):', 'for name in ("min", "max"):'),
    Mutant("NaN is like any number where runs are compared", "analysis/compare.py", "cli/test_inspect.py",
           "0.0 if this == that else math.inf)", "0.0)"),
)
VERIFICATION = (
    Mutant("the tolerance is tenfold", "reference/rounding.py", "reference",
           "max(1e-5, hidden_size * UNIT)", "max(1e-4, hidden_size * UNIT)"),
    Mutant("the bound of the values is tenfold", "reference/rounding.py", "reference",
           "UNIT = 2.0**-24", "UNIT = 10 * 2.0**-24"),
    Mutant("the reference leaves out a bias", "reference/network.py", "reference",
           "a1, w2[:, 0]) + b2", "a1, w2[:, 0])"),
    Mutant("a gradient's error counts for nothing", "reference/gradients.py", "engine/test_gradients.py",
           "error.flat[index] > expected.tolerance", "error.flat[index] > 1e9"),
    Mutant("a gradient's partial sums are not rounded", "reference/gradients.py", "engine/test_gradients.py",
           "(r + piece * UNIT * p) / len(x)", "r / len(x)"),
    Mutant("what z2 loses is forgotten beyond float32's end", "reference/expected.py", "reference",
           "magnitude - off <=", "magnitude <="),
    Mutant("a failed verification is exit 0", "analysis/findings.py", "analysis cli experiments/test_sweep.py",
           "if not verified and f.id in LIMITS and LIMITS[f.id].fails", "if False"),
    Mutant("an epoch's difference is not seen", "runs/history.py", "runs",
           "self.deterministic = False", "pass"),
    Mutant("the epochs' losses are not compared", "experiments/described.py", "experiments cli/test_cli.py",
           "alike = self.history.deterministic and len(", "alike = True or len("),
    Mutant("the epoch's loss is not compared", "reference/verify.py", "reference",
           "if seen.loss is not None and determined.all():", "if False:"),
    Mutant("the ends over all batches are not compared", "reference/verify.py", "reference",
           'yield _whole(f"{name}_max", found.max,',
           'yield _whole(f"{name}_max", tensor.high[np.isfinite(tensor.high)].max(),'),
    Mutant("the mean is held to the magnitude", "reference/verify.py", "reference",
           "std + (rounding + UNIT * abs(mean)) / allowed", "magnitude + (rounding + UNIT * abs(mean)) / allowed"),
    Mutant("a constant may deviate", "reference/verify.py", "reference",
           "found.std == 0 if found.min == found.max else found.std >= 0", "found.std >= 0"),
    Mutant("the zeros may be any number", "reference/expected.py", "reference",
           "tensor.zeros[1] + int(most))", "tensor.zeros[1] + 10**9)"),
    Mutant("any error is allowed", "reference/verify.py", "reference",
           "not error <= reference.tolerance", "not error <= 1e9"),
    Mutant("NaN is no error", "reference/verify.py", "reference engine/test_nonfinite.py",
           "return np.where(np.isnan(error), np.inf, error)", "return np.where(np.isnan(error), 0.0, error)"),
    Mutant("an infinity is excused anywhere", "reference/verify.py", "reference engine/test_nonfinite.py",
           "np.where(~np.isfinite(found) & beyond, 0.0, error)", "np.where(~np.isfinite(found), 0.0, error)"),
    Mutant("the mean may leave the range", "reference/verify.py", "reference",
           "ordered = found.min <= found.mean <= found.max", "ordered = True"),
    Mutant("the std is not compared", "reference/verify.py", "reference",
           'yield _whole(f"{name}_std", found.std, std,', 'yield _whole(f"{name}_std", std, std,'),
    Mutant("the zeros are not compared", "reference/verify.py", "reference",
           'yield _count(f"{name}_zeros", found.zeros, *tensor.zeros)', "pass"),
    Mutant("the counts of NaN are not compared", "reference/verify.py", "reference",
           'yield _count(f"{name}_nonfinite", found.nonfinite, least, most)', "pass"),
    Mutant("the history's counts are not compared", "reference/verify.py", "reference",
           'yield _interval("nonfinite", nonfinite, surely',
           'yield _interval("nonfinite", nonfinite * 0 + surely, surely'),
    Mutant("epochs that differ pass", "reference/verify.py", "reference cli/test_cli.py",
           "return self.failure is None and self.deterministic", "return self.failure is None"),
    Mutant("only the first batch is verified", "reference/verify.py", "reference",
           "np.linspace(0, batches - 1, wanted)", "np.linspace(0, 0, wanted)"),
)
PROCESSES = (
    Mutant("the run that was moved aside is not put back", "atomic.py", "test_atomic.py",
           "if not os.path.lexists(place):", "if False:"),
    Mutant("the earlier run goes before the new one comes", "atomic.py", "test_atomic.py",
           "    if _exchange_at_once(scratch, folder):",
           "    _remove(folder, files)\n    if _exchange_at_once(scratch, folder):"),
    Mutant("what a living process makes is cleared up", "atomic.py", "test_atomic.py",
           " and _lock(stream.fileno(), wait=False)", ""),
    Mutant("a stranger's file is not put back", "atomic.py", "test_atomic.py",
           "        exchange(scratch, folder, files)\n        check(folder)", "        check(folder)"),
    Mutant("Ctrl-C leaves what is half-made", "__main__.py", "test_faults.py",
           "            abandon()\n", "            pass\n"),
    Mutant("a job's time limit is not heard", "__main__.py", "test_faults.py",
           '("SIGINT", "SIGTERM", "SIGHUP")', '("SIGINT", "SIGHUP")'),
    Mutant("Ctrl-C waits until XLA has compiled", "__main__.py", "test_faults.py",
           "signal.set_wakeup_fd(sender, warn_on_full_buffer=False)", "pass"),
    Mutant("two processes may have one number", "cluster/rendezvous.py", "cluster/test_rendezvous.py",
           "elif number not in missing:", "elif False:"),
    Mutant("a process that leaves is not noticed", "cluster/rendezvous.py", "cluster/test_rendezvous.py",
           'end(PeerError(f"process {number} left before {number_of(missing)} came"))', "pass"),
    Mutant("settings that differ pass", "cluster/join.py", "cluster/test_join.py cluster/test_failures.py",
           "if mine.get(name) != first.get(name):", "if False:"),
    Mutant("who died is not read from JAX's words", "cluster/supervisor.py", "cluster/test_join.py",
           "if match := re.search(r\"stopped sending", "if match := re.search(r\"nothing of stopped sending"),
    Mutant("what a killed worker made stays", "cluster/supervisor.py", "cluster/test_failures.py",
           "                clean()\n", "                pass\n"),
)
# fmt: on
MUTANTS = {"mathematics": MATHEMATICS, "record": RECORD, "verification": VERIFICATION, "processes": PROCESSES}
QUICK = {"quick": ()}  # the default, and pytest's arguments
TIERS = QUICK | {tier: ("-m", tier) for tier in ("process", "cluster", "long")}


def misplaced() -> list[str]:
    """Return the mutants whose place is not there exactly once."""
    return [
        f"{mutant.file}: {mutant.old!r} ({mutant.what})"
        for mutants in MUTANTS.values()
        for mutant in mutants
        if (ROOT / "cubic_cli" / mutant.file).read_text(encoding="utf-8").count(mutant.old) != 1
    ]


def noticed_by(mutant: Mutant, place: Path, tiers: dict[str, tuple[str, ...]]) -> tuple[str, str] | None:
    """Return the tier and the name of the first test that fails with the mutant in `place`, a copy of the sources.

    Raises:
        SystemExit: the test fails without the mutant, too.
    """
    path = place / "cubic_cli" / mutant.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        found = first_failure(mutant, place, tiers)
    finally:
        path.write_text(whole, encoding="utf-8")
    if found and not passes(place, found[1].partition("[")[0]):
        raise SystemExit(f"{mutant.what}: {found[1]} fails without it, too")
    return found


def first_failure(mutant: Mutant, place: Path, tiers: dict[str, tuple[str, ...]]) -> tuple[str, str] | None:
    for tier, chosen in tiers.items():
        ended = run_tests(place, ("-x", *chosen), mutant.tests.split())
        if ended.returncode in (0, 5):  # 5: none of these tests is of this tier
            continue
        if found := re.search(r"^(?:FAILED|ERROR) tests/(.+?)(?: - |$)", ended.stdout, re.MULTILINE):
            return tier, found[1]
        said = ended.stdout[-2000:] + ended.stderr[-2000:]
        raise SystemExit(f"{mutant.what}: pytest exits {ended.returncode}\n{said}")
    return None


def run_tests(place: Path, options: tuple[str, ...], tests: list[str]) -> subprocess.CompletedProcess[str]:
    """Run tests, named below tests/, in `place`."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "--tb=no", "-rfE", *options]
    environment = os.environ | {"PYTHONPATH": str(place)}
    paths = [f"tests/{test}" for test in tests]
    return subprocess.run([*command, *paths], cwd=place, env=environment, capture_output=True, text=True)


@functools.cache
def passes(place: Path, test: str) -> bool:
    """Return whether a test passes in `place` as it is."""
    return run_tests(place, ("-m", ""), [test]).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="those whose kind, file or name holds this")
    given = parser.parse_args()
    if gone := misplaced():
        print("not there exactly once:", *gone, sep="\n  ")
        return 1
    alive = 0
    print("| kind | what breaks | where | tier | noticed by |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in ("cubic_cli", "tests", "tools", "docs"):
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
            shutil.copy(ROOT / name, place)
        for kind, mutants in MUTANTS.items():
            for mutant in mutants:
                if given.only in f"{kind} {mutant.file} {mutant.what}":
                    tier, test = noticed_by(mutant, place, TIERS if kind == "processes" else QUICK) or ("–", "nothing")
                    alive += tier == "–"
                    print(f"| {kind} | {mutant.what} | `{mutant.file}` | {tier} | `{test}` |", flush=True)
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main())
