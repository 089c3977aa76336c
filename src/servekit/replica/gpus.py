"""The GPUs that a replica computes on, by NVIDIA's management library (NVML), where it is installed.

https://docs.nvidia.com/deploy/nvml-api/ has the functions and structures. Nothing is loaded before the handler itself
has loaded CUDA; so a replica that uses no GPU pays for one look a second at what its process has loaded.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from typing import Any

from servekit.wire.control_frames import GpuUse

_log = logging.getLogger("servekit.replica")

_UUID_BYTES = 96


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class NvmlFailure(Exception):
    """A function of NVML has said no. Raised and caught here."""


def uses_cuda() -> bool:
    """Whether CUDA's driver is loaded in this process."""
    try:
        ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD)
    except OSError:
        return False
    return True


def load_nvml() -> Any:
    return ctypes.CDLL("libnvidia-ml.so.1")


class Gpus:
    """The GPUs of this process. To be used by one thread."""

    def __init__(self, *, uses: Callable[[], bool] = uses_cuda, load: Callable[[], Any] = load_nvml) -> None:
        self._uses = uses
        self._load = load
        self._nvml: Any = None
        self._devices: dict[str, ctypes.c_void_p] = {}
        self._is_over = False

    def look(self) -> list[GpuUse]:
        """How busy each of them is, and how much of its memory is used, by this process or others; none before the
        process has loaded CUDA, or where NVML is missing."""
        if self._is_over or not self._uses():
            return []
        try:
            if self._nvml is None:
                self._open()
            return [self._use(name, device) for name, device in self._devices.items()]
        except (OSError, AttributeError, NvmlFailure) as error:
            self._is_over = True
            _log.warning("how busy the GPUs are is not known, and is not asked for again: %s", error)
            return []

    def _open(self) -> None:
        self._nvml = self._load()
        self._call("nvmlInit_v2")
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        for index in range(count.value):
            device, uuid = ctypes.c_void_p(), ctypes.create_string_buffer(_UUID_BYTES)
            self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device))
            self._call("nvmlDeviceGetUUID", device, uuid, ctypes.c_uint(_UUID_BYTES))
            if is_visible(index, uuid.value.decode(), os.environ.get("CUDA_VISIBLE_DEVICES")):
                self._devices[str(index)] = device

    def _use(self, name: str, device: ctypes.c_void_p) -> GpuUse:
        busy, memory = _Utilization(), _Memory()
        self._call("nvmlDeviceGetUtilizationRates", device, ctypes.byref(busy))
        self._call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
        return GpuUse(name, busy.gpu / 100, memory.used, memory.total)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._nvml, name)(*arguments)
        if code:
            raise NvmlFailure(f"{name} gave {code}")


def is_visible(index: int, uuid: str, visible: str | None) -> bool:
    """Whether CUDA takes the device, where CUDA_VISIBLE_DEVICES is ``visible``: numbers, or beginnings of UUIDs."""
    if visible is None:
        return True
    named = [each.strip() for each in visible.split(",")]
    return any(each == str(index) or (each.startswith("GPU-") and uuid.startswith(each)) for each in named)
