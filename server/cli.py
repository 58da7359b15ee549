"""The command line: `tallystick COMMAND`, also `python -m server COMMAND`."""

import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any, NoReturn

import click
from pydantic import ValidationError
from sqlalchemy.engine import Engine

from kernel import clock, log
from kernel import settings as settings_module
from kernel.database import connect, unit_of_work
from kernel.errors import AppError
from kernel.settings import Settings, UnknownSettingError

_READY_SECONDS = 60.0
_DAY = click.DateTime(formats=["%Y-%m-%d"])


def _settings() -> Settings:
    try:
        configured = settings_module.load()
    except UnknownSettingError as error:
        _fail(str(error))
    except ValidationError as error:
        # Names and rules only: a rejected value may be a secret.
        for problem in error.errors(include_input=False, include_url=False):
            click.echo(
                f"TALLYSTICK_{problem['loc'][0]!s}".upper() + f": {problem['msg']}", err=True
            )
        _fail("the settings cannot be used")
    log.configure(configured.log_level)
    return configured


def _fail(message: str) -> NoReturn:
    click.echo(f"tallystick: {message}", err=True)
    sys.exit(1)


@contextmanager
def _engine(configured: Settings) -> Iterator[Engine]:
    engine = connect(configured.database)
    try:
        yield engine
    finally:
        engine.dispose()


@click.group()
@click.version_option(package_name="tallystick")
def cli() -> None:
    """An affiliate network server that loses no click and explains every amount."""


@cli.command()
@click.option(
    "--only", type=click.Choice(["all", "web", "tracker"]), default="all", show_default=True
)
@click.option("--no-worker", is_flag=True, help="Start no worker here; others do the work.")
@click.option("--demo", "with_demo", is_flag=True, help="Load the demo network first, once.")
def serve(*, only: str, no_worker: bool, with_demo: bool) -> None:
    """Serve until Ctrl-C: web, tracker, shipper and worker, or a part of them."""
    from server import demo, migrate, processes  # noqa: PLC0415 - a command pays for what it uses

    configured = _settings()
    try:
        supervisor = processes.Supervisor(configured, only=only, with_worker=not no_worker)
    except processes.PortTaken as error:
        _fail(str(error))
    configured = configured.model_copy(update={"port": supervisor.port})
    if only != "tracker":
        # A tracker starts without its database, from the routing table it saved.
        migrate.upgrade(configured.database)
    loaded = demo.load(configured) if with_demo else None
    threading.Thread(target=_announce, args=(configured, loaded), daemon=True).start()
    supervisor.run()
    click.echo("stopped")


def _announce(configured: Settings, demo_file: Path | None) -> None:
    local = f"http://{configured.host}:{configured.port}"
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{local}/healthz", timeout=2):  # noqa: S310 - our own address
                break
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    click.echo(f"\nTallystick serves on {configured.public_url}")
    if demo_file is not None:
        _announce_demo(configured, demo_file)
    click.echo("Ctrl-C stops everything.\n")


def _announce_demo(configured: Settings, demo_file: Path) -> None:
    document = json.loads(demo_file.read_text())
    manager, publisher = document["manager"], document["publishers"][0]
    program = document["advertisers"][0]["program"]
    base = configured.public_url
    click.echo(
        f"  begin     {document['shop']['landing_url']}\n"
        f"            a shop of our own: click, buy, and see both tracked\n"
        f"  console   {base}/console\n"
        f"            manager    {manager['email']}  {manager['password']}\n"
        f"            publisher  {publisher['email']}  {publisher['password']}\n"
        f"  a link    {base}/c/{program}/{publisher['code']}\n"
        f"  the API   {base}/docs\n"
        f"  all other logins and keys: {demo_file}"
    )


@cli.command()
@click.option("--beat/--no-beat", default=True, help="Also be the clock; one worker must be.")
def worker(*, beat: bool) -> None:
    """Work in the background: the pipeline, lock dates, feeds."""
    from server import children  # noqa: PLC0415

    _settings()
    children.work(with_beat=beat)


@cli.command(hidden=True)
@click.argument("role", type=click.Choice(["web", "tracker", "shipper", "worker"]))
@click.option("--descriptor", type=int, default=-1)
def child(role: str, descriptor: int) -> None:
    """One process of `serve`."""
    from server import children  # noqa: PLC0415

    configured = _settings()
    if role == "shipper":
        children.ship(configured)
    elif role == "worker":
        children.work(with_beat=True)
    else:
        children.serve_http(configured, descriptor=descriptor, only_tracker=role == "tracker")


@cli.command()
def migrate() -> None:
    """Bring the database to the schema of this version."""
    from server import migrate as migrations  # noqa: PLC0415

    configured = _settings()
    migrations.upgrade(configured.database)
    click.echo("the database is up to date")


@cli.group()
def demo() -> None:
    """The demo network."""


