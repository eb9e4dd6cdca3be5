"""The command that makes a run again, from the settings in its record."""

import dataclasses
import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from cubic_cli.config import SETTINGS, ForwardConfig
from cubic_cli.errors import printable
from cubic_cli.runs.files import PARAMETERS
from cubic_cli.runs.record import Record


def command(record: Record, folder: Path | None = None) -> str:
    """Return what makes the run again: a line for a shell, or of Python for samples from arrays.

    Parameters that came from arrays are read from the run itself, in its `folder`.
    """
    given = _given(record, folder)
    if record.config.dataset is None:
        settings = {name: value for name, value in given.items() if name != "fail_on"}
        return f"cubic_cli.forward({', '.join(['x', 'y', *(f'{name}={value!r}' for name, value in settings.items())])})"
    return spell(given)


def spell(settings: Mapping[str, object]) -> str:
    """Return the `cubic forward` with these settings, by their names, as a line for a shell."""
    words = ["cubic", "forward"]
    for name, value in settings.items():
        spelt = flag(name)
        if isinstance(value, bool):
            words.append(spelt.split("/")[0 if value else 1])
        else:
            words += [spelt, _quote(",".join(value) if isinstance(value, list) else str(value))]
    return " ".join(words)


def flag(name: str) -> str:
    """Return the flag of a setting; of a switch both of its flags, with a stroke between them."""
    return (SETTINGS[name.upper()].flags or (f"--{name.replace('_', '-')}",))[-1]


def place(record: Record) -> Path | None:
    """Return the folder in which the command is to run, where its dataset is a relative path; None if that is unknown.

    Raises:
        AttributeError: of a damaged record whose parts are missing.
    """
    asked, found = record.config.dataset, record.dataset.path
    if asked is None or found is None or Path(asked).is_absolute() or not Path(found).is_absolute():
        return None
    end = Path(asked).parts
    return Path(*Path(found).parts[: -len(end)]) if Path(found).parts[-len(end) :] == end else None


def _given(record: Record, folder: Path | None) -> dict[str, object]:
    """Return the settings other than the defaults, by their names; those of a file of parameters stand in it.

    Where it is not known in which folder the command is to run, its files have absolute paths.
    """
    config, defaults = record.config.model_dump(mode="json"), ForwardConfig().as_json()
    if record.config.dataset is not None and place(record) is None:
        network = record.parameters_file
        found = {"dataset": record.dataset.path, "parameters": None if network is None else network.path}
        relative = [name for name in found if config[name] is not None and not Path(config[name]).is_absolute()]
        config |= {name: found[name] for name in relative if found[name] is not None}
    if record.config.dataset is None:
        defaults |= {"dataset": None, "num_samples": "all"}
    if record.parameters_file is not None and config["parameters"] is None and folder is not None:
        config["parameters"] = str(folder / PARAMETERS)
    if config["parameters"] is not None:
        config |= {name: defaults[name] for name in ("hidden_size", "initializer")}
    names = [field.name for field in dataclasses.fields(ForwardConfig)]
    return {name: config[name] for name in names if config[name] != defaults[name]}


def _quote(text: str) -> str:
    """Return a word for a shell: the home folder as `~`, and what would control a terminal in bash's `$'…'`."""
    home = os.path.expanduser("~").rstrip("/")
    if home.startswith("/") and text.startswith(f"{home}/"):
        return f"~/{_quote(text.removeprefix(f'{home}/'))}"
    if printable(text) == text:
        return shlex.quote(text)
    plain = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{printable(plain)}'"
