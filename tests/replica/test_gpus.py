"""The GPUs of a replica, by a library that does what the test says: there is no real one here."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from servekit.replica.gpus import Gpus, is_visible, uses_cuda
from servekit.wire.control_frames import GpuUse


class FakeNvml:
    """Two devices."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.looks = 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)
        return lambda *arguments: 999 if name == self.fails else self._do(name, *arguments) or 0

    def _do(self, name: str, *arguments: Any) -> None:
        if name == "nvmlDeviceGetCount_v2":
            arguments[0]._obj.value = 2
        elif name == "nvmlDeviceGetHandleByIndex_v2":
            arguments[1]._obj.value = arguments[0].value + 1
        elif name == "nvmlDeviceGetUUID":
            arguments[1].value = f"GPU-{arguments[0].value - 1}abc".encode()
        elif name == "nvmlDeviceGetUtilizationRates":
            self.looks += 1
            arguments[1]._obj.gpu = 50 * arguments[0].value
        elif name == "nvmlDeviceGetMemoryInfo":
            arguments[1]._obj.used, arguments[1]._obj.total = 7, 80


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_each_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Gpus(uses=lambda: True, load=FakeNvml).look() == [GpuUse("0", 0.5, 7, 80), GpuUse("1", 1.0, 7, 80)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert Gpus(uses=lambda: True, load=FakeNvml).look() == [GpuUse("1", 1.0, 7, 80)]


def test_nothing_is_loaded_where_the_handler_has_not_loaded_cuda() -> None:
    def load() -> Any:
        raise NotImplementedError

    assert Gpus(uses=lambda: False, load=load).look() == []


@pytest.mark.parametrize("fails", ["nvmlInit_v2", "nvmlDeviceGetMemoryInfo"])
def test_a_library_that_says_no_is_asked_once(fails: str, caplog: pytest.LogCaptureFixture) -> None:
    nvml = FakeNvml(fails)
    gpus = Gpus(uses=lambda: True, load=lambda: nvml)
    assert gpus.look() == []
    looks = nvml.looks
    assert gpus.look() == []
    assert nvml.looks == looks
    assert caplog.text.count(f"{fails} gave 999") == 1


def test_a_machine_without_the_library_has_no_gpus(caplog: pytest.LogCaptureFixture) -> None:
    assert Gpus(uses=lambda: True, load=lambda: ctypes.CDLL("libno-such-nvml.so.1")).look() == []
    assert "is not known" in caplog.text


def test_this_process_has_not_loaded_cuda() -> None:
    assert not uses_cuda()


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, True), ("", False), ("0", False), ("0, 1", True), ("GPU-5f", True), ("GPU-6", False), ("-1", False)],
)
def test_only_devices_that_cuda_takes_count(visible: str | None, expected: bool) -> None:
    assert is_visible(1, "GPU-5f12", visible) is expected
