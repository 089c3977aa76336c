"""Placement options of a backend on the runtime ``process``: checked, and made into what its processes start with."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from typing import Any

import msgspec

from servekit.config import check_fields, nearest
from servekit.errors import InvalidInputError
from servekit.processes import tellable

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
LEAST_MEMORY_BYTES = 128 * 1024 * 1024
"""A worker with a handler that does nothing has 38 MB of it, one that imports NumPy on two CPUs 119."""
GPU_VARIABLE, GPU_ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"


class ProcessPlacement(msgspec.Struct, frozen=True):
    """What each replica of a backend is given. The environment is made up of, each before the one behind it: ``env``;
    what ``gpus`` and ``threads`` set; ``env`` of the runtime's options; and the controller's."""

    env: Mapping[str, str] = {}
    """Environment variables."""
    cwd: str = ""
    """The working directory: absolute, and there. Empty: that of the process that created the backend."""
    python: str = ""
    """The interpreter, with servekit installed; empty: the runtime's."""
    nice: int = 0
    """Added to the controller's niceness. Below 0 is for root alone."""
    cpu_affinity: list[int] | None = None
    """The CPUs on which its threads run; None: those of the controller."""
    threads: int | None = None
    """How many threads libraries compute with (OpenMP, MKL, OpenBLAS, …)."""
    memory_bytes: int | None = None
    """How much private memory a process may have (RLIMIT_DATA); each of its children may have as much."""
    gpus: list[int | str] | None = None
    """The GPUs of the backend, by number as in ``nvidia-smi``, or by UUID. One that is named twice has two replicas."""
    gpus_per_replica: int = 1

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ProcessPlacement:
        """Raises `InvalidInputError` and names the option at fault."""
        known = cls.__struct_fields__
        for name in options:
            if name not in known:
                raise InvalidInputError(f"{name!r} is not a placement option here{nearest(name, known)}")
        placement = cls(**options)
        check_fields(cls, {name: getattr(placement, name) for name in known})
        placement._check()
        return placement

    def _check(self) -> None:
        if self.cwd and not (os.path.isabs(self.cwd) and os.path.isdir(self.cwd)):
            raise InvalidInputError(f"cwd must be the absolute path of a folder that is there, not {self.cwd!r}")
        if self.python and shutil.which(self.python) is None:
            raise InvalidInputError(f"python must be an interpreter, and {self.python!r} cannot be run")
        tellable(self.cwd)
        least = 0 if os.geteuid() else -20
        if not least <= self.nice <= 19:
            raise InvalidInputError(f"nice must be from {least} to 19 here, not {self.nice}")
        allowed = os.sched_getaffinity(0)
        if self.cpu_affinity is not None and not (self.cpu_affinity and allowed.issuperset(self.cpu_affinity)):
            raise InvalidInputError(
                f"cpu_affinity must name some of the CPUs {sorted(allowed)}, which the controller may use, not "
                f"{self.cpu_affinity}"
            )
        if self.threads is not None and self.threads < 1:
            raise InvalidInputError(f"threads must be at least 1, not {self.threads}")
        if self.memory_bytes is not None and self.memory_bytes < LEAST_MEMORY_BYTES:
            raise InvalidInputError(f"memory_bytes must be at least {LEAST_MEMORY_BYTES}, not {self.memory_bytes}")
        for name, value in self.env.items():
            if not name or "=" in name or "\0" in name + value:
                raise InvalidInputError(f"env has {name!r}, which cannot be set: no name has '=', and nothing has NUL")
        self._check_gpus()

    def _check_gpus(self) -> None:
        if self.gpus is None:
            if self.gpus_per_replica != 1:
                raise InvalidInputError("gpus_per_replica is of no use without gpus, a list of them")
            return
        if not self.gpus or not all(map(re.compile(r"\d+|[A-Za-z][\w/-]+").fullmatch, map(str, self.gpus))):
            raise InvalidInputError(f"gpus must be numbers or UUIDs of GPUs, at least one, not {self.gpus}")
        if not 1 <= self.gpus_per_replica <= len(self.gpus):
            raise InvalidInputError(f"gpus_per_replica must be from 1 to {len(self.gpus)}, not {self.gpus_per_replica}")
        if self.gpus_per_replica > 1 and len(set(self.gpus)) < len(self.gpus):
            raise InvalidInputError(f"gpus names one twice: {self.gpus}; a replica with several needs different ones")
        if GPU_VARIABLE in self.env:
            raise InvalidInputError(f"gpus sets {GPU_VARIABLE}: leave it out of env")

    @property
    def most_replicas(self) -> int | None:
        """How many replicas there are GPUs for."""
        return None if self.gpus is None else len(self.gpus) // self.gpus_per_replica

    def environ(self, base: Mapping[str, str], rank: int) -> dict[str, str]:
        """The environment of the replica of that rank; ``base``: without placement."""
        made = dict(base)
        if self.threads is not None:
            made.update(dict.fromkeys(THREAD_VARIABLES, str(self.threads)))
        if self.gpus is not None:
            first = rank * self.gpus_per_replica
            made.setdefault(GPU_ORDER, "PCI_BUS_ID")
            made[GPU_VARIABLE] = ",".join(map(str, self.gpus[first : first + self.gpus_per_replica]))
        return {**made, **self.env}

    @property
    def program(self) -> str:
        """Python code by which a process places itself, before it does anything else."""
        steps = []
        if self.nice:
            steps.append(f"os.nice({self.nice:d})")
        if self.cpu_affinity is not None:
            steps.append(f"os.sched_setaffinity(0, {sorted(map(int, self.cpu_affinity))})")
        if self.memory_bytes is not None:
            # Not RLIMIT_AS, which counts what is reserved and mapped as well: files of weights, and the hundreds of
            # gigabytes that CUDA reserves.
            most = f"{self.memory_bytes:d}"
            steps.append(f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({most}, {most}))")
        return "".join(f"{step}; " for step in steps)
