import pytest
from fastapi.testclient import TestClient

from serve.app import api


@pytest.fixture
def client():
    return TestClient(api, raise_server_exceptions=False)


def test_an_unknown_route_is_answered_in_openais_shape(client):
    answer = client.get("/v1/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"].startswith("req_")


def test_a_fault_is_answered_in_openais_shape_and_says_nothing_of_the_request(client):
    def fail():
        raise RuntimeError("the patient takes losartan")

    routes = list(api.router.routes)
    api.add_api_route("/fault", fail)
    try:
        answer = client.get("/fault")
    finally:
        api.router.routes[:] = routes
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "losartan" not in answer.text
    assert answer.headers["x-request-id"].startswith("req_")
