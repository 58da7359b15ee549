"""Every setting: name, type, default, unit and meaning, read once from `TALLYSTICK_*`.

The class is the one table: the docs test compares `docs/reference/settings.md` with it, and an
unknown `TALLYSTICK_*` variable stops the start, so that a misspelt limit is never a silent default.
"""

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "TALLYSTICK_"
# Read by the test suite and CI, not by the server.
TEST_VARIABLES = frozenset(
    {"TALLYSTICK_REQUIRE_SERVICES", "TALLYSTICK_SHARED_DATA", "TALLYSTICK_TEST_POSTGRES_URL"}
)

# What a record has on disk beside its bytes, and a segment at its beginning, rounded up.
_FRAME_BYTES_MAX = 64


class UnknownSettingError(Exception):
    """A `TALLYSTICK_*` variable that no setting has. The value is never shown."""


class Settings(BaseSettings):
    """Frozen settings of one process. Units are the last word of a name."""

    # A refused value may be a secret or a URL with a password in it: errors do not show it.
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    data_dir: Path = Field(Path("var"), description="Folder of everything this node keeps.")
    database_url: str = Field(
        "",
        description="Database URL; empty means SQLite in `data_dir`. PostgreSQL: `postgresql://`.",
    )
    secret: SecretStr | None = Field(
        None,
        description="Master secret, at least 32 characters, equal on every node. Empty: a random "
        "one is made once in `data_dir/secret`, readable by its owner only.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    base_url: str = Field(
        "", description="Public address of this server; empty means `http://host:port`."
    )
    trusted_proxies: str = Field(
        "127.0.0.1,::1",
        description="Addresses whose `X-Forwarded-For` is believed, comma separated; "
        "empty believes nobody.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="DEBUG, INFO, WARNING or ERROR."
    )

    serve_processes: int = Field(
        1,
        ge=1,
        le=64,
        description="Web (or tracker) processes of one `serve`, each with a journal of its own.",
    )
    click_front: Literal["auto", "asgi"] = Field(
        "auto",
        description="`auto` answers links below ASGI where the installed uvicorn is known to "
        "allow it; `asgi` never does. The answers are the same.",
    )

    journal_segment_bytes_max: int = Field(
        64 * 2**20, ge=2**16, description="A journal segment is closed at this size."
    )
    journal_record_bytes_max: int = Field(
        2**20, ge=2**12, description="One journal record; a larger event is refused."
    )
    journal_bytes_max: int = Field(
        4 * 2**30,
        ge=2**20,
        description="Unshipped journal on disk; past it nothing is acknowledged. At "
        "least a segment and a record.",
    )
    ship_batch_records_max: int = Field(
        10_000, ge=1, description="Events moved into the database at a time."
    )
    ship_batch_orders_max: int = Field(
        500, ge=1, description="Orders and changes of orders among them, in one transaction."
    )
    ship_idle_milliseconds: int = Field(
        50, ge=1, description="Pause of the shipper when its journal holds nothing new."
    )
    routing_refresh_seconds: int = Field(
        2, ge=1, description="How often a tracker looks for changed programs and memberships."
    )
    url_bytes_max: int = Field(8192, ge=256, description="Longest accepted request target.")
    sub_id_chars_max: int = Field(
        256, ge=1, description="Longest sub-id; longer ones are cut and marked."
    )
    fallback_url: str = Field(
        "",
        description="Where visitors of a dead program or link go when neither publisher nor "
        "program has a page for them; empty: the program's landing page.",
    )
    honours_global_privacy_control: bool = Field(
        default=True, description="Whether `Sec-GPC: 1` means that the visitor is not tracked."
    )
    tcf_vendor_id: int = Field(
        0,
        ge=0,
        le=65535,
        description="Vendor that an IAB TCF string must name beside purpose 1; 0 asks for none.",
    )
    link_rows_max: int = Field(
        1_000, ge=1, description="Links that are made or built in one request."
    )
    publisher_links_max: int = Field(
        20_000, ge=1, description="Short links of one publisher that are not retired."
    )
    body_bytes_max: int = Field(
        16 * 2**20, ge=1024, description="Largest request body; a larger one is a 413."
    )
    batch_rows_max: int = Field(
        10_000, ge=1, description="Rows of one batch of conversions or clicks."
    )
    order_items_max: int = Field(1_000, ge=1, description="Line items of one order.")
    tag_body_bytes_max: int = Field(
        64 * 2**10, ge=1024, description="Body of a browser's report through the tag."
    )
    tag_requests_per_minute_max: int = Field(
        600, ge=1, description="Reports through the tag from one address in a minute."
    )
    order_click_ids_max: int = Field(
        50, ge=1, description="Earlier clicks (`click_ids`) that one order may name."
    )
    order_custom_fields_max: int = Field(20, ge=0, description="Custom fields of one order.")
    order_custom_chars_max: int = Field(
        256, ge=1, description="Longest value of a custom field of an order."
    )
    signature_tolerance_seconds: int = Field(
        300, ge=1, description="How far the time of a signed report may be from this node's clock."
    )
    arrival_repeat_seconds: int = Field(
        60, ge=1, description="Repeats of one order by one way are written down this often at most."
    )
    upload_bytes_max: int = Field(
        16 * 2**20, ge=1024, description="Largest file of orders, as it is uploaded."
    )
    upload_rows_max: int = Field(100_000, ge=1, description="Rows of one file of orders.")
    upload_decoded_bytes_max: int = Field(
        256 * 2**20, ge=1024, description="Unpacked size of a spreadsheet file of orders."
    )
    upload_chunk_rows: int = Field(
        500, ge=1, le=10_000, description="Rows of a file that are taken in at once."
    )
    upload_days: int = Field(
        400,
        ge=0,
        description="Days that files of orders and the results of their rows are kept after they "
        "are done; the orders stay. 0 means for ever.",
    )
    intake_wait_milliseconds: int = Field(
        2_000, ge=0, description="How long a change of an order waits for the order to be shipped."
    )

    broker_url: str = Field(
        "", description="Celery broker; empty means files under `data_dir/broker`, no server."
    )
    worker_threads: int = Field(2, ge=1, le=64, description="Threads of one worker.")
    outbox_attempts_max: int = Field(
        5, ge=1, description="Attempts of a follow-up before it is parked for a person."
    )
    outbox_batch_milliseconds: int = Field(
        150,
        ge=1,
        description="Longest transaction of the pipeline, so that SQLite's writer is shared.",
    )
    outbox_lease_seconds: int = Field(
        15, ge=5, description="A lane whose worker died is taken over after this time."
    )

    token_seconds: int = Field(900, ge=60, le=3600, description="Life of an access token.")
    session_hours: int = Field(12, ge=1, le=168, description="Life of a console session.")
    sign_in_attempts_max: int = Field(
        10, ge=1, description="Wrong passwords for one account, and for one address, in 15 minutes."
    )
    api_requests_per_minute_max: int = Field(
        1_200, ge=1, description="Requests of one API client in a minute; more is a 429."
    )
    rate_limit_url: str = Field(
        "memory://",
        description="Where request counts live: `memory://`, or `redis://` shared by nodes.",
    )
    page_rows_max: int = Field(1_000, ge=1, description="Rows of one API page.")
    idempotency_hours: int = Field(
        24, ge=1, description="How long an `Idempotency-Key` is remembered."
    )

    geoip_dir: Path | None = Field(
        None, description="Folder with MaxMind-style `*.mmdb` files; they win over built-in data."
    )
    click_days: int = Field(
        400,
        ge=0,
        description="Days that the rows of clicks are kept; orders outlive them. 0 means for ever.",
    )
    visitor_salt_days: int = Field(
        1,
        ge=1,
        le=366,
        description="Days after which visitor keys get another random salt and the one before "
        "is deleted a day later.",
    )
    duplicate_click_seconds: int = Field(
        60, ge=1, description="Clicks of one visitor on one program within this time are repeats."
    )
    group_members_max: int = Field(10_000, ge=1, description="Publishers that a group may have.")
    known_customer_days_max: int = Field(
        400, ge=1, description="How long an attributed order of a customer is remembered."
    )
    unmatched_order_days_max: int = Field(
        90, ge=1, description="How long an order that is nobody's waits to be matched by itself."
    )
    coupon_rows_max: int = Field(1_000, ge=1, description="Coupons added or ended at once.")

    rollup_values_max: int = Field(
        1_000,
        ge=1,
        description="Values of one sub-id, and links, of a publisher on a program and day that "
        "reports show by name; the visits of the rest are summed as `(more)`.",
    )
    rollup_hours_days: int = Field(
        100, ge=2, description="How long reports by hour reach back; days are kept for ever."
    )
    rollup_visitor_days: int = Field(
        3, ge=1, description="How long it is remembered who was counted as unique on a day."
    )
    report_rows_max: int = Field(
        50_000, ge=100, description="Rows of one report; a larger one is refused."
    )
    health_days: int = Field(
        3, ge=1, le=28, description="The days before now that tracking health judges."
    )
    health_history_days: int = Field(
        28, ge=7, le=90, description="The days before those that it compares them with."
    )
    health_orders_min: int = Field(
        10, ge=1, description="Orders of the history below which nothing is expected."
    )
    health_silent_hours: int = Field(
        6, ge=1, description="Hours without an order from which silence is looked at."
    )
    health_late_minutes: int = Field(
        60, ge=1, description="An order that is reported later than this after it occurred is late."
    )
    health_repeats_min: int = Field(
        10,
        ge=1,
        description="Identical reports of one known order, by one way, that are amber; ten times "
        "as many are red.",
    )
    health_share_percent: int = Field(
        20,
        ge=1,
        le=100,
        description="Share of late, unmatched, conflicting or clickless orders that is amber; "
        "twice as much is red.",
    )
    link_check_hours: int = Field(
        24, ge=24, description="Pause between two looks at one page that links lead to."
    )
    link_checks_per_hour_max: int = Field(
        4, ge=0, description="Looks at pages of one program in an hour; 0 looks at none."
    )
    link_check_host_seconds: int = Field(
        30, ge=1, description="Pause between two looks at pages of one host."
    )
    link_check_seconds_max: int = Field(10, ge=1, description="Time for one look at a page.")
    link_check_private_hosts: str = Field(
        "",
        description="Hosts on private addresses whose pages may be looked at, comma separated. "
        "Empty: public addresses only.",
    )
    link_targets_max: int = Field(
        1_000, ge=1, description="Pages of one program that are looked at."
    )

    feed_bytes_max: int = Field(2 * 2**30, ge=1024, description="Decoded size of one feed.")
    feed_rows_max: int = Field(5_000_000, ge=1, description="Rows of one feed.")
    feed_seconds_max: int = Field(900, ge=1, description="Time to download one feed.")
    feed_private_hosts: str = Field(
        "",
        description="Hosts on private addresses that feeds may come from, comma separated. "
        "Empty: public addresses only.",
    )
    feed_refresh_minutes: int = Field(360, ge=1, description="Pause between pulls of a feed.")

    @field_validator("geoip_dir", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        # An empty variable would otherwise be the current folder.
        return None if value == "" else value

    @field_validator("journal_bytes_max")
    @classmethod
    def _journal_holds_a_segment_and_a_record(cls, value: int, info: ValidationInfo) -> int:
        # The segment that is written to is never removed: once it alone had filled the journal,
        # nothing would be acknowledged again, however much is shipped.
        names = ("journal_segment_bytes_max", "journal_record_bytes_max")
        least = sum(info.data.get(name, 0) for name in names) + _FRAME_BYTES_MAX
        if value < least:
            msg = f"must hold a segment and a record: at least {least}, or smaller ones of these"
            raise ValueError(msg)
        return value

    @field_validator("fallback_url")
    @classmethod
    def _fallback_is_a_page(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[\w.:-]+(?:[/?#][!-\[\]-~]*)?", value, re.ASCII):
            msg = "must be a plain http or https address in ASCII"
            raise ValueError(msg)
        return value

    @field_validator("secret")
    @classmethod
    def _secret_is_long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 32:  # noqa: PLR2004 - the rule itself
            msg = "must have at least 32 characters"
            raise ValueError(msg)
        return value

    @cached_property
    def database(self) -> str:
        """The database URL in force."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'tallystick.db').absolute()}"

    @cached_property
    def public_url(self) -> str:
        """The public address, without a trailing slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (self.base_url or f"http://{host}:{self.port}").rstrip("/")

    @cached_property
    def proxies(self) -> frozenset[str]:
        """Peers whose forwarding header is believed."""
        return _words(self.trusted_proxies)

    @cached_property
    def private_feed_hosts(self) -> frozenset[str]:
        """Hosts that feeds may be fetched from although their address is not public."""
        return _words(self.feed_private_hosts)

    @cached_property
    def private_link_hosts(self) -> frozenset[str]:
        """Hosts whose pages may be looked at although their address is not public."""
        return _words(self.link_check_private_hosts)


def load() -> Settings:
    """The settings of this process. An unknown variable raises UnknownSettingError."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | TEST_VARIABLES
    unknown = sorted(
        name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known
    )
    if unknown:
        raise UnknownSettingError(f"unknown setting: {', '.join(unknown)}")
    return Settings()


def _words(text: str) -> frozenset[str]:
    return frozenset(word.strip() for word in text.split(",") if word.strip())
