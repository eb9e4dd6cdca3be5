"""What is damaged of a record, and what is not: each damage with its place, as in `tensors[1].max is 'abc'`."""

from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

from pydantic import ValidationError, create_model
from pydantic_core import ErrorDetails

from cubic_cli.runs.record import Record
from cubic_cli.runs.values import Part

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Damage(NamedTuple):
    """A damaged place of a record, and what stands there."""

    place: str
    what: str

    @property
    def part(self) -> str:
        """The part of the record, a key of its JSON, that the place is in."""
        return self.place.split(".")[0].split("[")[0]

    def __str__(self) -> str:
        return f"{self.place} is {self.what}"


def parse(document: dict[str, Any]) -> tuple[Record, list[Damage]]:
    """Return the record that a JSON object says, and what of it is damaged; of a damaged part the record has nothing.

    To ask for such a part is an `AttributeError`; `unless_damaged` passes over it.
    """
    try:
        return Record.model_validate(document), []
    except ValidationError as error:
        found = [describe(details, document) for details in error.errors(include_url=False)]
    broken = {damage.part for damage in found}
    whole: dict[str, Any] = {
        name: (field.annotation, field)
        for name, field in Record.model_fields.items()
        if (field.alias or name) not in broken
    }
    rest = create_model("Rest", __base__=Part, **whole).model_validate(document)
    record = Record.model_construct(**{name: getattr(rest, name) for name in whole})
    for name in Record.model_fields.keys() - whole.keys():
        record.__dict__.pop(name, None)  # the None of a part that may be missing
    return record, found


def unless_damaged(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | None:
    """Return what `function` does of these arguments; None where it asks for a damaged part of a record."""
    try:
        return function(*args, **kwargs)
    except AttributeError as error:
        if isinstance(error.obj, Record) and error.name in Record.model_fields:
            return None
        raise


def describe(error: ErrorDetails, document: dict[str, Any]) -> Damage:
    """Return the damage that pydantic found in a JSON object."""
    place = ""
    value: Any = document
    for step in error["loc"]:
        if isinstance(step, int) and isinstance(value, list | tuple):
            place, value = f"{place}[{step}]", value[step]
        elif isinstance(step, str) and isinstance(value, dict) and (step in value or error["type"] == "missing"):
            place, value = f"{place}.{step}" if place else step, value.get(step)
    if error["type"] == "missing":
        return Damage(place, "missing")
    return Damage(place, error["msg"] if error["type"] == "damage" else _show(value))


def _show(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
