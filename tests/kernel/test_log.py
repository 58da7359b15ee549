"""Logs are one JSON line an event, whatever an event says."""

import json
import subprocess
import sys

PROGRAM = """
import logging, structlog
from kernel import log
log.configure("INFO")
ours = log.get("kernel.test")
structlog.contextvars.bind_contextvars(request_id="r-1")
ours.info("happened", path="/a\\n{\\"event\\": \\"forged\\"}\\x1b[31m\\u2028", count=2)
ours.debug("unheard")
logging.getLogger("library").warning("it said %s", "\\r\\nthis")
logging.getLogger("uvicorn.access").info("a request")
try:
    1 / 0
except ZeroDivisionError:
    ours.exception("broke")
"""


def test_each_event_is_one_json_line_with_nothing_that_moves_a_terminal() -> None:
    ran = subprocess.run(  # noqa: S603 - our own interpreter and program
        [sys.executable, "-c", PROGRAM], capture_output=True, check=True
    )

    assert ran.stdout == b""
    assert all(32 <= byte < 127 for byte in ran.stderr.replace(b"\n", b""))
    happened, library, broke = (json.loads(line) for line in ran.stderr.splitlines())
    assert happened["event"] == "happened"
    assert happened["path"] == '/a\n{"event": "forged"}\x1b[31m\u2028'
    assert (happened["count"], happened["level"], happened["logger"]) == (2, "info", "kernel.test")
    assert happened["request_id"] == "r-1"
    assert happened["timestamp"].endswith("Z")
    assert library["event"] == "it said \r\nthis"
    assert library["logger"] == "library"
    assert broke["exception"].endswith("ZeroDivisionError: division by zero")
