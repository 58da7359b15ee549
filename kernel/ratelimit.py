"""Requests per caller and minute, with the headers of the RateLimit draft on every answer.

Counted by the `limits` library: in memory for one machine, in Redis when nodes share a limit.
Redirects and health checks never pass through here.
"""

import math
from dataclasses import dataclass
from datetime import datetime

from limits import RateLimitItemPerMinute
from limits.storage import storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.responses import Response

from kernel.errors import TooMany


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a caller may still do in this window."""

    quota: int
    remaining: int
    reset_seconds: int


class Limiter:
    """A sliding window a caller."""

    def __init__(self, *, requests_per_minute: int, storage_url: str = "memory://") -> None:
        self._item = RateLimitItemPerMinute(requests_per_minute)
        self._window = SlidingWindowCounterRateLimiter(storage_from_string(storage_url))

    def used_up(self, refusal: TooMany) -> Allowance:
        """The allowance that goes with a refusal of `spend`."""
        return Allowance(
            quota=self._item.amount, remaining=0, reset_seconds=refusal.retry_after_seconds
        )

    def spend(
        self, caller: str, *, now: datetime, cost: int = 1, per_minute: int | None = None
    ) -> Allowance:
        """Count the request; TooMany when the window is used up.

        `per_minute` is a quota of its own, for callers that share nothing with API clients.
        """
        item = self._item if per_minute is None else RateLimitItemPerMinute(per_minute)
        allowed = self._window.hit(item, caller, cost=cost)
        stats = self._window.get_window_stats(item, caller)
        reset_seconds = max(1, math.ceil(stats.reset_time - now.timestamp()))
        if not allowed:
            raise TooMany(
                f"more than {item.amount} requests a minute",
                retry_after_seconds=reset_seconds,
            )
        return Allowance(quota=item.amount, remaining=stats.remaining, reset_seconds=reset_seconds)


def describe(response: Response, allowance: Allowance) -> None:
    """Write the RateLimit headers (draft-ietf-httpapi-ratelimit-headers) onto an answer."""
    response.headers["RateLimit-Policy"] = f'"default";q={allowance.quota};w=60'
    response.headers["RateLimit"] = f'"default";r={allowance.remaining};t={allowance.reset_seconds}'
