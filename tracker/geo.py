"""Country and network of an address, from what is on this machine; nothing is ever asked outside.

For each fact the first source that knows it wins: the operator's own database files, the address
ranges that cloud providers publish, the registries' delegations. No source raises: a file that
cannot be read or an address that is not one gives facts that are None.
"""

import ipaddress
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import lru_cache, partial
from pathlib import Path
from socket import AF_INET, inet_pton
from typing import Any

import geoip2.database
import iptocc
import maxminddb
from geoip2.errors import GeoIP2Error

from tracker import clouds

RECHECK_SECONDS = 60.0
MAX_ADDRESS_CHARS = 64
_CACHE_ENTRIES = 50_000
_MAX_FILES = 32
IPV4 = 4
_COUNTRY_CHARS = 2


@dataclass(frozen=True, slots=True)
class Geo:
    """What is known about an address; `database_date` is the age of what gave the country."""

    country: str | None = None  # ISO 3166-1 alpha-2
    country_source: str | None = None  # "mmdb:<type>", "cloud", "registry", "private"
    is_hosting: bool = False
    network: str | None = None  # name of the provider or of the autonomous system
    asn: int | None = None
    database_date: date | None = None


@dataclass(frozen=True, slots=True)
class _File:
    """An opened database file; `stamp` tells whether the file on disk is still the same."""

    stamp: tuple[int, int]
    kind: str
    built: date
    facts: Callable[[str], Mapping[str, Any]]


def _read_place(reader: geoip2.database.Reader, ip: str, method: str) -> Mapping[str, Any]:
    return {"country": getattr(reader, method)(ip).country.iso_code}


def _read_network(reader: geoip2.database.Reader, ip: str, method: str) -> Mapping[str, Any]:
    answer = getattr(reader, method)(ip)
    return {
        "asn": answer.autonomous_system_number,
        "network": answer.autonomous_system_organization,
    }


def _read_flags(reader: geoip2.database.Reader, ip: str, method: str) -> Mapping[str, Any]:
    # These files store only what is true, so False means "not said" and the next source decides.
    return {"is_hosting": getattr(reader, method)(ip).is_hosting_provider or None}


_KINDS: tuple[tuple[str, str, Callable[..., Mapping[str, Any]]], ...] = (
    ("Enterprise", "enterprise", _read_place),
    ("City", "city", _read_place),
    ("Country", "country", _read_place),
    ("ASN", "asn", _read_network),
    ("ISP", "isp", _read_network),
    ("Anonymous-Plus", "anonymous_plus", _read_flags),
    ("Anonymous-IP", "anonymous_ip", _read_flags),
)


def _read_flat(reader: maxminddb.Reader, ip: str) -> Mapping[str, Any]:
    """Files of other makers keep the same facts under flat names."""
    row = reader.get(ip)
    if not isinstance(row, dict):
        return {}
    asn = row.get("autonomous_system_number")
    name = row.get("autonomous_system_organization")
    return {
        "country": row.get("country_code"),
        "asn": asn if isinstance(asn, int) else None,
        "network": name if isinstance(name, str) else None,
    }


def _open(path: Path, stamp: tuple[int, int]) -> _File:
    """Raise OSError, ValueError or InvalidDatabaseError when it is not a database."""
    reader = geoip2.database.Reader(path)
    meta = reader.metadata()
    built = datetime.fromtimestamp(meta.build_epoch, UTC).date()
    for part, method, read in _KINDS:
        if part in meta.database_type:
            return _File(stamp, meta.database_type, built, partial(read, reader, method=method))
    reader.close()
    flat = maxminddb.open_database(path)
    return _File(stamp, meta.database_type, built, partial(_read_flat, flat))


