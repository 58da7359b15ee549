"""Read by every Python that has this folder on its path: disks for benchmarks, not for the product.

`BENCH_SYNC=none` makes a sync cost nothing and promise nothing, `BENCH_SYNC=4` adds 4 ms to each.
"""

import os
import time

_WISH = os.environ.get("BENCH_SYNC", "")
_SYNC = os.fdatasync


def _slow(file: int) -> None:
    _SYNC(file)
    time.sleep(float(_WISH) / 1000)


if _WISH == "none":
    os.fdatasync = lambda _file: None  # type: ignore[assignment]  # simpler than the real one
elif _WISH:
    os.fdatasync = _slow  # type: ignore[assignment]  # as above
