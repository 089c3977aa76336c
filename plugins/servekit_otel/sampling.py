"""The share of the traces that begin here which is sampled."""

from __future__ import annotations

from collections.abc import Mapping

SAMPLER, ARGUMENT = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
_FIXED = {"always_on": 1.0, "always_off": 0.0}


def share_of(sample: float | None, environ: Mapping[str, str]) -> float:
    """``sample``, or what OpenTelemetry's variables say. Raises ``ValueError`` for what is no share.

    Whatever the sampler, a trace that has begun elsewhere is sampled where its ``traceparent`` says so.
    """
    if sample is not None:
        return _checked("sample", sample)
    sampler = environ.get(SAMPLER) or "always_on"
    kind = sampler.removeprefix("parentbased_")
    if kind in _FIXED:
        return _FIXED[kind]
    if kind != "traceidratio":
        raise ValueError(
            f"{SAMPLER} must be always_on, always_off or traceidratio, or one of these behind parentbased_, "
            f"not {sampler!r}"
        )
    text = environ.get(ARGUMENT) or "1.0"
    try:
        return _checked(ARGUMENT, float(text))
    except ValueError:
        raise ValueError(f"{ARGUMENT} must be a number from 0 to 1, not {text!r}") from None


def _checked(name: str, share: float) -> float:
    if not 0 <= share <= 1:
        raise ValueError(f"{name} must be from 0 to 1, not {share!r}")
    return float(share)
