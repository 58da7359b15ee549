"""Which cloud provider an address belongs to, and in which country, from the published ranges.

The installed data file lists some 131,000 ranges. They become two short sorted tables, read at
the first question; each further question is one bisection.
"""

import gzip
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from importlib import resources
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6, inet_pton

import cloudip
import msgspec

# Where the providers say their regions are. A region that is not listed, or that spans
# countries, leaves the country to the next source; the address is hosting all the same.
_AWS = (
    "AU:ap-southeast-2,ap-southeast-4 BH:me-south-1 BR:sa-east-1 CA:ca-central-1,ca-west-1"
    " CH:eu-central-2 CN:cn-north-1,cn-northwest-1 DE:eu-central-1,eusc-de-east-1"
    " ES:eu-south-2 FR:eu-west-3 GB:eu-west-2 HK:ap-east-1 ID:ap-southeast-3 IE:eu-west-1"
    " IL:il-central-1 IN:ap-south-1,ap-south-2 IT:eu-south-1 JP:ap-northeast-1,ap-northeast-3"
    " KR:ap-northeast-2 MX:mx-central-1 MY:ap-southeast-5 NZ:ap-southeast-6 SE:eu-north-1"
    " SG:ap-southeast-1 TH:ap-southeast-7 TW:ap-east-2 AE:me-central-1"
    " US:us-east-1,us-east-2,us-west-1,us-west-2,us-gov-east-1,us-gov-west-1 ZA:af-south-1"
)
_GCP = (
    "AU:australia-southeast1,australia-southeast2 BE:europe-west1 BR:southamerica-east1"
    " CA:northamerica-northeast1,northamerica-northeast2 CH:europe-west6 CL:southamerica-west1"
    " DE:europe-west3,europe-west10 ES:europe-southwest1 FI:europe-north1 FR:europe-west9"
    " GB:europe-west2 HK:asia-east2 ID:asia-southeast2 IL:me-west1 IN:asia-south1,asia-south2"
    " IT:europe-west8,europe-west12 JP:asia-northeast1,asia-northeast2 KR:asia-northeast3"
    " MX:northamerica-south1 NL:europe-west4 PL:europe-central2 QA:me-central1 SA:me-central2"
    " SE:europe-north2 SG:asia-southeast1 TW:asia-east1 ZA:africa-south1"
    " US:us-central1,us-central2,us-east1,us-east4,us-east5,us-east7,us-south1,us-west1,us-west2,"
    "us-west3,us-west4,us-west8"
)
_AZURE = (
    "AE:uaenorth,uaecentral AT:austriaeast AU:australiaeast,australiasoutheast,australiacentral,"
    "australiacentral2 BE:belgiumcentral BR:brazilsouth,brazilse CA:canadacentral,canadaeast"
    " CH:switzerlandn,switzerlandw CL:chilec DE:germanyn,germanywc DK:denmarkeast"
    " ES:spaincentral FR:centralfrance,southfrance GB:uksouth,ukwest HK:eastasia"
    " ID:indonesiacentral IE:northeurope IL:israelcentral,israelnorthwest"
    " IN:centralindia,southindia,westindia,jioindiawest,jioindiacentral,indiasouthcentral"
    " IT:italynorth JP:japaneast,japanwest KR:koreacentral,koreasouth MX:mexicocentral"
    " MY:malaysiasouth,malaysiawest NL:westeurope NO:norwaye,norwayw NZ:newzealandnorth"
    " PL:polandcentral QA:qatarcentral SE:swedencentral,swedensouth SG:southeastasia"
    " TW:taiwannorth,taiwannorthwest ZA:southafricanorth,southafricawest"
    " US:centralus,centraluseuap,eastus,eastus2,eastus2euap,eastus3,northcentralus,southcentralus,"
    "southcentralus2,westcentralus,westus,westus2,westus3,southeastus,southwestus"
)
_ORACLE = (
    "AE:me-dubai-1,me-abudhabi-1 AU:ap-sydney-1,ap-melbourne-1 BR:sa-saopaulo-1,sa-vinhedo-1,"
    "sa-riodejaneiro-2 CA:ca-toronto-1,ca-montreal-1 CH:eu-zurich-1 CL:sa-santiago-1,"
    "sa-valparaiso-1 CO:sa-bogota-1 DE:eu-frankfurt-1 ES:eu-madrid-1,eu-madrid-3"
    " FR:eu-paris-1,eu-marseille-1 GB:uk-london-1,uk-cardiff-1 ID:ap-batam-1 IE:eu-dublin-3"
    " IL:il-jerusalem-1 IN:ap-mumbai-1,ap-hyderabad-1,ap-delhi-1 IT:eu-milan-1"
    " JP:ap-tokyo-1,ap-osaka-1 KR:ap-seoul-1,ap-chuncheon-1 MA:af-casablanca-1"
    " MX:mx-queretaro-1,mx-monterrey-1 MY:ap-kulai-1 NL:eu-amsterdam-1 RS:eu-jovanovac-1"
    " SA:me-jeddah-1,me-riyadh-1 SE:eu-stockholm-1 SG:ap-singapore-1,ap-singapore-2"
    " ZA:af-johannesburg-1"
    " US:us-ashburn-1,us-phoenix-1,us-sanjose-1,us-chicago-1,us-saltlake-2,us-dallas-1,"
    "us-abilene-1,us-sanantonio-1,us-lenexa-1,us-desmoines-1,us-shawnee-1,us-boardman-1,"
    "us-quincy-1"
)