class GeoResolver:
    """Looks addresses up in the folder's `*.mmdb` files and in what the installed packages carry.

    Replace a file by renaming another over it, as `geoipupdate` does: the files are mapped into
    memory, and one that is rewritten in place changes under the reader. `changes` counts how often
    other files came into use, for who keeps answers.
    """

    def __init__(self, folder: Path | None, *, cache_entries: int = _CACHE_ENTRIES) -> None:
        self._folder = folder
        self._files: dict[Path, _File] = {}
        self._checked_s: float | None = None
        self._checking = threading.Lock()
        self._resolved = lru_cache(maxsize=cache_entries)(self._resolve)
        self.changes = 0
        self._reopen()

    def lookup(self, ip: str, *, now_s: float | None = None) -> Geo:
        """Never raises. `now_s` is a monotonic clock; with it, changed files are noticed.

        The folder is looked at when `now_s` is RECHECK_SECONDS or more past the last look.
        """
        if now_s is not None:
            self._recheck(now_s)
        return self._resolved(ip) if len(ip) <= MAX_ADDRESS_CHARS else Geo()

    def databases(self) -> list[tuple[str, str, date]]:
        """File name, type and build date of every opened file, for the operator."""
        return [(path.name, file.kind, file.built) for path, file in self._files.items()]

    def _recheck(self, now_s: float) -> None:
        if self._checked_s is None:
            self._checked_s = now_s
            return
        # One caller looks at the folder, the others go on with what is open.
        if now_s - self._checked_s < RECHECK_SECONDS or not self._checking.acquire(blocking=False):
            return
        try:
            self._checked_s = now_s
            self._reopen()
        finally:
            self._checking.release()

    def _reopen(self) -> None:
        files: dict[Path, _File] = {}
        for path, stamp in _listing(self._folder):
            known = self._files.get(path)
            try:
                files[path] = known if known and known.stamp == stamp else _open(path, stamp)
            except (OSError, ValueError, maxminddb.InvalidDatabaseError):
                # A file caught half-written: the one that is open stays until the next look.
                if known:
                    files[path] = known
        if files != self._files:
            self._files = files
            self.changes += 1
            self._resolved.cache_clear()

    def _resolve(self, ip: str) -> Geo:
        if not self._files and (found := _from_registry(ip)) is not None:
            return found
        try:
            address = ipaddress.ip_address(ip)
        except ValueError:
            return Geo()
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        text = str(address)
        geo = _from_cloud(address, self._from_files(text))
        if geo.country is None:
            country = _country(iptocc.country_code(text))
            if country is not None:
                return replace(geo, country=country, country_source="registry")
            if not address.is_global:
                return replace(geo, country_source="private")
        return geo

    def _from_files(self, ip: str) -> Geo:
        geo = Geo()
        for file in self._files.values():
            try:
                facts = file.facts(ip)
            except (GeoIP2Error, OSError, TypeError, ValueError, maxminddb.InvalidDatabaseError):
                continue  # not in this file, or the file is broken: the next source answers
            country = _country(facts.get("country"))
            if country is not None and geo.country is None:
                geo = replace(
                    geo,
                    country=country,
                    country_source=f"mmdb:{file.kind}",
                    database_date=file.built,
                )
            geo = replace(
                geo,
                is_hosting=geo.is_hosting or bool(facts.get("is_hosting")),
                network=geo.network or facts.get("network"),
                asn=geo.asn or facts.get("asn"),
            )
        return geo


def _listing(folder: Path | None) -> list[tuple[Path, tuple[int, int]]]:
    """The database files by name, with what changes when one is replaced."""
    if folder is None:
        return []
    found = []
    try:
        for path in sorted(folder.glob("*.mmdb"))[:_MAX_FILES]:
            stat = path.stat()
            found.append((path, (stat.st_mtime_ns, stat.st_size)))
    except OSError:
        # The folder vanished or one file did between the two calls: the next look sees the rest.
        return found
    return found


def _from_cloud(address: ipaddress.IPv4Address | ipaddress.IPv6Address, geo: Geo) -> Geo:
    found = clouds.lookup(address)
    if found is None:
        return geo
    provider, country = found
    geo = replace(
        geo,
        is_hosting=geo.is_hosting or provider not in clouds.RELAYS,
        network=geo.network or provider,
    )
    if geo.country is None and country is not None:
        return replace(geo, country=country, country_source="cloud", database_date=clouds.built())
    return geo


def _from_registry(ip: str) -> Geo | None:
    """The answer for an IPv4 address of no provider, at a third of the cost; else None."""
    try:
        number = int.from_bytes(inet_pton(AF_INET, ip), "big")
    except (OSError, ValueError):
        return None
    if clouds.is_listed(IPV4, number):
        return None
    return _geo_of(iptocc.country_code(ip))


@lru_cache(maxsize=512)
def _geo_of(code: str | None) -> Geo | None:
    # There are some 250 of them: making one takes longer than finding it.
    country = _country(code)
    return None if country is None else Geo(country, "registry")


def _country(code: object) -> str | None:
    """Two letters of a country; the registries' codes for a region of the world are none."""
    if not isinstance(code, str) or len(code) != _COUNTRY_CHARS or not code.isascii():
        return None
    code = code.upper()
    return code if code.isalpha() and code not in ("AP", "EU", "ZZ") else None
