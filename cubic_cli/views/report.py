"""Records to Rich screens. Every view is made from the same record, so the views cannot disagree."""

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cubic_cli.dataset import Generated
from cubic_cli.runs import Record

EQUATIONS = {"z1": "x·W1 + b1", "a1": "{activation}(z1)", "z2": "a1·W2 + b2", "loss": "mean((z2 − y)²)"}


def number(value: Any) -> str:
    """Return a number for a screen: three decimals as the original prints, or an exponent where that is too long."""
    if value is None:
        return "–"
    value = float(value)
    if value != value:
        return "NaN"
    if abs(value) == float("inf"):
        return "∞" if value > 0 else "−∞"
    if value and not 1e-3 <= abs(value) < 1e9:
        return f"{value:.4e}"
    return f"{value + 0.0:.3f}"


def _table(title: str, *columns: tuple[str, str], caption: str | None = None) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        caption=caption,
        caption_justify="left",
        pad_edge=False,
    )
    for name, justify in columns:
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    return table


def generated(summary: Generated) -> RenderableType:
    """Return the screen of `cubic generate`."""
    table = _table("Dataset", ("", "left"), ("min", "right"), ("max", "right"), ("mean", "right"))
    table.add_row("x", number(summary.x_min), number(summary.x_max), number(summary.x_mean))
    table.add_row("y", number(summary.y_min), number(summary.y_max), number(summary.y_mean))
    size = summary.bytes / 1e6
    line = Text(f"{summary.rows:,} rows, {size:,.1f} MB, in {summary.path}, in {summary.seconds:.3f} s")
    return Group(table, line)


def run(record: Record, width: int) -> RenderableType:
    """Return the screen of one run, for a terminal of `width` columns."""
    config, device, timing = record["config"], record["device"], record["timing"]
    head = Text()
    head.append(record["run_name"], "bold")
    head.append(f"  {record['created']}\n")
    devices = f"{device['devices']} × {device['kind']}" if device["devices"] > 1 else device["kind"]
    head.append(f"device   {device['platform']} ({devices}), matmul precision {device['matmul_precision']}\n")
    head.append(
        f"data     {record['dataset']['path']}, {record['dataset']['rows']:,} samples in batches of "
        f"{config['batch_size']}, {config['num_epochs']} epochs: {record['iterations']:,} iterations\n"
    )
    changed = [f"{name}={config[name]} ({source})" for name, source in record["sources"].items() if source != "default"]
    if changed:
        head.append(f"settings {', '.join(changed)}\n", "dim")
    parts: list[RenderableType] = [head, layers(record, width), epochs(record)]
    parts.append(summary(record))
    for finding in record["findings"]:
        style = "red" if finding["level"] == "error" else "yellow"
        parts.append(Text.assemble((f"{finding['id']}: ", f"bold {style}"), finding["text"]))
    parts.append(
        Text(
            f"\ncompiled in {timing['compile_seconds']:.3f} s; an epoch takes {timing['epoch_seconds']:.6f} s, "
            f"{timing['samples_per_second']:,.0f} samples/s",
            "dim",
        )
    )
    return Group(*parts)


def layers(record: Record, width: int) -> Table:
    """Return the tensors' table; columns that do not fit are left out: equation, zeros, std, mean, in this order."""
    activation = record["config"]["activation"]
    rows = []
    for tensor in record["tensors"]:
        rows.append(
            {
                "tensor": tensor["name"],
                "equation": EQUATIONS[tensor["name"]].format(activation=activation),
                "shape": str(tensor["shape"]),
                "min": number(tensor["min"]),
                "max": number(tensor["max"]),
                "mean": number(tensor["mean"]),
                "std": number(tensor["std"]),
                "zeros": f"{tensor['zeros']:.1%}",
                "non-finite": f"{tensor['nonfinite']:,}",
            }
        )
    names = list(rows[0])
    for optional in ("equation", "zeros", "std", "mean"):
        needed = sum(max(len(name), *(len(row[name]) for row in rows)) + 2 for name in names)
        if needed > width:
            names.remove(optional)
    table = _table(
        "Tensors, over one epoch",
        *((n, "left" if n in ("tensor", "equation", "shape") else "right") for n in names),
    )
    for row in rows:
        table.add_row(*(row[name] for name in names))
    return table


def epochs(record: Record) -> Table:
    """Return the losses by epoch, folded into one row where they are many and equal."""
    rows = record["epochs"]
    table = _table("Loss", ("epoch", "left"), ("loss", "right"), ("seconds", "right"))
    if len(rows) > 3 and len({repr(row["loss"]) for row in rows}) == 1:
        total = sum(row["seconds"] for row in rows)
        table.add_row(f"1–{len(rows)}, each", number(rows[0]["loss"]), f"{total:.6f}")
    else:
        for row in rows if len(rows) <= 20 else rows[:10] + rows[-10:]:
            table.add_row(str(row["epoch"]), number(row["loss"]), f"{row['seconds']:.6f}")
    return table


def summary(record: Record) -> Text:
    """Return what the loss is to be held against, and the verdict of the verification."""
    context, text = record["context"], Text()
    text.append(
        f"loss {number(record['loss'])}, target variance {number(context['target_variance'])}, "
        f"R² {number(context['r_squared'])}, noise floor {number(context['noise_floor'])}\n"
    )
    if record["loss_in_data_units"] != record["loss"]:
        text.append(f"loss in the units of the data {number(record['loss_in_data_units'])}\n")
    check = record["verification"]
    if check is None:
        text.append("not verified (--no-verify)\n", "yellow")
    elif check["passed"]:
        text.append("verified ", "bold green")
        text.append(
            f"against {check['reference']}: {check['batches']:,} batches, largest relative error "
            f"{check['max_relative_error']:.1e} of {check['tolerance']:.1e} allowed; all epochs alike, bit for bit\n"
        )
    else:
        text.append("NOT VERIFIED\n", "bold red")
    return text


def runs(records: list[Record]) -> RenderableType:
    """Return the list of runs."""
    if not records:
        return Text("no runs yet; `cubic forward --run-name NAME` makes one")
    table = _table(
        "Runs",
        ("run", "left"),
        ("created", "left"),
        ("H", "right"),
        ("B", "right"),
        ("initializer", "left"),
        ("loss", "right"),
    )
    for record in records:
        if "damaged" in record:
            table.add_row(record["run_name"], "damaged", "", "", "", "")
        else:
            config = record["config"]
            table.add_row(
                record["run_name"],
                record["created"],
                str(config["hidden_size"]),
                str(config["batch_size"]),
                config["initializer"],
                number(record["loss"]),
            )
    return table


def iteration(document: dict[str, Any], labels: dict[str, str]) -> Text:
    """Return one iteration in the original's words."""
    text = Text(f"epoch {document['epoch']}, batch {document['batch']} of run {document['run_name']}\n", "bold")
    rows = [(labels[t["name"]], str(t["shape"]), number(t["min"]), number(t["max"])) for t in document["tensors"]]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    text = Text.assemble((text.plain, "bold"))
    for label, shape, low, high in rows:
        text.append(f"{label:<{widths[0]}}  shape={shape:<{widths[1]}}  min={low:<{widths[2]}}  max={high}\n")
    text.rstrip()
    return text
