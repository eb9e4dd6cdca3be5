import copy
import importlib.resources
import json

import jsonschema
import numpy as np
import pytest
from records import RECORD

from cubic_cli.config import Activation, Initializer, Scaling
from cubic_cli.reference import expected
from cubic_cli.runs import store as runs

SCHEMA = json.loads((importlib.resources.files("cubic_cli.runs") / "record.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def check(document):
    VALIDATOR.validate(document)


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "settings",
    [
        *(["--initializer", kind] for kind in Initializer),
        *(["--activation", kind, "--initializer", "he_normal"] for kind in Activation),
        *(["--scaling", kind, "--gradients"] for kind in Scaling),
        ["--no-verify"],
        ["--num-samples", 1],
        ["--num-samples", "all", "--batch-size", 7, "--hidden-size", 3],
    ],
)
def test_every_record_is_valid_and_one_in_all_places(cubic, tmp_path, settings):
    cubic("generate", "--n", 40)
    status, out, _ = cubic("forward", "--num-samples", 40, "--num-epochs", 2, *settings, "--json")
    assert status == 0
    check(json.loads(out))
    assert json.loads((tmp_path / "model" / "default_run" / "run.json").read_text()) == json.loads(out)
    assert json.loads(cubic("inspect", "--json")[1]) == json.loads(out)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "3.4e38"])
@pytest.mark.parametrize("column", [0, 1])
def test_values_that_are_not_finite_are_valid(cubic, tmp_path, value, column):
    rows = [["1.5", "2.5"] for _ in range(20)]
    rows[4][column] = value
    (tmp_path / "data.csv").write_text("x,y\n" + "".join(",".join(row) + "\n" for row in rows))
    for settings in ([], ["--scaling", "standard", "--gradients"]):
        _, out, _ = cubic("forward", "--num-samples", 20, "--json", *settings)
        check(json.loads(out))


def test_no_finite_value_at_all_is_valid(cubic, tmp_path):
    (tmp_path / "data.csv").write_text("x,y\n" + "nan,nan\n" * 3)
    status, out, _ = cubic("forward", "--num-samples", 3, "--json", "--gradients")
    assert status == 0
    check(json.loads(out))


def test_a_failed_verification_is_valid(cubic, monkeypatch):
    cubic("generate", "--n", 40)
    original = expected.compute

    def wrong(*arguments):
        reference = original(*arguments)
        reference.tensors["z1"].low += 1
        return reference

    monkeypatch.setattr(expected, "compute", wrong)
    status, out, _ = cubic("forward", "--num-samples", 40, "--json")
    document = json.loads(out)
    assert status == 1
    assert document["verification"]["failure"]["quantity"] == "z1_min"
    check(document)


def required(schema, path=()):
    """Yield the paths of all that the schema requires, where the record has it."""
    for name in schema.get("required", ()):
        yield (*path, name)
        yield from required(schema.get("properties", {}).get(name, {}), (*path, name))


@pytest.mark.parametrize("path", [".".join(path) for path in required(SCHEMA)])
def test_a_record_without_what_is_required_is_invalid(path):
    record = json.loads(runs.to_json(copy.deepcopy(RECORD)))
    check(record)
    *parents, last = path.split(".")
    place = record
    for name in parents:
        place = place[name]
    del place[last]
    with pytest.raises(jsonschema.ValidationError):
        check(record)


def test_a_text_for_a_number_is_invalid():
    record = json.loads(runs.to_json(copy.deepcopy(RECORD)))
    record["loss"] = "much"
    with pytest.raises(jsonschema.ValidationError):
        check(record)
    record["loss"] = runs._encode(np.inf)
    check(record)
