"""The broker that needs no server: kombu's folder of messages, in which each appears whole.

kombu makes a message's file first and writes it then. A worker that looks in between takes an empty
file, and Celery stops on what is no JSON: no lane is worked until another worker is there, and the
old one first waits for the work at hand.
"""

import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):
    """A channel whose messages are moved to where they are found once they are written."""

    # The stubs of kombu's own two classes do not agree on the second name.
    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override]
        # Found in the order of their names.
        name = f"{time.monotonic_ns()}_{uuid.uuid4()}.{queue}.msg"
        # On the same disk, and old files go from there: one that a crash left is no exception.
        written = Path(self.processed_folder) / f"{name}.part"
        written.write_text(dumps(payload))
        written.replace(Path(self.data_folder_out) / name)


class Transport(filesystem.Transport):
    """kombu's, with that channel."""

    Channel = Channel
