"""The record: what is written is valid by its schema and one in all places, and records of schema 1 are read."""

import copy
import functools
import itertools
import json
import math
import sys
from pathlib import Path

import helpers
import jsonschema
import pytest
import records

import cubic_cli
from cubic_cli.config import Activation, Initializer, Scaling
from cubic_cli.reference import expected
from cubic_cli.runs import damage, saved
from cubic_cli.runs import store as runs
from cubic_cli.runs.record import Record, record_schema, to_json

CORPUS = Path(__file__).parents[1] / "corpus" / "schema1"
OLD = sorted(path.name for path in CORPUS.iterdir())


@functools.cache
def validator(version):
    schema = record_schema(version)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def check(document, version=2):
    validator(version).validate(document)


@pytest.mark.parametrize("name", OLD)
def test_a_record_of_schema_1_is_read_and_printed_as_it_stands(cubic, name):
    text = (CORPUS / name / "run.json").read_text()
    record = runs.load_record(CORPUS / name)
    assert to_json(record) + "\n" == text
    assert cubic("inspect", "--run-name", name, "--artifact-dir", CORPUS, "--json")[:2] == (0, text)
    check(json.loads(text), version=1)
    assert saved.inspect_run(CORPUS / name).problems == []
    loaded = cubic_cli.load_run(CORPUS / name)
    assert loaded.record["config"] == json.loads(text)["config"]
    assert loaded.history.height == record.iterations


@pytest.mark.parametrize("name", OLD)
def test_a_run_of_schema_1_is_shown_and_compared(cubic, name):
    arguments = ("inspect", "--run-name", name, "--artifact-dir", CORPUS)
    assert cubic(*arguments)[0] == 0
    assert cubic(*arguments, "--compare", "plain")[0] == 0


def test_what_someone_added_is_kept():
    document = records.DOCUMENT | {"note": "mine"}
    document["dataset"] = document["dataset"] | {"licence": "CC0"}
    record, damages = damage.parse(document)
    assert damages == []
    assert record.as_dict()["note"] == "mine"
    assert record.as_dict()["dataset"]["licence"] == "CC0"


