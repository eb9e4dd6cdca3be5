"""What the numbers mean: rules from a record to sentences, most important first. No JAX here.

Every limit stands in `LIMITS`, with its source; no finding is made that the numbers do not support.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from cubic_cli.runs import Record


class Rule(NamedTuple):
    """A finding's level, the limit beyond which it is made, what the limit is of, and where it comes from."""

    level: str
    limit: float
    meaning: str
    source: str


LIMITS: dict[str, Rule] = {
    "nonfinite": Rule("error", 0, "values that are NaN or infinite", "IEEE 754: no arithmetic recovers them"),
    "unverified": Rule(
        "error",
        1e-5,
        "relative error against float64",
        "max(1e-5, H·2⁻²⁴): float32 rounding of a sum of H terms",
    ),
    "nondeterministic": Rule("error", 1, "different losses among the epochs", "no parameter changes between epochs"),
    "explodes": Rule(
        "warning",
        10,
        "largest |z2| over largest |z1|",
        "Glorot and Bengio (2010): a layer should keep the variance",
    ),
    "vanishes": Rule(
        "warning",
        0.1,
        "largest |z2| over largest |z1|",
        "Glorot and Bengio (2010): a layer should keep the variance",
    ),
    "dead_units": Rule(
        "warning",
        0,
        "units that put out zero for every sample",
        "Maas, Hannun and Ng (2013): they get no gradient",
    ),
    "saturated_units": Rule(
        "warning", 0.5, "share of units always on", "a ReLU that is always on is linear: it bends nothing"
    ),
    "identical_units": Rule(
        "warning", 1, "units over distinct units", "Goodfellow, Bengio and Courville (2016), 8.4: symmetry"
    ),
    "low_rank": Rule("warning", 2, "rank of a1", "a cubic needs more than two bends; rank 2 bends once"),
    "worse_than_mean": Rule("warning", 0, "R²", "the mean of y alone has R² = 0"),
    "unscaled_data": Rule(
        "warning",
        10,
        "largest |x| or |y|",
        "LeCun et al., Efficient BackProp (1998), 4.3: inputs near unit variance",
    ),
}


def find(record: "Record") -> list[dict[str, Any]]:
    """Return the findings of `record`, in the order of `LIMITS`: `id`, `level`, `tensor`, `value`, `limit`, `text`."""
    findings: list[dict[str, Any]] = []

    def add(id: str, tensor: str | None, value: float, text: str, limit: float | None = None) -> None:
        rule = LIMITS[id]
        findings.append(
            {
                "id": id,
                "level": rule.level,
                "tensor": tensor,
                "value": float(value),
                "limit": float(rule.limit if limit is None else limit),
                "text": text,
            }
        )

    tensors = {tensor["name"]: tensor for tensor in record["tensors"]}
    first = record["first_nonfinite"]
    if first is not None:
        total = sum(tensor["nonfinite"] for tensor in record["tensors"])
        why = {
            "data": "the data hold it",
            "parameters": "a parameter is not finite",
            "overflow": "float32 overflowed",
        }
        add(
            "nonfinite",
            first["tensor"],
            total,
            f"{total:,} values are not finite; the first is in {first['tensor']}, epoch {first['epoch']}, batch "
            f"{first['batch']}, row {first['row']} of the dataset: {why[first['cause']]}",
        )
    verification = record["verification"]
    if verification is not None:
        if (failure := verification.get("failure")) is not None:
            where = "" if failure["batch"] is None else f" of batch {failure['batch']}"
            add(
                "unverified",
                failure["quantity"].split("_")[0],
                failure["relative_error"],
                f"{failure['quantity']}{where} is {failure['found']:.9g} and float64 says "
                f"{failure['expected']:.9g}: the device did not compute what the formulas say",
                verification["tolerance"],
            )
        if not verification["deterministic"]:
            losses = len({epoch["loss"] for epoch in record["epochs"]})
            add(
                "nondeterministic",
                "loss",
                losses,
                f"the epochs gave {losses} different losses, and nothing changed",
            )

    z1, z2 = _magnitude(tensors["z1"]), _magnitude(tensors["z2"])
    if z1 > 0 and z2 / z1 > LIMITS["explodes"].limit:
        add(
            "explodes",
            "z2",
            z2 / z1,
            f"layer 2 multiplies the range by {z2 / z1:.3g}: {z1:.4g} becomes {z2:.4g}; "
            "try --initializer he_normal, or --scaling standard",
        )
    if z1 > 0 and z2 / z1 < LIMITS["vanishes"].limit:
        add(
            "vanishes",
            "z2",
            z2 / z1,
            f"layer 2 shrinks the range to {z2 / z1:.3g} of what it was; try another --initializer",
        )
    units = record["units"]
    count, distinct = units["count"], units["distinct"]
    if units["dead"] > LIMITS["dead_units"].limit:
        add(
            "dead_units",
            "a1",
            units["dead"],
            f"{units['dead']} of {count} units put out zero for every sample; try --initializer he_normal",
        )
    if units["always_on"] / count > LIMITS["saturated_units"].limit:
        add(
            "saturated_units",
            "a1",
            units["always_on"] / count,
            f"{units['always_on']} of {count} units are positive for every sample: no bend; try --scaling standard",
        )
    if distinct and count / distinct > LIMITS["identical_units"].limit:
        plural = "s" if count > 1 else ""
        add(
            "identical_units",
            "a1",
            count / distinct,
            f"{count} unit{plural}, {distinct} distinct: the others repeat them; "
            "try an initializer that draws, such as he_normal",
        )
    if count > LIMITS["low_rank"].limit >= units["rank"]:
        add(
            "low_rank",
            "a1",
            units["rank"],
            f"the hidden layer has rank {units['rank']}: {count} units do the work of {units['rank']}",
        )
    r_squared = record["context"]["r_squared"]
    if r_squared is not None and r_squared < LIMITS["worse_than_mean"].limit:
        add(
            "worse_than_mean",
            "loss",
            r_squared,
            f"the loss {record['loss']:.4g} is {1 - r_squared:.3g} times the variance of the target: "
            "always answering the mean of y would do better",
        )
    if record["config"]["scaling"] == "none":
        largest, column = max((_magnitude(record["dataset"][c]), c) for c in ("x", "y"))
        if largest > LIMITS["unscaled_data"].limit:
            add(
                "unscaled_data",
                column,
                largest,
                f"{column} reaches {largest:.4g}, far from unit scale; try --scaling standard",
            )
    return findings


def _magnitude(summary: dict[str, Any]) -> float:
    if summary["min"] is None or summary["min"] != summary["min"]:
        return 0.0
    return float(max(abs(summary["min"]), abs(summary["max"])))