@demo.command("load")
def demo_load() -> None:
    """Load the demo network, once, and write its logins to `demo.json`."""
    from server import demo as demo_network  # noqa: PLC0415
    from server import migrate as migrations  # noqa: PLC0415

    configured = _settings()
    migrations.upgrade(configured.database)
    click.echo(demo_network.load(configured))


@demo.command("replay")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--base-url", required=True, help="Where the server answers.")
@click.option(
    "--access",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The server's demo.json; by default the one in the data folder.",
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write every row that was not sent as it stands to this CSV file.",
)
def demo_replay(file: Path, base_url: str, access: Path | None, report: Path | None) -> None:
    """Play a shop's order file through a running server, then reconcile and audit."""
    from server import replaying  # noqa: PLC0415

    configured = _settings()
    sys.exit(replaying.run(configured, file, base_url=base_url, access=access, report=report))


@cli.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def price(file: Path) -> None:
    """Price a document of commission vectors and compare with what it expects."""
    from server import pricing  # noqa: PLC0415

    try:
        document, ok = pricing.run(pricing.read(file.read_text(encoding="utf-8")))
    except ValueError as error:
        _fail(f"{file}: {error}")
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    sys.exit(0 if ok else 1)


@cli.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--program", required=True, help="Code or id of the program.")
@click.option("--from", "first", required=True, help="First day, in the program's time zone.")
@click.option("--to", "last", required=True, help="Last day, included.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def simulate(file: Path, program: str, first: str, last: str, *, as_json: bool) -> None:
    """Play a draft plan over orders of the past, beside what was booked; nothing is written."""
    from server import simulating  # noqa: PLC0415

    configured = _settings()
    with _engine(configured) as engine, _refusals():
        found = simulating.run(engine, file, program=program, first=first, last=last)
    simulating.show(found, as_json=as_json)


@cli.command()
@click.option("--replay", "only_replay", is_flag=True, help="Only replay what was booked.")
@click.option("--program", "code", help="With --replay: only the orders of this program.")
@click.option("--from", "first", help="With --replay: only orders from this day on, UTC.")
@click.option("--to", "last", help="With --replay: only orders up to this day, UTC, included.")
@click.option("--processes", type=click.IntRange(1, 64), help="By default one for each core.")
def audit(
    *,
    only_replay: bool,
    code: str | None,
    first: str | None,
    last: str | None,
    processes: int | None,
) -> None:
    """Check every invariant of the books; exit 1 and name what broke."""
    from server import auditing  # noqa: PLC0415

    configured = _settings()
    with _engine(configured) as engine:
        try:
            scope = auditing.scope(
                engine, only_replay=only_replay, code=code, first=first, last=last
            )
        except ValueError as error:
            _fail(str(error))
        sys.exit(0 if auditing.run(engine, configured, scope, processes=processes) else 1)


@cli.group()
def rollups() -> None:
    """The sums that reports are read from."""


@rollups.command("rebuild")
@click.option("--from", "first", required=True, help="First day, UTC, such as 2026-03-01.")
@click.option("--to", "last", required=True, help="Last day, UTC, included.")
@click.option("--accept-fewer", is_flag=True, help="Also where clicks were let go meanwhile.")
def rollups_rebuild(first: str, last: str, *, accept_fewer: bool) -> None:
    """Make the sums of these days again from the recorded clicks and orders."""
    from server import rebuilding  # noqa: PLC0415

    configured = _settings()
    try:
        days = rebuilding.days(first, last)
    except ValueError as error:
        _fail(str(error))
    with _engine(configured) as engine:
        if not rebuilding.run(engine, configured, days, accept_fewer=accept_fewer, say=click.echo):
            sys.exit(1)


@cli.group()
def fraud() -> None:
    """Fraud scoring outside the server."""


@fraud.command("score")
@click.argument("file", type=click.File("r"))
def fraud_score(file: Any) -> None:
    """Score a click log given as JSON lines; one JSON line comes back for each."""
    from fraud import logs  # noqa: PLC0415
    from tracker.geo import GeoResolver  # noqa: PLC0415

    configured = _settings()
    for scored in logs.score_lines(file, GeoResolver(configured.geoip_dir)):
        click.echo(json.dumps(scored, ensure_ascii=False))


@cli.group()
def feeds() -> None:
    """Product feeds."""


@feeds.command("check")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--currency", default="EUR", show_default=True, help="The program's currency.")
@click.option("--domain", "domains", multiple=True, help="An allowed domain; without it all are.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def feeds_check(file: Path, currency: str, domains: tuple[str, ...], *, as_json: bool) -> None:
    """Validate a feed file offline; exit 1 on errors."""
    from server import feed_check  # noqa: PLC0415

    _settings()
    report = feed_check.check(file, currency=currency, domains=domains, today=date.today())  # noqa: DTZ011 - a person's day
    click.echo(json.dumps(report, ensure_ascii=False) if as_json else feed_check.text(report))
    sys.exit(1 if report["errors"] else 0)


@cli.group()
def fx() -> None:
    """Exchange rates that orders in other currencies are converted by."""


@fx.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--source", default="ecb", show_default=True, help="The name of the rates' source.")
@click.option("--since", type=_DAY, help="Leave out rates of the days before.")
def fx_import(file: Path, source: str, since: datetime | None) -> None:
    """Read a file of the European Central Bank: daily XML, or CSV, as it is or zipped."""
    from server import fx_import as importing  # noqa: PLC0415

    configured = _settings()
    with _engine(configured) as engine, _refusals():
        bar: Any = click.progressbar(length=0, label="rates", show_pos=True)
        with bar:

            def begin(count: int) -> None:
                bar.length = count

            found, new = importing.run(
                engine,
                file,
                source=source,
                since=since.date() if since else None,
                actor=f"cli:{_who()}",
                now=clock.now(),
                begin=begin,
                done=bar.update,
            )
    click.echo(f"{new} new of {found} rates")


@fx.command("set")
@click.argument("day", type=_DAY, metavar="DAY")
@click.argument("base")
@click.argument("currency")
@click.argument("rate")
def fx_set(day: datetime, base: str, currency: str, rate: str) -> None:
    """Set by hand how much of CURRENCY one of BASE is worth on a DAY such as 2026-03-01."""
    from commissions import fx_rates  # noqa: PLC0415

    configured = _settings()
    quote = fx_rates.Quote(day.date(), base, currency, rate)
    with _engine(configured) as engine, _refusals(), unit_of_work(engine) as session:
        new = fx_rates.record(
            session, fx_rates.MANUAL, [quote], actor=f"cli:{_who()}", now=clock.now()
        )
    click.echo("set" if new else "known already")


@cli.group()
def user() -> None:
    """People who sign in."""


@user.command("add")
@click.option("--email", required=True)
@click.option("--name", required=True)
@click.option("--role", type=click.Choice(["manager", "advertiser", "publisher"]), required=True)
@click.option("--party", "party_id", help="Id of the advertiser or publisher they act for.")
@click.password_option(help="Asked for when not given.")
def user_add(email: str, name: str, role: str, party_id: str | None, password: str) -> None:
    """Add a person."""
    from network import access  # noqa: PLC0415
    from network.models import Role  # noqa: PLC0415

    configured = _settings()
    with _engine(configured) as engine, _refusals(), unit_of_work(engine) as session:
        added = access.add_user(
            session,
            email=email,
            name=name,
            password=password,
            role=Role(role),
            party_id=party_id,
            actor=f"cli:{_who()}",
            now=clock.now(),
        )
    click.echo(added.id)


@cli.group()
def key() -> None:
    """API clients."""


@key.command("create")
@click.option("--name", required=True)
@click.option("--role", type=click.Choice(["manager", "advertiser", "publisher"]), required=True)
@click.option("--party", "party_id", help="Id of the advertiser or publisher it acts for.")
def key_create(name: str, role: str, party_id: str | None) -> None:
    """Create an API client; its secret is shown this once."""
    from network import access  # noqa: PLC0415
    from network.models import Role  # noqa: PLC0415

    configured = _settings()
    with _engine(configured) as engine, _refusals(), unit_of_work(engine) as session:
        client, secret = access.add_client(
            session,
            name=name,
            role=Role(role),
            party_id=party_id,
            actor=f"cli:{_who()}",
            now=clock.now(),
        )
    click.echo(json.dumps({"client_id": client.id, "client_secret": secret}))


@cli.command()
@click.argument("target", type=click.Path(path_type=Path))
def backup(target: Path) -> None:
    """Copy the database while it runs, check the copy, and print its SHA-256."""
    from server import backups  # noqa: PLC0415

    configured = _settings()
    try:
        click.echo(backups.backup(configured, target))
    except backups.BackupError as error:
        _fail(str(error))


@cli.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def restore(source: Path) -> None:
    """Put a backup in the place of a database that does not exist (any more)."""
    from server import backups  # noqa: PLC0415

    configured = _settings()
    try:
        click.echo(backups.restore(configured, source))
    except backups.BackupError as error:
        _fail(str(error))


@cli.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    import partner_api.app  # noqa: PLC0415
    from tracker.http import ENDPOINTS  # noqa: PLC0415

    configured = _settings()
    document = partner_api.app.document(ENDPOINTS, server=configured.public_url)
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


@cli.command()
def doctor() -> None:
    """Look at this installation and say what is wrong or old."""
    from server import doctor as examination  # noqa: PLC0415

    configured = _settings()
    healthy = True
    for finding in examination.examine(configured):
        healthy = healthy and finding.level != "error"
        click.echo(f"{finding.level:8} {finding.subject}: {finding.detail}")
    sys.exit(0 if healthy else 1)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except AppError as error:
        _fail(error.message)


def _who() -> str:
    return os.environ.get("USER", "operator")


def main() -> None:
    """The entry point of both spellings."""
    # What we write holds logins, money and people's orders: for its owner's eyes only.
    os.umask(0o077)
    cli(prog_name="tallystick")
