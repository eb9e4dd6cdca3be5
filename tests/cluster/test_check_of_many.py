"""`cubic check` of the devices of many processes."""

import json

import pytest
from many import finish, start_all

pytestmark = pytest.mark.cluster


@pytest.mark.long
def test_check_of_every_process(tmp_path):
    """One report of all devices at process 0; the cache, which `forward` keeps, is left alone."""
    ended = finish(start_all([2, 2], "--json", command="check", XDG_CACHE_HOME=str(tmp_path)), 600)
    assert [status for status, _, _ in ended.values()] == [0, 0], ended
    document = json.loads(ended[0][1])
    assert document["verdict"] == "right"
    assert [device["process"] for device in document["devices"]] == [0, 0, 1, 1]
    assert len({device["id"] for device in document["devices"]}) == 4
    assert document["facts"]["processes"] == 2
    assert ended[1][1] == ""
    assert not list(tmp_path.iterdir())


def test_a_process_that_never_comes_is_no_verdict():
    ended = finish(start_all([1, 1], "--json", only=[0], command="check", CUBIC_JOIN_SECONDS="2"))
    status, out, err = ended[0]
    document = json.loads(out)
    assert (status, document["verdict"], document["devices"]) == (3, "not_checked", [])
    assert "process 1" in document["rows"][0]["text"]
    assert "process 1" in err


def test_a_process_without_the_device_is_no_verdict():
    ended = finish(start_all([1, 1], "--json", command="check", CUBIC_JOIN_SECONDS="8", own={1: ("--device", "gpu")}))
    assert [status for status, _, _ in ended.values()] == [3, 3]
    assert "there is no gpu for JAX here" in ended[1][2]
    assert "process 1 did not come" in ended[0][2]
