"""Who is asking: one answer to every wrong credential, and nobody sees another's rows."""

from collections.abc import Iterator
from datetime import UTC, timedelta
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select
from starlette.applications import Starlette
from starlette.testclient import TestClient

from kernel import clock, http, keys
from kernel.audit import AuditEntry
from kernel.database import connect, reading, unit_of_work
from kernel.errors import InvalidInput, Unauthenticated
from kernel.http import Call, Context, Endpoint
from kernel.ratelimit import Limiter
from kernel.settings import Settings
from kernel.tokens import Tokens
from network import access
from network.access import Actor, EmailTaken
from network.models import ApiClient, ConsoleSession, PostbackToken, Program, Role, User
from tests import make
from tests.conftest import NOW

PASSWORD = "correct horse battery"


def add_user(session: Session, **changes: Any) -> User:
    facts: dict[str, Any] = {
        "email": "Ann@Net.example ",
        "name": "Ann",
        "password": PASSWORD,
        "role": Role.MANAGER,
        "party_id": None,
        "actor": "usr_0",
        "now": NOW,
    } | changes
    return access.add_user(session, **facts)


def add_client(session: Session, **changes: Any) -> tuple[ApiClient, str]:
    facts: dict[str, Any] = {
        "name": "Reports",
        "role": Role.PUBLISHER,
        "party_id": "pub_1",
        "actor": "usr_0",
        "now": NOW,
    } | changes
    return access.add_client(session, **facts)


def audited(session: Session) -> list[tuple[str, str, str]]:
    query = select(AuditEntry).order_by(col(AuditEntry.seq))
    return [(each.actor, each.action, each.subject_id) for each in session.exec(query)]


def refusal_of_password(session: Session, email: str, password: str) -> tuple[str, str]:
    with pytest.raises(Unauthenticated) as refused:
        access.check_password(session, email=email, password=password)
    return refused.value.code, refused.value.message


def test_a_user_signs_in_whatever_the_case_of_the_address(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        made = add_user(session)

    with unit_of_work(engine) as session:
        found = access.check_password(session, email=" ANN@net.EXAMPLE", password=PASSWORD)
        assert found.id == made.id
        assert found.email == "ann@net.example"
        assert audited(session) == [("usr_0", "user.add", made.id)]
        assert PASSWORD not in found.password_hash
        assert found.password_hash.startswith("$argon2id$")
        assert access.actor_of_user(found) == Actor(
            id=made.id, role=Role.MANAGER, party_id="", name="Ann"
        )


def test_every_wrong_sign_in_gets_the_same_answer(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        add_user(session)
        add_user(session, email="gone@net.example").disabled_at = NOW
        add_user(session, email="odd@net.example").password_hash = "no hash at all"
        before = audited(session)

        answers = {
            refusal_of_password(session, email, password)
            for email, password in (
                ("ann@net.example", PASSWORD + "."),
                ("ann@net.example", ""),
                ("ann@net.example", PASSWORD + " " * 600),
                ("nobody@net.example", PASSWORD),
                ("", ""),
                ("gone@net.example", PASSWORD),
                ("odd@net.example", "no hash at all"),
            )
        }

        assert answers == {("unauthenticated", "the e-mail address or the password is wrong")}
        assert audited(session) == before


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"email": "nobody"}, "email"),
        ({"password": "x" * 11}, "password"),
        ({"role": Role.MANAGER, "party_id": "pub_1"}, "party_id"),
        ({"role": Role.PUBLISHER, "party_id": None}, "party_id"),
        ({"role": Role.ADVERTISER, "party_id": None}, "party_id"),
    ],
)
def test_a_user_with_a_wrong_fact_is_not_added(
    sqlite_engine: Engine, changes: dict[str, Any], field: str
) -> None:
    with unit_of_work(sqlite_engine) as session:
        with pytest.raises(InvalidInput) as refused:
            add_user(session, **changes)

        assert refused.value.problems[0].field == field
        assert session.exec(select(User)).all() == []
        assert audited(session) == []


