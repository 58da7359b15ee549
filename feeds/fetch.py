"""Gets a feed's file from its source, if it changed since the last look."""

from dataclasses import replace
from pathlib import Path

from feeds.formats import FeedLimits
from kernel import outbound
from kernel.outbound import FetchResult, OutboundPolicy

_VALIDATOR_CHARS_MAX = 512


def feed_policy(
    limits: FeedLimits,
    *,
    total_seconds: float,
    allow_private_hosts: frozenset[str] = frozenset(),
) -> OutboundPolicy:
    """The outbound policy for feeds: their own size limits, in the time the caller gives."""
    return OutboundPolicy(
        total_seconds=total_seconds,
        wire_bytes_max=limits.decoded_bytes_max,
        decoded_bytes_max=limits.decoded_bytes_max,
        ratio_max=limits.ratio_max,
        allow_private_hosts=allow_private_hosts,
    )


def fetch_source(
    url: str, *, etag: str, last_modified: str, policy: OutboundPolicy, directory: Path
) -> FetchResult:
    """The source's file, or `not_modified` if it answers that nothing changed.

    `etag` and `last_modified` are those of the last imported file, empty if there was none; the
    result always carries the pair to keep. The caller removes the file. Raises OutboundRefused,
    after which the catalogue must stay as it is: a source that fails has not lost its items.
    """
    asked = {
        name: text
        for name, text in (("If-None-Match", etag), ("If-Modified-Since", last_modified))
        if text
    }
    result = outbound.fetch(url, policy=policy, headers=asked, directory=directory)
    # A 304 may leave the validators out. A new file without any must not keep the old ones.
    if result.not_modified:
        return replace(
            result,
            etag=_kept(result.etag) or etag,
            last_modified=_kept(result.last_modified) or last_modified,
        )
    return replace(result, etag=_kept(result.etag), last_modified=_kept(result.last_modified))


def _kept(validator: str) -> str:
    # Longer ones would be stored and sent back for ever; without one the next look is a full one.
    return validator if len(validator) <= _VALIDATOR_CHARS_MAX else ""
