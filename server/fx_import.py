"""Brings files of exchange rates into the database, some days at a time."""

from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from pathlib import Path

from sqlalchemy.engine import Engine

from commissions import fx_files, fx_rates
from commissions.fx_rates import Quote
from kernel.database import unit_of_work
from kernel.money import EXPONENTS

# So that nobody who books waits for the whole history.
_QUOTES_AT_ONCE = 2_000


def run(
    engine: Engine,
    file: Path,
    *,
    source: str,
    since: date | None,
    actor: str,
    now: datetime,
    begin: Callable[[int], object],
    done: Callable[[int], object],
) -> tuple[int, int]:
    """(rates in the file, new ones among them).

    `begin` hears how many there are, `done` how many were worked each time.

    A repeat finds nothing new, and so does one that goes on after an interruption. Currencies that
    ISO 4217 has let go of are left out. Raises what `fx_files.read` and `fx_rates.record` do.
    """
    every = fx_files.read(file.read_bytes())
    quotes = [
        one for one in every if one.currency in EXPONENTS and (since is None or one.day >= since)
    ]
    begin(len(quotes))
    new = 0
    for some in _parts(quotes):
        with unit_of_work(engine) as session:
            new += fx_rates.record(session, source, some, actor=actor, now=now)
        done(len(some))
    return len(quotes), new


def _parts(quotes: Sequence[Quote]) -> Iterator[Sequence[Quote]]:
    for start in range(0, len(quotes), _QUOTES_AT_ONCE):
        yield quotes[start : start + _QUOTES_AT_ONCE]