@pytest.mark.parametrize(
    "settings",
    [
        *(
            ["--initializer", drawn, "--activation", kind]
            for drawn, kind in zip(Initializer, (*Activation, Activation.relu), strict=True)
        ),
        *(["--scaling", kind, "--gradients"] for kind in Scaling),
        ["--no-verify"],
        ["--num-samples", 1],
        ["--num-samples", "all"],
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_every_record_is_valid_and_one_in_all_places(cubic, tmp_path, settings):
    cubic("generate", "--n", helpers.N)
    status, out, _ = cubic("forward", *helpers.SHAPE, "--num-epochs", 2, *settings, "--json")
    assert status == 0
    check(json.loads(out))
    assert json.loads((tmp_path / "model" / "default_run" / "run.json").read_text()) == json.loads(out)
    assert json.loads(cubic("inspect", "--json")[1]) == json.loads(out)


@pytest.mark.parametrize(
    ("value", "column"), [("nan", 0), ("nan", 1), ("inf", 0), ("-inf", 1), ("3.4e38", 0), ("3.4e38", 1)]
)
def test_values_that_are_not_finite_are_valid(cubic, tmp_path, value, column):
    rows = [["1.5", "2.5"] for _ in range(20)]
    rows[4][column] = value
    (tmp_path / "data.csv").write_text("x,y\n" + "".join(",".join(row) + "\n" for row in rows))
    for settings in ([], ["--scaling", "standard", "--gradients"]):
        _, out, _ = cubic("forward", *helpers.QUICK, "--json", *settings)
        check(json.loads(out))


def test_no_finite_value_at_all_is_valid(cubic, tmp_path):
    (tmp_path / "data.csv").write_text("x,y\n" + "nan,nan\n" * 20)
    status, out, _ = cubic("forward", *helpers.QUICK, "--json", "--gradients")
    assert status == 0
    check(json.loads(out))


def test_a_failed_verification_is_valid(cubic, monkeypatch):
    cubic("generate", "--n", 20)
    original = expected.compute

    def wrong(*arguments):
        reference = original(*arguments)
        reference.tensors["z1"].low += 1
        return reference

    monkeypatch.setattr(expected, "compute", wrong)
    status, out, _ = cubic("forward", *helpers.QUICK, "--json")
    document = json.loads(out)
    assert status == 1
    assert document["verification"]["failure"]["quantity"] == "z1_min"
    check(document)


def places(value, at=()):
    """Yield every place of a document where an object has a key."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*at, key)
            yield from places(inner, (*at, key))
    for index, inner in enumerate(value if isinstance(value, list) else ()):
        yield from places(inner, (*at, index))


def name_of(place):
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)[1:]


OPTIONAL = {  # what schema 1 lacks or lacked once, in records that were saved early, and what is free in its keys
    "quantiles", "histogram", "dtype", "run_name", "artifact_dir", "device", "verify", "gradients", "fail_on",
    "scaling", "0.5", "0.01", "0.99",
}  # fmt: skip


@pytest.mark.parametrize(
    "place", [p for p in places(records.DOCUMENT) if p[0] not in ("sources", "versions")], ids=name_of
)
def test_what_is_missing_or_of_another_kind_is_named_with_its_place(place):
    *parents, last = place
    for junk, what in (({"junk": 1}, "an object"), ("a lot", "'a lot'"), (..., "missing")):
        document = copy.deepcopy(records.DOCUMENT)
        part = document
        for key in parents:
            part = part[key]
        if isinstance(part[last], type(junk)) or place == ("schema",):
            continue
        if junk is ...:
            del part[last]
        else:
            part[last] = junk
        record, damages = damage.parse(document)
        if not damages:
            assert last in OPTIONAL
            continue
        if isinstance(part.get(last), dict):
            assert str(damages[0]).startswith(name_of(place))
        else:
            assert str(damages[0]) == f"{name_of(place)} is {what}"
        assert {one.part for one in damages} == {place[0]}
        assert getattr(record, str(place[0]), None) is None
        others = [key for key in records.DOCUMENT if key not in (place[0], "schema")]
        assert all(getattr(record, key) == getattr(records.RECORD, key) for key in others)


def test_parts_that_do_not_go_together_are_named():
    document = records.make_document()
    document["tensors"] = document["tensors"][:3]
    assert [str(one) for one in damage.parse(document)[1]] == ["tensors is not a list of z1, a1, z2 and loss"]
    document = records.make_document()
    document["tensors"][2]["histogram"]["edges"] = [1, 0]
    said = "tensors[2].histogram is not made of rising edges and a count between each two"
    assert [str(one) for one in damage.parse(document)[1]] == [said]
    document = records.make_document()
    document["tensors"][2]["exponents"] = {"first": 0, "negative": [1], "positive": []}
    said = "tensors[2].exponents is not made of two lists of one length"
    assert [str(one) for one in damage.parse(document)[1]] == [said]
    document = records.make_document(dataset__x__min=3.4028235677973366e38)
    assert [str(one) for one in damage.parse(document)[1]] == ["dataset.x.min is 3.4028235677973366e+38"]


@pytest.mark.parametrize("value", [True, "12", "nan", None, [1.0]], ids=repr)
def test_what_is_no_number_is_none(value):
    (found,) = damage.parse(records.make_document(loss=value))[1]
    assert str(found).startswith("loss is ")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_a_text_in_the_file_and_a_float_in_python(value):
    record = records.make(loss=value)
    told = json.loads(to_json(record))["loss"]
    assert told == {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    assert repr(Record.model_validate(json.loads(to_json(record))).loss) == repr(value)
    assert repr(record.as_dict()["loss"]) == repr(value)
    check(json.loads(to_json(records.make(loss=value, schema=1))), version=1)


def test_the_work_grows_no_faster_than_the_epochs(tmp_path):
    """Counted in calls, those of Python and of what it calls in C."""

    def calls(count):
        epochs = [{"epoch": n, "loss": 0.5, "seconds": 0.01} for n in range(1, count + 1)]
        record, seen = records.make(epochs=epochs, config__num_epochs=count, iterations=count), itertools.count()
        sys.setprofile(lambda *_: next(seen))
        runs.write_record(tmp_path, record)
        read = runs.load_record(tmp_path)
        sys.setprofile(None)
        assert read == record
        return next(seen)

    calls(10)  # imports
    assert calls(4000) - calls(2000) <= 1.1 * (calls(2000) - calls(10))
