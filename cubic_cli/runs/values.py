"""The values that a record is made of: their types, and what each accepts where it is read."""

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from cubic_cli.float32 import FLOAT32_MAX

_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_ROUNDS_BEYOND = FLOAT32_MAX + 2.0**103  # from here on a number rounds to no float32


def damage(what: str) -> PydanticCustomError:
    """Return the error of a part whose values do not go together; `what` it is stands in the message as it is here."""
    return PydanticCustomError("damage", what)


def _number(value: Any) -> float:
    if isinstance(value, float):
        return value
    if isinstance(value, str) and value in _NONFINITE:
        return _NONFINITE[value]
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
        raise ValueError("expected a number")
    return float(value)


def _check_float32(value: float) -> float:
    if math.isfinite(value) and abs(value) >= _ROUNDS_BEYOND:
        raise ValueError("expected a float32")
    return value


# Any float64; what is not finite is one of three strings in JSON, which has no number for it.
Number = Annotated[
    float,
    BeforeValidator(_number),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": list(_NONFINITE)}]}),
]
Value = Annotated[Number, AfterValidator(_check_float32)]  # one that a float32 holds, or that is not finite
Count = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Positive = Annotated[int, Field(strict=True, ge=1, lt=2**63)]
Text = Annotated[str, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
NotNegative = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]


class Part(BaseModel):
    """A part of the record; it does not change."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)  # of thirty, a command needs one or two