def test_an_address_belongs_to_one_user(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        add_user(session)
        with pytest.raises(EmailTaken):
            add_user(session, email="ANN@net.example", name="Another")

        assert [each.name for each in session.exec(select(User))] == ["Ann"]


def test_a_client_is_known_by_its_secret_which_is_not_kept(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        client, secret = add_client(session)
        other, other_secret = add_client(session, name="Other")
        _, given_secret = add_client(session, name="Given", secret="tss_chosen")

    assert secret.startswith("tss_")
    assert len({secret, other_secret}) == 2
    assert given_secret == "tss_chosen"
    with unit_of_work(engine) as session:
        found = access.check_client(session, client_id=client.id, client_secret=secret)
        assert found.id == client.id
        assert secret not in found.secret_hash
        assert access.claims_of_client(found) == {
            "client_id": client.id,
            "scope": "publisher",
            "party": "pub_1",
            "name": "Reports",
        }
        assert access.client_ids_by_name(session)["Other"] == other.id
        assert [action for _, action, _ in audited(session)] == ["key.create"] * 3


def test_every_wrong_client_gets_the_same_answer(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        client, secret = add_client(session)
        other, other_secret = add_client(session)
        gone, gone_secret = add_client(session)
        gone.disabled_at = NOW
        answers = set()
        for client_id, client_secret in (
            (client.id, other_secret),
            (client.id, ""),
            (client.id, secret + "\0"),
            ("cli_nobody", secret),
            ("", ""),
            (gone.id, gone_secret),
        ):
            with pytest.raises(Unauthenticated) as refused:
                access.check_client(session, client_id=client_id, client_secret=client_secret)
            answers.add((refused.value.code, refused.value.message))

        assert answers == {("unauthenticated", "the client id or the client secret is wrong")}
        assert other.disabled_at is None


def test_a_postback_token_is_shown_once_and_kept_as_a_hash(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        token = access.add_postback_token(session, program=program, actor="usr_0", now=NOW)

        row = session.exec(select(PostbackToken)).one()
        assert token.startswith("pbt_")
        assert (row.program_id, row.token_hash) == (program.id, access.token_hash(token))
        assert token not in repr(row)
        assert audited(session) == [("usr_0", "postback_token.create", row.id)]


def test_a_console_session_is_opened_read_and_closed(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        user = add_user(session)
        cookie, csrf_token = access.open_session(session, user, hours=12, now=NOW)
        second, _ = access.open_session(session, user, hours=12, now=NOW)

    assert len({cookie, csrf_token, second}) == 3
    last_moment = NOW + timedelta(hours=12) - timedelta(milliseconds=1)
    with unit_of_work(engine) as session:
        found = access.read_session(session, cookie=cookie, now=last_moment)
        assert found is not None
        assert (found[0].id, found[1]) == (user.id, csrf_token)
        assert access.read_session(session, cookie=cookie, now=NOW + timedelta(hours=12)) is None
        for wrong in ("", cookie + "x", access.token_hash(cookie)):
            assert access.read_session(session, cookie=wrong, now=NOW) is None
        assert ("sign_in", user.id) in {(action, of) for _, action, of in audited(session)}

    with unit_of_work(engine) as session:
        access.close_session(session, cookie=cookie)
        access.close_session(session, cookie=cookie)
        assert access.read_session(session, cookie=cookie, now=NOW) is None
        assert access.read_session(session, cookie=second, now=NOW) is not None


def test_a_disabled_user_is_out_at_once(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        user = add_user(session)
        cookie, _ = access.open_session(session, user, hours=12, now=NOW)
        user.disabled_at = NOW

        assert access.read_session(session, cookie=cookie, now=NOW) is None


def test_sessions_that_ran_out_are_swept_at_the_next_sign_in(sqlite_engine: Engine) -> None:
    later = NOW + timedelta(hours=13)
    with unit_of_work(sqlite_engine) as session:
        user = add_user(session)
        access.open_session(session, user, hours=12, now=NOW)
        access.open_session(session, user, hours=12, now=later)

        [left] = session.exec(select(ConsoleSession)).all()
        assert left.created_at.replace(tzinfo=UTC) == later


@pytest.mark.parametrize(
    ("role", "party", "seen"),
    [
        (Role.MANAGER, "", {"own", "foreign"}),
        (Role.ADVERTISER, "adv_own", {"own"}),
        (Role.ADVERTISER, "adv_nobody", set()),
        (Role.PUBLISHER, "foreign", {"foreign"}),
        (Role.PUBLISHER, "adv_own", set()),
        (Role.PUBLISHER, "", set()),
    ],
)
def test_a_query_is_narrowed_to_the_party(
    sqlite_engine: Engine, role: Role, party: str, seen: set[str]
) -> None:
    with unit_of_work(sqlite_engine) as session:
        for code in ("own", "foreign"):
            of = make.advertiser(session, id=f"adv_{code}")
            make.program(session, of=of, code=code)
        actor = Actor(id="x", role=role, party_id=party, name="X")

        query = access.scope_to_party(
            select(Program.code),
            actor,
            publisher=col(Program.code),
            advertiser=col(Program.advertiser_id),
        )

        assert set(session.execute(query).scalars()) == seen
        assert actor.is_manager is (role is Role.MANAGER)


def who(call: Call) -> dict[str, str]:
    actor: Actor = call.actor
    return {"id": actor.id, "role": actor.role, "party": actor.party_id, "name": actor.name}


async def who_without_database(call: Call) -> dict[str, str]:
    return who(call)


def make_app(engine: Engine, settings: Settings) -> Starlette:
    made = keys.load(settings)
    guard = access.require(Role.PUBLISHER, Role.MANAGER)
    app = Starlette(
        routes=[
            http.route(
                Endpoint(
                    method="GET", path=path, handler=handler, summary=path, tag="t", guard=guard
                )
            )
            for path, handler in (("/who", who), ("/journal", who_without_database))
        ]
    )
    app.state.context = Context(
        settings=settings,
        engine=engine,
        keys=made,
        tokens=Tokens(made, issuer=settings.public_url),
        limiter=Limiter(requests_per_minute=1000),
    )
    return app


@pytest.fixture
def app(sqlite_engine: Engine, settings: Settings) -> Starlette:
    return make_app(sqlite_engine, settings)


@pytest.fixture
def web(app: Starlette) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


def token_of(app: Starlette, client: ApiClient, *, seconds: int = 60, ago: int = 0) -> str:
    tokens: Tokens = app.state.context.tokens
    return tokens.sign_access(
        subject=client.id,
        claims=access.claims_of_client(client),
        now=clock.now() - timedelta(seconds=ago),
        seconds=seconds,
    )


def ask(web: TestClient, authorization: str, path: str = "/who") -> tuple[int, str, Any]:
    answer = web.get(path, headers={"Authorization": authorization})
    return answer.status_code, answer.json().get("code", ""), answer.json()


def test_a_bearer_token_says_who_is_asking(
    app: Starlette, web: TestClient, sqlite_engine: Engine
) -> None:
    with unit_of_work(sqlite_engine) as session:
        client, _ = add_client(session)

    for scheme in ("Bearer", "bearer", "BEARER"):
        status, _, said = ask(web, f"{scheme} {token_of(app, client)}")
        assert status == 200
        assert said == {
            "id": client.id,
            "role": "publisher",
            "party": "pub_1",
            "name": "Reports",
        }


def test_without_a_valid_token_nobody_is_asking(
    app: Starlette, web: TestClient, sqlite_engine: Engine
) -> None:
    with unit_of_work(sqlite_engine) as session:
        client, _ = add_client(session)
    token = token_of(app, client)
    receipt = app.state.context.tokens.sign_receipt(access.claims_of_client(client))

    for wrong in (
        "",
        "Bearer",
        "Bearer ",
        f"Basic {token}",
        token,
        f"Bearer {token}x",
        f"Bearer {receipt}",
        f"Bearer {token_of(app, client, ago=120)}",
    ):
        assert ask(web, wrong)[:2] == (401, "unauthenticated")


def test_a_role_that_the_endpoint_does_not_name_is_forbidden(
    app: Starlette, web: TestClient, sqlite_engine: Engine
) -> None:
    with unit_of_work(sqlite_engine) as session:
        advertiser, _ = add_client(session, role=Role.ADVERTISER, party_id="adv_1")
        manager, _ = add_client(session, role=Role.MANAGER, party_id=None)

    status, code, said = ask(web, f"Bearer {token_of(app, advertiser)}")
    assert (status, code, said["scopes"]) == (403, "forbidden", ["publisher", "manager"])
    assert ask(web, f"Bearer {token_of(app, manager)}")[2]["party"] == ""


def test_a_disabled_or_deleted_client_is_refused_before_its_token_ends(
    app: Starlette, web: TestClient, sqlite_engine: Engine
) -> None:
    with unit_of_work(sqlite_engine) as session:
        disabled, _ = add_client(session)
        deleted, _ = add_client(session)
    headers = [f"Bearer {token_of(app, client)}" for client in (disabled, deleted)]
    assert [ask(web, header)[0] for header in headers] == [200, 200]

    with unit_of_work(sqlite_engine) as session:
        session.add(disabled)
        disabled.disabled_at = NOW
        session.delete(session.get(ApiClient, deleted.id))

    assert [ask(web, header)[0] for header in headers] == [401, 401]


@pytest.mark.parametrize("url", ["sqlite:////nowhere/at/all.db", "postgresql://x@127.0.0.1:1/x"])
def test_a_token_is_enough_while_the_database_is_away(settings: Settings, url: str) -> None:
    engine = connect(url)
    app = make_app(engine, settings)
    client = ApiClient(
        id="cli_1", name="N", secret_hash="", role=Role.PUBLISHER, party_id="p", created_at=NOW
    )
    try:
        with TestClient(app) as web:
            status, _, said = ask(web, f"Bearer {token_of(app, client)}", "/journal")
            assert (status, said["id"]) == (200, "cli_1")
            assert ask(web, "Bearer x", "/journal")[0] == 401
    finally:
        engine.dispose()


def test_nothing_of_a_reading_guard_is_left_open(
    app: Starlette, web: TestClient, sqlite_engine: Engine
) -> None:
    with unit_of_work(sqlite_engine) as session:
        client, _ = add_client(session)
    ask(web, f"Bearer {token_of(app, client)}")

    with reading(sqlite_engine) as session:
        assert session.get(ApiClient, client.id) is not None
    assert sqlite_engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # a QueuePool