def _regions(table: str) -> dict[str, str]:
    rows = (row.split(":") for row in table.split())
    return {region: country for country, names in rows for region in names.split(",")}


_REGION_COUNTRIES = {
    "aws": _regions(_AWS),
    "gcp": _regions(_GCP),
    "azure": _regions(_AZURE),
    "oracle": _regions(_ORACLE),
}
# Addresses of this provider leave it only for people behind its relay and VPN (Private Relay and
# WARP among them); to call them hosting would accuse the readers of half the phones.
RELAYS = frozenset({"cloudflare"})


class _CloudRange(msgspec.Struct):
    cidr: str
    p: int
    r: str | None = None


class _CloudFile(msgspec.Struct):
    build_time: int
    providers: list[str]
    ranges: list[_CloudRange]


_Label = tuple[str, str | None]  # provider, country


@dataclass(frozen=True, slots=True)
class _Intervals:
    """Disjoint address intervals in order; `lookup` is one bisection."""

    starts: Sequence[int]
    ends: Sequence[int]
    labels: Sequence[int]

    def lookup(self, number: int) -> int | None:
        place = bisect_right(self.starts, number) - 1
        return self.labels[place] if place >= 0 and number <= self.ends[place] else None


@dataclass(frozen=True, slots=True)
class _Cloud:
    built: date
    labels: tuple[_Label, ...]
    by_version: Mapping[int, _Intervals]


def _country_of_region(provider: str, region: str | None) -> str | None:
    if region is None:
        return None
    if provider == "digitalocean":  # ISO 3166-2, such as "DE-HE"
        return region[:2]
    return _REGION_COUNTRIES.get(provider, {}).get(region)


_Block = tuple[int, int, _Label]  # first address, last address, label


def _flatten(blocks: Iterable[_Block]) -> list[_Block]:
    """Nested blocks as disjoint ones in order; the innermost label wins.

    CIDR blocks nest or are apart, they never overlap by halves; the stack holds the open ones.
    A block without a country inside one of the same provider takes the country of that one.
    """
    flat: list[_Block] = []
    open_blocks: list[tuple[int, _Label]] = []  # last address, label
    place = 0
    for start, end, own in sorted(blocks, key=lambda block: (block[0], -block[1])):
        label = own
        while open_blocks and open_blocks[-1][0] < start:
            place = _append(flat, place, *open_blocks.pop())
        if open_blocks:
            around = open_blocks[-1][1]
            _append(flat, place, start - 1, around)
            if own[1] is None and own[0] == around[0]:
                label = around
        place = start
        open_blocks.append((end, label))
    while open_blocks:
        place = _append(flat, place, *open_blocks.pop())
    return flat


def _append(flat: list[_Block], start: int, end: int, label: _Label) -> int:
    """Add what is left of a block, joined to its neighbour where the label is the same.

    Return the first address that no block covers yet.
    """
    if end < start:
        return start
    if flat and flat[-1][2] == label and flat[-1][1] == start - 1:
        flat[-1] = (flat[-1][0], end, label)
    else:
        flat.append((start, end, label))
    return end + 1


def _block(cidr: str, label: _Label) -> tuple[int, _Block]:
    """IP version and block of one published row; a third of the cost of `ip_network`."""
    text, _, prefix = cidr.partition("/")
    version, family, bits = (6, AF_INET6, 128) if ":" in text else (4, AF_INET, 32)
    first = int.from_bytes(inet_pton(family, text))
    return version, (first, first | ((1 << (bits - int(prefix))) - 1), label)


def lookup(address: IPv4Address | IPv6Address) -> tuple[str, str | None] | None:
    """Provider and country of an address; the country is None where the region does not tell."""
    cloud = _cloud()
    label = cloud.by_version[address.version].lookup(int(address))
    return None if label is None else cloud.labels[label]


def is_listed(version: int, number: int) -> bool:
    """Whether `lookup` knows the address of this IP version and number."""
    return _cloud().by_version[version].lookup(number) is not None


def built() -> date:
    """Day on which the ranges were collected."""
    return _cloud().built


@lru_cache(maxsize=1)
def _cloud() -> _Cloud:
    packed = resources.files(cloudip).joinpath("data", "cloudip.msgpack.gz").read_bytes()
    file = msgspec.msgpack.decode(gzip.decompress(packed), type=_CloudFile)
    found: dict[str, _Label] = {}
    for row in file.ranges:
        provider = file.providers[row.p]
        country = _country_of_region(provider, row.r)
        # One block is listed under many services, most of them without a region.
        if country is not None or row.cidr not in found:
            found[row.cidr] = (provider, country)
    blocks: dict[int, list[_Block]] = {4: [], 6: []}
    for cidr, label in found.items():
        version, block = _block(cidr, label)
        blocks[version].append(block)
    labels = tuple(set(found.values()))
    number = {label: place for place, label in enumerate(labels)}
    tables = {version: _flatten(rows) for version, rows in blocks.items()}
    return _Cloud(
        built=datetime.fromtimestamp(file.build_time, UTC).date(),
        labels=labels,
        by_version={
            version: _Intervals(
                starts=[row[0] for row in rows],
                ends=[row[1] for row in rows],
                labels=array("H", [number[row[2]] for row in rows]),
            )
            for version, rows in tables.items()
        },
    )
