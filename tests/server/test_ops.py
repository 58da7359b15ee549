import pytest
from starlette.testclient import TestClient

from kernel.settings import Settings
from server import app


@pytest.mark.usefixtures("sqlite_url")
def test_a_process_that_can_record_is_ready(settings: Settings) -> None:
    with TestClient(app.build(settings)) as client:
        health, readiness = client.get("/healthz"), client.get("/readyz")

    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    assert readiness.status_code == 200
    assert {**readiness.json(), "routing_version": 0} == {
        "status": "ok",
        "database": "ok",
        "journal": "ready",
        "routing_version": 0,
        "click_front": "asgi",
    }


@pytest.mark.usefixtures("sqlite_url")
def test_without_its_database_a_process_still_records_and_says_so(settings: Settings) -> None:
    with TestClient(app.build(settings)):
        pass  # which saves what links need to know
    away = Settings(
        data_dir=settings.data_dir,
        secret=settings.secret,
        database_url="postgresql://x@127.0.0.1:1/x",
    )

    with TestClient(app.build(away)) as client:
        readiness, metrics = client.get("/readyz"), client.get("/metrics")

    assert (readiness.status_code, readiness.json()["status"]) == (200, "degraded")
    assert readiness.json()["database"] == "unreachable"
    assert "tallystick_database_reachable 0.0" in metrics.text


@pytest.mark.usefixtures("sqlite_url")
def test_metrics_are_those_of_the_reference(settings: Settings) -> None:
    with TestClient(app.build(settings)) as client:
        answer = client.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain")
    assert "tallystick_database_reachable 1.0" in answer.text
    assert "tallystick_journal_backlog_bytes 0.0" in answer.text
