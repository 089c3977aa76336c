"""Plans, deploys, history and the way back, on every runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from servekit.errors import BackendStartError, StalePlanError
from servekit.testing.instances import ServedInstance

MODULE = """
class Said:
    def __init__(self, word):
        if word == "bad":
            raise RuntimeError("no such word")
        self.word = word

    def __call__(self, request):
        return self.word
"""


def test_a_deploy_and_the_way_back(serve: ServedInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "said_by_a_file.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def tables(word: str, **more: Any) -> dict[str, Any]:
        backend = {"target": "said_by_a_file:Said", "args": [word], **more}
        return {"endpoints": {"e": {"route": "/e", "traffic": {"b": 1.0}}}, "backends": {"b": backend}}

    def said() -> str:
        return str(serve.client.get("/e").text)

    stale = serve.plan(tables("one"))
    serve.apply(stale)
    with pytest.raises(StalePlanError, match="Make another plan"):
        serve.apply(stale)
    assert serve.plan(tables("one")).steps == []
    serve.apply(serve.plan(tables("two")))
    assert said() == "two"
    with pytest.raises(BackendStartError, match="no such word"):
        serve.apply(serve.plan(tables("bad")))
    assert said() == "two"
    assert serve.rollback("e")["number"] == 1
    assert said() == "one"
    last, second, first = (entry["revisions"]["b"] for entry in serve.history("e"))
    assert (second, last) == (first + 1, first)
    serve.update_backend_config("b", {"num_replicas": 2})
    (tmp_path / "exported.toml").write_text(serve.export())
    assert serve.plan("exported.toml").steps == []
