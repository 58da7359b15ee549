"""From a template and values to an HTML answer: the environment, the filters, the headers."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from console import words
from kernel import i18n
from kernel.clock import to_rfc3339
from kernel.money import format_amount

HERE = Path(__file__).resolve().parent
_MINUS = "\N{MINUS SIGN}"

# Nothing runs and nothing is loaded from elsewhere; a page that is framed or submitted to another
# site is not ours. There is no script at all, so `default-src 'none'` covers it.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def grouped(minor: int, currency: str) -> str:
    """The exact amount with thousands separators and no currency: `-1,234.50`, true minus."""
    whole, point, decimals = format_amount(abs(minor), currency).partition(".")
    sign = _MINUS if minor < 0 else ""
    return f"{sign}{int(whole):,}{point}{decimals}"


def money(minor: int, currency: str) -> Markup:
    """`1,234.50 EUR`, exact, as HTML that never wraps."""
    return Markup('<span class="money">{} <span class="currency">{}</span></span>').format(
        grouped(minor, currency), currency
    )


def number(value: int) -> str:
    """A whole number with thousands separators."""
    return f"{value:,}".replace("-", _MINUS)


def moment(instant: datetime | str, zone: str = "UTC") -> Markup:
    """`2026-03-10 13:00 CET`: to the minute, in the zone, which is always named."""
    return _time(instant, zone, "%Y-%m-%d %H:%M")


def day(instant: datetime | str, zone: str = "UTC") -> Markup:
    """`2026-04-09`: the day in the zone, with the zone."""
    return _time(instant, zone, "%Y-%m-%d")


def moment_exact(instant: datetime | str, zone: str = "UTC") -> Markup:
    """The same to the second, for evidence."""
    return _time(instant, zone, "%Y-%m-%d %H:%M:%S")


def _time(given: datetime | str, zone: str, pattern: str) -> Markup:
    instant = datetime.fromisoformat(given) if isinstance(given, str) else given
    # SQLite gives naive datetimes back; what is stored is UTC.
    aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    local = aware.astimezone(ZoneInfo(zone))
    name = local.tzname() or zone
    if not name.isalpha():
        name = f"UTC{name}"
    return Markup('<time datetime="{}">{} <span class="zone">{}</span></time>').format(
        to_rfc3339(aware), local.strftime(pattern), name
    )


@cache
def static_version() -> str:
    """A hash of the stylesheet: a new one gets a new address, so it may be cached for ever."""
    return hashlib.sha256((HERE / "static" / "console.css").read_bytes()).hexdigest()[:12]


def gettext_of(language: str) -> Callable[[str], str]:
    """The translation function of a language."""
    return i18n.catalogue("console", language).gettext


@cache
def environment(language: str) -> Environment:
    """The templates of a language. A name that is not passed is an error, not an empty text."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n", "jinja2.ext.do"],
    )
    catalogue = i18n.catalogue("console", language)
    made.install_gettext_callables(  # type: ignore[attr-defined] # added by jinja2.ext.i18n
        catalogue.gettext, catalogue.ngettext, newstyle=True
    )
    made.filters.update(
        money=money,
        grouped=grouped,
        number=number,
        moment=moment,
        moment_exact=moment_exact,
        day=day,
        label=partial(words.label, gettext=catalogue.gettext),
        channel=partial(words.channel, gettext=catalogue.gettext),
        reason=partial(words.reason, language=language, gettext=catalogue.gettext),
        health_check=partial(words.health_check, gettext=catalogue.gettext),
        attribution=partial(words.attribution, language=language),
        step=partial(words.step, gettext=catalogue.gettext),
        said=partial(words.said, gettext=catalogue.gettext),
        tone=words.tone,
    )
    made.globals.update(language=language, static_version=static_version())
    return made


def render(
    template: str, *, language: str, status: int = 200, values: dict[str, object]
) -> Response:
    """The page, never cached, with the headers that keep it to itself."""
    return HTMLResponse(
        environment(language).get_template(template).render(values),
        status_code=status,
        headers={**SECURITY_HEADERS, "Content-Language": language},
    )
