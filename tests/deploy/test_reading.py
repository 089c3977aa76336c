from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from servekit.config import Autoscaling, BackendConfig, short
from servekit.control.tables import in_file
from servekit.deploy.reading import Configuration, as_written, read
from servekit.deploy.spec import schema
from servekit.errors import InvalidInputError

FILE = """
[instance]
http_port = "${PORT:-8000}"

[endpoints.digits]
route = "/digits"
traffic = { v1 = 0.9, "v.2" = 0.1 }

[backends.v1]
target = "model:Logistic"
args = ["key-${KEY}", "$${x}"]

[backends.v1.config]
num_replicas = 2
hang_grace_s = "none"
autoscaling = { max_replicas = 4 }

[backends."v.2"]
target = "model:Logistic"
"""


@pytest.fixture
def reading(tmp_path: Path) -> Any:
    """The configuration of `FILE` and of other texts over it."""

    def read_texts(*texts: str, **environ: str) -> Configuration:
        files = [tmp_path / f"{number}.toml" for number in range(len(texts) + 1)]
        for file, text in zip(files, (FILE, *texts), strict=True):
            file.write_text(text)
        return read(files, {"KEY": "hidden", **environ})

    return read_texts


def test_a_file_says_what_the_python_api_takes(reading: Any) -> None:
    found = reading()
    v1 = found.spec.backends["v1"]
    assert v1.config == BackendConfig(num_replicas=2, hang_grace_s=None, autoscaling=Autoscaling(max_replicas=4))
    assert found.spec.endpoints["digits"].traffic == {"v1": 0.9, "v.2": 0.1}
    assert found.spec.instance.runtime == "ray"
    assert found.instance == {"http_port": 8000}


def test_variables_are_put_in_and_known_as_they_are_written(reading: Any) -> None:
    found = reading(PORT="81")
    assert found.spec.backends["v1"].args == ["key-hidden", "${x}"]
    assert found.spec.instance.http_port == 81
    assert found.written == {"instance.http_port": "${PORT:-8000}", "backends.v1.args[0]": "key-${KEY}"}


def test_a_roll_out_is_a_table_of_its_options(reading: Any) -> None:
    found = reading(
        """
        [endpoints.digits.rollout]
        steps = [0.01, "gate", 1]
        hold_s = "${HOLD}"
        notify = ["notify-send", "${KEY}"]
        judge_options = { margin = 0.01, watch = ["accuracy"] }
        """,
        HOLD="30",
    )
    table = found.spec.endpoints["digits"].rollout
    assert table.steps == (0.01, "gate", 1)
    assert (table.hold_s, table.judge) == (30, "sequential")
    assert table.judge_options == {"margin": 0.01, "watch": ["accuracy"]}
    assert table.notify == ["notify-send", "hidden"]
    jsonschema.validate({"endpoints": {"e": {"route": "/e", "rollout": {"steps": [0.5, "gate", 1.0]}}}}, schema())


def test_observers_are_tables_of_their_options(reading: Any) -> None:
    found = reading('[instance.observers.otel]\nsample = 0.1\nheaders = { authorization = "Bearer ${KEY}" }')
    told = {"otel": {"sample": 0.1, "headers": {"authorization": "Bearer hidden"}}}
    assert found.spec.instance.observers == found.instance["observers"] == told
    assert found.written["instance.observers.otel.headers.authorization"] == "Bearer ${KEY}"


def test_text_of_variables_becomes_a_number_where_one_is_wanted(reading: Any) -> None:
    found = reading(
        """
        [endpoints.digits.traffic]
        v1 = "${W}"
        [backends.v1]
        args = ["${N}"]
        placement = { threads = "${N}", gpus = ["${G}", 1], cwd = "${D}", env = { PORT = "${N}" } }
        [backends.v1.config]
        user_config = { batch = "${N}" }
        """,
        W="0.5",
        N="4",
        G="0",
        D="data",
    )
    v1 = found.spec.backends["v1"]
    assert found.spec.endpoints["digits"].traffic == {"v1": 0.5, "v.2": 0.1}
    assert v1.placement == {"threads": 4, "gpus": [0, 1], "cwd": "data", "env": {"PORT": "4"}}
    assert (v1.args, v1.config.user_config) == (["4"], {"batch": "4"})
    assert found.written["endpoints.digits.traffic.v1"] == "${W}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[backends.v1]\nargs = '${LIST}'", '["s3cret-list"]'),
        ("[endpoints.digits]\nmethods = '${LIST}'", '["s3cret-list"]'),
        ("[backends.v1]\nkwargs = '${LIST}'", '{ a = "s3cret-list" }'),
    ],
)
def test_a_variable_is_no_list_or_table(reading: Any, text: str, value: str) -> None:
    with pytest.raises(InvalidInputError, match=r"must be .*, not str: '\$\{LIST\}'") as raised:
        reading(text, LIST=value)
    assert "s3cret" not in str(raised.value)


