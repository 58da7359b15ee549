import itertools
import os
import shutil
from datetime import UTC, date, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdb_writer import MMDBWriter
from netaddr import IPSet  # type: ignore[import-untyped]  # what mmdb_writer takes; ships no types

from tracker import clouds
from tracker.geo import Geo, GeoResolver

DATA = Path(os.environ.get("TALLYSTICK_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
KNOWN = "91.0.0.1"  # a German access network in the registry's data


def shared(name: str, folder: Path) -> Path:
    source = DATA / "geo" / name
    if not source.exists():
        pytest.skip(f"shared data geo/{name} is absent")
    # The original is read-only and so would be a plain copy of it with its mode.
    return Path(shutil.copyfile(source, folder / name))


def write_country(path: Path, network: str, code: str) -> None:
    writer = MMDBWriter(ip_version=4, database_type="Own-Country")
    writer.insert_network(IPSet([network]), {"country": {"iso_code": code}})
    fresh = path.with_suffix(".new")
    writer.to_db_file(str(fresh))
    fresh.replace(path)


def write_flat(path: Path, network: str, row: dict[str, str | int]) -> None:
    writer = MMDBWriter(ip_version=4, database_type="whois-ipv4", int_type="u32")
    writer.insert_network(IPSet([network]), row)
    writer.to_db_file(str(path))


def test_without_files_the_packages_answer() -> None:
    geo = GeoResolver(None)
    cloud = geo.lookup("3.120.0.1")
    assert (cloud.country, cloud.country_source, cloud.is_hosting) == ("DE", "cloud", True)
    assert cloud.network == "aws"
    assert cloud.database_date == clouds.built()
    assert geo.lookup(KNOWN) == Geo(country="DE", country_source="registry")
    assert geo.lookup("8.8.8.8") == Geo(country="US", country_source="registry")


@pytest.mark.parametrize(
    ("ip", "country"),
    [("18.228.0.1", "BR"), ("13.250.0.1", "SG"), ("2a05:d014::1", "DE"), ("34.87.0.1", "SG")],
)
def test_a_cloud_region_gives_the_country(ip: str, country: str) -> None:
    assert (GeoResolver(None).lookup(ip).country, GeoResolver(None).lookup(ip).is_hosting) == (
        country,
        True,
    )


@pytest.mark.parametrize(
    "ip", ["10.1.2.3", "192.168.0.1", "100.64.0.9", "127.0.0.1", "::1", "fd00::1", "fe80::1%eth0"]
)
def test_private_addresses_have_no_country(ip: str) -> None:
    assert GeoResolver(None).lookup(ip) == Geo(country_source="private")


@pytest.mark.parametrize("ip", ["", "nonsense", "1.2.3", "1.2.3.4, 5.6.7.8", "9" * 10_000])
def test_what_is_no_address_is_nothing(ip: str) -> None:
    assert GeoResolver(None).lookup(ip) == Geo()


def test_a_mapped_address_is_the_one_inside() -> None:
    geo = GeoResolver(None)
    assert geo.lookup("::ffff:3.120.0.1") == geo.lookup("3.120.0.1")


def test_the_relay_of_many_phones_is_not_hosting() -> None:
    found = GeoResolver(None).lookup("104.16.1.1")
    assert (found.network, found.is_hosting) == ("cloudflare", False)


def test_own_country_file_wins_and_keeps_the_hosting_flag(tmp_path: Path) -> None:
    write_country(tmp_path / "own.mmdb", "3.120.0.0/16", "at")
    found = GeoResolver(tmp_path).lookup("3.120.0.1")
    assert (found.country, found.country_source) == ("AT", "mmdb:Own-Country")
    assert found.is_hosting is True
    assert found.database_date is not None
    assert abs((found.database_date - datetime.now(UTC).date()).days) <= 1
    assert GeoResolver(tmp_path).lookup(KNOWN).country_source == "registry"


def test_flat_files_of_other_makers_are_read(tmp_path: Path) -> None:
    row: dict[str, str | int] = {
        "country_code": "NO",
        "autonomous_system_number": 64500,
        "autonomous_system_organization": "Example Net",
    }
    write_flat(tmp_path / "flat.mmdb", "91.0.0.0/24", row)
    found = GeoResolver(tmp_path).lookup(KNOWN)
    assert (found.country, found.asn, found.network) == ("NO", 64500, "Example Net")


def test_a_replaced_file_is_noticed_after_a_minute_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "own.mmdb"
    write_country(path, "91.0.0.0/24", "AT")
    geo = GeoResolver(tmp_path)
    assert geo.lookup(KNOWN, now_s=1000.0).country == "AT"
    write_country(path, "91.0.0.0/24", "CH")
    os.utime(path, ns=(1, 1))
    assert geo.lookup(KNOWN, now_s=1059.9).country == "AT"
    assert geo.lookup(KNOWN).country == "AT"
    assert geo.lookup(KNOWN, now_s=1060.0).country == "CH"
    path.unlink()
    assert geo.lookup(KNOWN, now_s=1120.0) == Geo(country="DE", country_source="registry")


def test_a_broken_file_is_passed_over_and_the_open_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "own.mmdb"
    write_country(path, "91.0.0.0/24", "AT")
    (tmp_path / "broken.mmdb").write_bytes(b"not a database")
    (tmp_path / "empty.mmdb").touch()
    geo = GeoResolver(tmp_path)
    assert [name for name, _, _ in geo.databases()] == ["own.mmdb"]
    assert geo.lookup(KNOWN, now_s=0.0).country == "AT"
    half = tmp_path / "half"
    half.write_bytes(b"half written")
    half.replace(path)
    assert geo.lookup(KNOWN, now_s=60.0).country == "AT"


def test_a_missing_folder_is_an_empty_one(tmp_path: Path) -> None:
    assert GeoResolver(tmp_path / "absent").lookup(KNOWN).country == "DE"


@pytest.mark.parametrize(
    ("file", "ip", "expected"),
    [
        ("GeoLite2-Country-Test.mmdb", "81.2.69.142", ("GB", "mmdb:GeoLite2-Country", None)),
        ("GeoLite2-City-Test.mmdb", "67.43.156.1", ("BT", "mmdb:GeoLite2-City", None)),
        ("GeoLite2-ASN-Test.mmdb", "1.128.0.1", ("AU", "registry", 1221)),
        ("GeoIP2-ISP-Test.mmdb", "1.128.0.1", ("AU", "registry", 1221)),
    ],
)
def test_files_of_the_usual_maker(
    tmp_path: Path, file: str, ip: str, expected: tuple[str, str, int | None]
) -> None:
    shared(file, tmp_path)
    found = GeoResolver(tmp_path).lookup(ip)
    assert (found.country, found.country_source, found.asn) == expected


def test_date_and_hosting_flag_of_the_usual_maker(tmp_path: Path) -> None:
    shared("GeoLite2-Country-Test.mmdb", tmp_path)
    shared("GeoIP2-Anonymous-IP-Test.mmdb", tmp_path)
    geo = GeoResolver(tmp_path)
    found = geo.lookup("81.2.69.142")
    assert (found.is_hosting, found.database_date) == (True, date(2026, 2, 4))
    assert geo.lookup(KNOWN).is_hosting is False


@given(
    st.lists(
        st.tuples(st.integers(0, 255), st.integers(24, 32), st.sampled_from([None, "DE", "FR"])),
        min_size=1,
        max_size=12,
        unique_by=lambda block: ip_network((f"10.0.0.{block[0]}", block[1]), strict=False),
    )
)
def test_flattened_blocks_answer_like_the_innermost_block(
    rows: list[tuple[int, int, str | None]],
) -> None:
    nets = {
        ip_network((f"10.0.0.{host}", prefix), strict=False): country
        for host, prefix, country in rows
    }
    blocks = [(int(net[0]), int(net[-1]), ("aws", country)) for net, country in nets.items()]
    flat = clouds._flatten(blocks)
    assert all(first[1] < second[0] for first, second in itertools.pairwise(flat))
    for host in range(256):
        address = ip_address(f"10.0.0.{host}")
        around = sorted((n for n in nets if address in n), key=lambda n: n.prefixlen, reverse=True)
        countries = [nets[net] for net in around if nets[net] is not None]
        expected = None if not around else ("aws", countries[0] if countries else None)
        hits = [label for start, end, label in flat if start <= int(address) <= end]
        assert hits == ([] if expected is None else [expected])
