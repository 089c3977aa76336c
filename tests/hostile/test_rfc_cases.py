"""Each case of the table, against the listener of a real instance."""

from __future__ import annotations

from typing import Any

import pytest
from tests.hostile.rfc_cases import CASES, Case

NAMES = [f"{case.section} {case.name}" for case in CASES]


def test_there_are_enough_and_no_two_of_one_name() -> None:
    assert len(CASES) >= 150
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_case(front: Any, case: Case) -> None:
    answers, seen = front.exchange(case.sent)
    assert [status for status, _ in answers] == case.statuses, case.why
    assert seen == case.seen, case.why
