"""The answers of operations as those may see them who only read: without what may hold secrets. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

_CONFIGS: Mapping[str, Callable[[Any], Iterable[dict[str, Any]]]] = {
    "get_backend_config": lambda config: [config],
    "list_backends": lambda backends: (each["config"] for each in backends.values()),
    "status": lambda status: (each["config"] for each in status["backends"].values()),
}
"""Where the configs of backends are, in the answers that have any."""


def without_user_configs(operation: str, answer: bytes) -> bytes:
    """The answer of an operation, in JSON, where each config lacks its ``user_config``."""
    configs_of = _CONFIGS.get(operation)
    if configs_of is None:
        return answer
    told = msgspec.json.decode(answer)
    for config in configs_of(told):
        config.pop("user_config", None)
    return msgspec.json.encode(told)
