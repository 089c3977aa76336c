from __future__ import annotations

import fractions
import io
import json
import math
import pickle
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from servekit.errors import CodeDiffersError
from servekit.handles.pickling import PROTOCOL, Pickler, dumps


class Hearing(Pickler):
    """Hears of modules, and takes whole what one of them holds."""

    def __init__(self, file: io.BytesIO, whole: str = "") -> None:
        super().__init__(file, PROTOCOL)
        self.heard: set[str] = set()
        self.whole = whole

    def by_value(self, module: str) -> bool:
        self.heard.add(module)
        return module == self.whole or super().by_value(module)


def pickled(value: Any, whole: str = "") -> tuple[bytes, set[str]]:
    file = io.BytesIO()
    pickler = Hearing(file, whole)
    pickler.dump(value)
    return file.getvalue(), pickler.heard


def test_a_subclass_hears_of_every_module_that_is_referred_to() -> None:
    _, heard = pickled([fractions.Fraction(1, 2), json.loads, json, math.sqrt, pickle.PicklingError, types])
    assert {"fractions", "json", "math", "_pickle", "types"} <= heard


@pytest.fixture
def own(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "own_of_pickling.py").write_text("def double(number):\n    return number * 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("own_of_pickling")
    sys.modules.pop("own_of_pickling", None)


def test_a_subclass_decides_what_goes_whole(own: Any) -> None:
    by_name, by_value = dumps(own.double), pickled(own.double, "own_of_pickling")[0]
    assert pickle.loads(by_name) is own.double
    del sys.modules["own_of_pickling"]
    sys.path_importer_cache.clear()
    sys.path.pop(0)
    with pytest.raises(CodeDiffersError, match=r"the code of 'own_of_pickling' is \w{16} where .* not there where"):
        pickle.loads(by_name)
    assert pickle.loads(by_value)(4) == 8


def test_what_a_module_imports_in_vain_is_named(own: Any, tmp_path: Any) -> None:
    by_name = dumps(own.double)
    (tmp_path / "own_of_pickling.py").write_text("import not_installed_anywhere\n")
    del sys.modules["own_of_pickling"]
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere") as caught:
        pickle.loads(by_name)
    assert not isinstance(caught.value, CodeDiffersError)


def test_threads_that_pickle_at_once_do_not_disturb_each_other(own: Any) -> None:
    together = threading.Barrier(4)

    def whole(_: int) -> bool:
        together.wait(30)
        return all(b"_make_function" in pickled(own.double, "own_of_pickling")[0] for _ in range(200))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(whole, range(4)))
