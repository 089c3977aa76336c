"""Backends with different packages side by side, and what is said of packages that cannot be had."""

import socket
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from servekit_venv import VenvRuntime

import servekit as serve
from servekit.errors import BackendStartError, InvalidInputError
from servekit.interfaces import RuntimeContext, WorkerSpec


def six_version(request):
    import six

    return {"version": six.__version__, "prefix": sys.prefix}


@pytest.fixture(scope="module")
def running():
    with serve.init(runtime="process", http_port=0) as instance:
        yield instance


@pytest.fixture
def instance(running):
    yield running
    for name in running.list_endpoints():
        running.delete_endpoint(name)
    for name in running.list_backends():
        running.delete_backend(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("venvs")


def wheel(directory, name, version):
    """A package with nothing in it, in ``directory``."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


def test_two_versions_of_a_package_serve_side_by_side(instance, folder):
    for name, version in (("old", "1.15.0"), ("new", "1.16.0")):
        options = {"packages": [f"six=={version}"], "folder": str(folder)}
        instance.create_backend(name, six_version, runtime="venv", runtime_options=options)
    instance.create_endpoint("six", "/six")
    instance.set_traffic("six", {"old": 0.5, "new": 0.5})

    with httpx.Client(base_url=instance.url, timeout=60) as client:
        answers = [client.get("/six").json() for _ in range(20)]

    assert sorted(answer["version"] for answer in answers) == ["1.15.0"] * 10 + ["1.16.0"] * 10
    assert {answer["prefix"] for answer in answers} == {str(path.parent) for path in folder.glob("*/complete")}

    options = {"packages": ["six==1.16.0"], "folder": str(folder)}
    config = {"num_replicas": 2}
    instance.create_backend("another", six_version, config=config, runtime="venv", runtime_options=options)
    assert len(list(folder.glob("*/complete"))) == 2, "the same packages, the same environment"


def test_a_package_that_cannot_be_had_is_refused_in_the_words_of_pip(instance, tmp_path):
    options = {"packages": ["late==1.0"], "pip_options": ["--no-index", "--find-links", str(tmp_path)]}
    with pytest.raises(BackendStartError, match="No matching distribution found for late==1.0"):
        instance.create_backend("b", six_version, runtime="venv", runtime_options=options)
    assert instance.list_backends() == {}
    wheel(tmp_path, "late", "1.0")
    instance.create_backend("b", six_version, runtime="venv", runtime_options=options)


def test_another_version_of_what_servekit_needs_is_refused(instance, tmp_path):
    wheel(tmp_path, "msgspec", "0.0.1")
    options = {"packages": ["msgspec==0.0.1"], "pip_options": ["--no-index", "--find-links", str(tmp_path)]}
    with pytest.raises(BackendStartError, match=r"The user requested \(constraint\) msgspec=="):
        instance.create_backend("b", six_version, runtime="venv", runtime_options=options)


def test_what_takes_too_long_is_given_up(tmp_path):
    runtime = VenvRuntime(install_timeout_s=0.001)
    runtime.open(RuntimeContext("i", False, str(tmp_path)))
    with pytest.raises(BackendStartError, match="longer than install_timeout_s"):
        runtime.start(WorkerSpec("w0", "b", b""))


def test_close_ends_what_is_being_made(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as index, ThreadPoolExecutor(1) as threads:
        url = f"http://127.0.0.1:{index.getsockname()[1]}/"
        runtime = VenvRuntime(["six"], pip_options=["--index-url", url, "--isolated"])
        runtime.open(RuntimeContext("i", False, str(tmp_path)))
        starting = threads.submit(runtime.start, WorkerSpec("w0", "b", b""))
        index.settimeout(60)
        with index.accept()[0]:  # And no answer.
            runtime.close()
            with pytest.raises(BackendStartError, match="pip could not install six"):
                starting.result(60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packages": "six"}, "packages must be a list of text"),
        ({"packages": ["--pre", "six"]}, "put it into pip_options"),
        ({"pip_options": [1]}, "pip_options must be a list of text"),
        ({"package": ["six"]}, "did you mean 'packages'"),
    ],
)
def test_bad_options_are_refused(instance, options, message):
    with pytest.raises(InvalidInputError, match=message):
        instance.create_backend("b", six_version, runtime="venv", runtime_options=options)
