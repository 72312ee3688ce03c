"""A cluster whose API speaks TLS."""

import requests
import pytest

from servers import Bao


@pytest.fixture
def cluster(fresh_cluster, tls):
    cluster = fresh_cluster(tls=tls)
    cluster.mount_kv()
    return cluster


def test_three_nodes_over_tls(cluster, tmp_path):
    for node in cluster.nodes:
        bao = Bao(node, cluster.root_token)
        bao.run("kv", "put", f"kv/{node.name}", "a=1")
        assert bao.json("kv", "get", "-format=json", f"kv/{node.name}")["data"] == {"a": "1"}
    bao = Bao(cluster.await_active(), cluster.root_token)
    bao.run("operator", "raft", "snapshot", "save", tmp_path / "s.snap")
    bao.run("operator", "raft", "snapshot", "restore", tmp_path / "s.snap")


def test_client_without_the_authority_refuses_the_server(cluster):
    bao = Bao(cluster.await_active(), cluster.root_token)
    del bao.environment["BAO_CACERT"]
    assert "certificate" in bao.run("kv", "get", "kv/x", code=2)


def test_plain_http_on_the_tls_port_is_refused(cluster):
    node = cluster.await_active()
    plain = node.address.replace("https", "http")
    try:
        answer = requests.get(f"{plain}/v1/sys/health", timeout=10)
        assert answer.status_code == 400
    except requests.exceptions.ConnectionError:
        pass
    assert node.health() == 200


def test_join_without_the_authority_is_refused(cluster, fresh_cluster, tls):
    joiner = fresh_cluster(size=1, formed=False, tls=tls).nodes[0].start()
    body = {"leader_api_addr": cluster.await_active().address}
    answer = joiner.request("POST", "sys/storage/raft/join", json=body)
    assert answer.status_code == 500
    assert "failed to join raft cluster" in answer.json()["errors"][0]