def test_later_files_change_earlier_ones(reading: Any) -> None:
    found = reading("[backends.v1]\nargs = []\n[backends.v1.config]\nnum_replicas = 3\n")
    v1 = found.spec.backends["v1"]
    assert (v1.target, v1.args, v1.config.num_replicas, v1.config.hang_grace_s) == ("model:Logistic", [], 3, None)


def test_what_is_written_again_of_a_table_is_read_as_the_same(reading: Any) -> None:
    spec = reading().spec
    again = {
        "endpoints": {"digits": in_file("endpoints", "digits", spec.endpoints["digits"])},
        "backends": {name: in_file("backends", name, table) for name, table in spec.backends.items()},
    }
    again["backends"]["v1"]["args"] = ["key-hidden", "$${x}"]
    read_again = read([again], {}).spec
    assert (read_again.endpoints, read_again.backends) == (spec.endpoints, spec.backends)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[backends.v1.config]\nnum_replica = 2", "backends.v1.config.num_replica: there is no such key; did you mean"),
        ("[endpoint.digits]\n", "endpoint: there is no such key; did you mean 'endpoints'?"),
        ("[backends.v1.config]\nnum_replicas = -2", "backends.v1.config: num_replicas must be at least 0, not -2"),
        ("[backends.v1.config]\nnum_replicas = 'two'", "num_replicas must be a whole number, not str: 'two'"),
        ("[backends.v1.config]\nmax_surge = 0", "backends.v1.config: max_surge must be at least 1"),
        ("[backends.v1.config.autoscaling]\nmax = 2", "backends.v1.config.autoscaling.max: there is no such key"),
        ("[backends.v3]\nargs = [1]", "backends.v3: target is missing"),
        ("[backends]\nv1 = 3", "backends.v1: it must be a table, not 3"),
        ("[backends.v1]\nargs = [2020-01-01]", "backends.v1.args: args[0] must be plain data"),
        ("[endpoints.digits]\nmethods = 'GET'", "write methods=['GET']"),
        ('[backends."v.2"]\nfreeze = 1', 'backends."v.2".freeze: freeze must be True or False'),
        ("[backends.v1]\nargs = ['${NOT_SET}']", "args[0]: the environment has no variable NOT_SET: set it"),
        ("[backends.v1]\nargs = ['${1}']", "args[0]: '${1}' names no variable"),
        ("[backends.v1\n", "is not TOML: "),
        ("[endpoints.digits.rollout]\nto = 'v2'", "endpoints.digits.rollout.to: there is no such key"),
        ("[endpoints.digits.rollout]\nsteps = 0.5", "endpoints.digits.rollout.steps: steps must be a list, not float"),
    ],
)
def test_what_is_wrong_is_told_with_the_file_and_the_key(reading: Any, text: str, problem: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        reading(text)
    assert "/1.toml" in str(raised.value)
    assert problem in str(raised.value)


def test_no_error_has_the_value_of_a_variable(reading: Any) -> None:
    with pytest.raises(InvalidInputError) as raised:
        reading("[endpoints.digits]\nmethods = ['GET', '${KEY}', 3]")
    assert "${KEY}" in str(raised.value)
    assert "hidden" not in str(raised.value)


def test_messages_have_what_is_written_in_the_place_of_values(reading: Any) -> None:
    long = "s3cret-" * 20
    text = "[backends.v1]\nkwargs = { a = '${A}', b = '/x/${B}', c = '${C:-plain}', d = '${LONG}' }"
    values = reading(text, A="s3cret-in\n'quotes", B="s3cret", LONG=long).values
    said = f"{'s3cret-in' + chr(10) + chr(39) + 'quotes'!r} of s3cret, plain, at /x/s3cret/y; {short(long)}, {long}"
    assert as_written(said, values) == "'${A}' of ${B}, plain, at /x/${B}/y; '${LONG}', ${LONG}".replace(
        "'${A}'", '"${A}"'
    )
    with pytest.raises(InvalidInputError) as raised:
        reading("[backends.v1.config]\nnum_replicas = '${COUNT}'", COUNT="-123456")
    assert "num_replicas must be at least 0, not ${COUNT}" in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"none\.toml cannot be read: No such file"):
        read([tmp_path / "none.toml"], {})


def test_the_schema_takes_what_is_right_and_refuses_an_unknown_key() -> None:
    as_json = json.loads(json.dumps(schema()))
    tables: dict[str, Any] = {"backends": {"v1": {"target": "model:Logistic", "config": {"num_replicas": 2}}}}
    jsonschema.validate(tables, as_json)
    tables["backends"]["v1"]["config"]["num_replica"] = 2
    with pytest.raises(jsonschema.ValidationError, match="num_replica"):
        jsonschema.validate(tables, as_json)


def test_what_toml_has_no_word_for_is_refused() -> None:
    spec = read([{"backends": {"v1": {"target": "m:f", "kwargs": {"a": [None]}}}}], {}).spec
    with pytest.raises(InvalidInputError, match=r"backends\.v1\.kwargs\.a\[0\] is None, for which TOML has no word"):
        in_file("backends", "v1", spec.backends["v1"])
