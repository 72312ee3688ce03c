"""The same life of a cluster through hvac 2.4.0, the Python client."""

import hvac
import pytest

from waiting import await_that

SECRET = {"user": "alice", "nested": {"list": [1, "two", None]}}


def client_of(node, token=None):
    return hvac.Client(url=node.address, token=token, verify=node.verify)


def test_init_unseal_join_and_remove(fresh_cluster):
    cluster = fresh_cluster(formed=False)
    first, *others = cluster.nodes
    client = client_of(first.start())
    assert client.sys.is_initialized() is False
    result = client.sys.initialize(secret_shares=5, secret_threshold=3)
    assert len(result["keys"]) == len(result["keys_base64"]) == 5
    assert client.sys.is_initialized() is True
    assert client.sys.is_sealed() is True
    assert client.sys.submit_unseal_key(result["keys"][0])["progress"] == 1
    assert client.sys.submit_unseal_key(reset=True)["progress"] == 0
    client.sys.submit_unseal_keys(result["keys"][:3])
    assert client.sys.is_sealed() is False
    cluster.keys, cluster.root_token = result["keys_base64"], result["root_token"]
    cluster.await_active()
    client.token = cluster.root_token
    assert client.is_authenticated()
    for node in others:
        joiner = client_of(node.start())
        answer = joiner.sys.join_raft_cluster(leader_api_addr=first.address)
        assert answer == {"joined": True}
        joiner.sys.submit_unseal_keys(result["keys"][1:4])
        await_that(f"{node.name} unsealed", lambda: joiner.sys.is_sealed() is False)
    cluster.await_voters(3)
    servers = client.sys.read_raft_config()["data"]["config"]["servers"]
    assert sorted(server["node_id"] for server in servers) == ["node1", "node2", "node3"]
    client.sys.remove_raft_node(server_id="node3")
    await_that("two servers", lambda: len(cluster.servers()) == 2)
    leader = client.sys.read_leader_status()
    assert leader["ha_enabled"] is True and leader["leader_address"] == first.address
    client.sys.seal()
    assert client.sys.is_sealed() is True


def test_key_values_through_every_node(cluster):
    for writer in cluster.nodes:
        kv = client_of(writer, cluster.root_token).secrets.kv.v1
        kv.create_or_update_secret("hvac/x", secret={**SECRET, "by": writer.name}, mount_point="kv")
        for reader in cluster.nodes:
            other = client_of(reader, cluster.root_token).secrets.kv.v1
            found = other.read_secret("hvac/x", mount_point="kv")
            assert found["data"] == {**SECRET, "by": writer.name}
            listed = other.list_secrets("hvac", mount_point="kv")
            assert listed["data"]["keys"] == ["x"]
        kv.delete_secret("hvac/x", mount_point="kv")
        with pytest.raises(hvac.exceptions.InvalidPath):
            kv.read_secret("hvac/x", mount_point="kv")


def test_generic_read_write_list_delete(cluster):
    client = client_of(cluster.await_active(), cluster.root_token)
    client.write_data("kv/generic/a", data=SECRET)
    assert client.read("kv/generic/a")["data"] == SECRET
    assert client.list("kv/generic")["data"]["keys"] == ["a"]
    client.delete("kv/generic/a")
    assert client.read("kv/generic/a") is None
    assert client.list("kv/generic") is None


def test_mounts(cluster):
    client = client_of(cluster.await_active(), cluster.root_token)
    client.sys.enable_secrets_engine("kv", path="by-hvac", options={"version": "1"})
    assert "by-hvac/" in client.sys.list_mounted_secrets_engines()["data"]
    client.sys.disable_secrets_engine("by-hvac")
    assert "by-hvac/" not in client.sys.list_mounted_secrets_engines()["data"]


def test_health_of_each_role(cluster):
    active = client_of(cluster.await_active()).sys.read_health_status(method="GET")
    assert (active["initialized"], active["sealed"], active["standby"]) == (True, False, False)
    for node in cluster.standbys():
        # hvac parses only a 200; every other answer is handed on as it is.
        standby = client_of(node).sys.read_health_status(method="GET")
        assert standby.status_code == 429
        assert (standby.json()["sealed"], standby.json()["standby"]) == (False, True)


def snapshot_and_restore(node, token):
    client = client_of(node, token)
    client.secrets.kv.v1.create_or_update_secret("snap", secret={"v": "before"}, mount_point="kv")
    archive = client.sys.take_raft_snapshot().content
    client.secrets.kv.v1.create_or_update_secret("snap", secret={"v": "after"}, mount_point="kv")
    client.sys.restore_raft_snapshot(archive)

    def value():
        return client.secrets.kv.v1.read_secret("snap", mount_point="kv")["data"]

    await_that("the old value", lambda: value() == {"v": "before"})


def test_snapshot_and_restore_through_the_active_node(cluster):
    snapshot_and_restore(cluster.await_active(), cluster.root_token)
    cluster.await_voters(3)


@pytest.mark.beyond_openbao("a restore sent to a standby is redirected")
def test_snapshot_and_restore_through_a_standby(cluster):
    snapshot_and_restore(cluster.standbys()[0], cluster.root_token)


def test_wrong_token_is_forbidden(cluster):
    with pytest.raises(hvac.exceptions.Forbidden):
        client_of(cluster.await_active(), "s.wrong").read("kv/x")
