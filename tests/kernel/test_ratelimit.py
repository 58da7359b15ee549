"""So many requests a minute and caller, and when to come back."""

import pytest
from starlette.responses import Response

from kernel import clock, ratelimit
from kernel.errors import TooMany
from kernel.ratelimit import Allowance, Limiter


def test_each_caller_has_a_quota_of_its_own() -> None:
    limiter = Limiter(requests_per_minute=2)
    now = clock.now()

    assert [limiter.spend("a", now=now).remaining for _ in range(2)] == [1, 0]
    with pytest.raises(TooMany) as refused:
        limiter.spend("a", now=now)
    assert 1 <= refused.value.retry_after_seconds <= 60
    assert limiter.spend("b", now=now).remaining == 1


def test_a_costly_request_is_taken_whole_or_not_at_all() -> None:
    limiter = Limiter(requests_per_minute=5)
    now = clock.now()

    assert limiter.spend("a", now=now, cost=4).remaining == 1
    with pytest.raises(TooMany):
        limiter.spend("a", now=now, cost=2)
    assert limiter.spend("a", now=now).remaining == 0


def test_the_headers_of_the_draft() -> None:
    answer = Response()

    ratelimit.describe(answer, Allowance(quota=60, remaining=59, reset_seconds=12))

    assert answer.headers["ratelimit-policy"] == '"default";q=60;w=60'
    assert answer.headers["ratelimit"] == '"default";r=59;t=12'


def test_a_refusal_has_an_allowance_of_nothing() -> None:
    refusal = TooMany("slow down", retry_after_seconds=7)

    assert Limiter(requests_per_minute=3).used_up(refusal) == Allowance(
        quota=3, remaining=0, reset_seconds=7
    )
