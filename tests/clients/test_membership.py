"""Joins, peers, leadership: `bao operator raft …` on real nodes."""

import shutil
import threading
import time

import pytest

from servers import Bao, Node
from waiting import await_that


def peers(bao):
    """Name → (state, voter) as `list-peers` shows them."""
    servers = bao.json("operator", "raft", "list-peers", "-format=json")["data"]["config"]["servers"]
    return {server["node_id"]: (server["leader"], server["voter"]) for server in servers}


def wipe(node):
    shutil.rmtree(node.data)
    node.data.mkdir()


def await_value(cluster, node, path, value):
    """The value through one node, which may first have to learn of its leader;
    another value is wrong at once."""

    def found():
        answer = node.request("GET", path, cluster.root_token)
        return answer if answer.status_code < 500 else None

    answer = await_that(f"{node.name} to serve {path}", found)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"] == value


def test_two_nodes_join_and_become_voters(fresh_cluster):
    cluster = fresh_cluster(formed=False)
    first, *others = cluster.nodes
    answer = Bao(first.start()).json(
        "operator", "init", "-key-shares=5", "-key-threshold=3", "-format=json"
    )
    cluster.keys, cluster.root_token = answer["unseal_keys_b64"], answer["root_token"]
    for key in cluster.keys[:3]:
        Bao(first).run("operator", "unseal", key)
    cluster.await_active()
    root = Bao(first, cluster.root_token)
    assert peers(root) == {"node1": (True, True)}
    for node in others:
        bao = Bao(node.start())
        assert bao.json("operator", "raft", "join", "-format=json", first.address) == {"joined": True}
        assert bao.json("status", "-format=json", code=2)["t"] == 3
        for key in cluster.keys[1:4]:
            bao.run("operator", "unseal", key)
        await_that(f"{node.name} as a standby", lambda: node.health() == 429)
    cluster.await_voters(3)
    assert peers(root) == {"node1": (True, True), "node2": (False, True), "node3": (False, True)}
    # Every node tells the same, and knows the leader.
    for node in others:
        assert peers(Bao(node, cluster.root_token)) == peers(root)
        assert node.request("GET", "sys/leader").json()["leader_address"] == first.address
        assert Bao(node).json("status", "-format=json")["sealed"] is False


def test_join_with_wrong_shares_does_not_join(fresh_cluster, tmp_path):
    cluster = fresh_cluster(size=1)
    stranger = fresh_cluster(size=1)
    joiner = Node("joiner", tmp_path)
    cluster.nodes.append(joiner.start())
    body = {"leader_api_addr": cluster.nodes[0].address}
    assert joiner.request("POST", "sys/storage/raft/join", json=body).status_code == 200
    for key in stranger.keys[:3]:
        answer = joiner.request("PUT", "sys/unseal", json={"key": key})
    assert answer.status_code in (400, 500), answer.text
    assert joiner.health() in (501, 503)
    assert list(cluster.servers()) == ["node1"]
    # The right ones are still taken.
    joiner.unseal(cluster.keys[:3])
    cluster.await_voters(2)


def test_join_to_nobody_names_the_failure(fresh_cluster):
    node = fresh_cluster(size=1, formed=False).nodes[0].start()
    refusal = Bao(node).run("operator", "raft", "join", "http://127.0.0.1:1", code=2)
    assert "failed to join raft cluster" in refusal
    assert node.health() == 501


def test_retry_join_from_the_configuration(fresh_cluster, tmp_path):
    cluster = fresh_cluster(size=1)
    first = cluster.nodes[0]
    joiner = Node("joiner", tmp_path)
    stanza = f'  retry_join {{\n    leader_api_addr = "{first.address}"\n  }}\n}}\nlistener'
    joiner.config.write_text(joiner.config.read_text().replace("}\nlistener", stanza, 1))
    cluster.nodes.append(joiner.start())
    await_that("the joiner to know the cluster's seal", lambda: joiner.seal_status()["t"] == 3)
    joiner.unseal(cluster.keys[:3])
    cluster.await_voters(2)


def test_step_down_hands_over_and_every_node_keeps_serving(fresh_cluster):
    cluster = fresh_cluster()
    cluster.mount_kv()
    before = cluster.await_active()
    bao = Bao(before, cluster.root_token)
    bao.run("kv", "put", "kv/kept", "a=1")
    assert "Success! Stepped down" in bao.run("operator", "step-down")

    def other():
        active = cluster.await_active()
        return active if active is not before else None

    await_that("another active node", other)
    for node in cluster.nodes:
        await_value(cluster, node, "kv/kept", {"a": "1"})
        written = node.request("PUT", f"kv/by-{node.name}", cluster.root_token, json={"b": "2"})
        assert written.status_code == 204, f"through {node.name}: {written.text}"


class Writer(threading.Thread):
    """Writes through one node without a pause, and keeps what was not a success."""

    def __init__(self, node, token):
        super().__init__()
        self.node, self.token = node, token
        self.stopping = threading.Event()
        self.written, self.failures, self.longest = 0, [], 0.0

    def run(self):
        while not self.stopping.is_set():
            began = time.monotonic()
            path = f"kv/{self.node.name}/{self.written % 10}"
            body = {"count": str(self.written)}
            try:
                answer = self.node.request("PUT", path, self.token, json=body)
                if answer.status_code != 204:
                    self.failures.append(f"{answer.status_code} {answer.text}")
            except Exception as error:
                self.failures.append(repr(error))
            self.longest = max(self.longest, time.monotonic() - began)
            self.written += 1


def test_no_write_fails_while_leadership_is_handed_over(fresh_cluster):
    cluster = fresh_cluster()
    cluster.mount_kv()
    writers = [Writer(node, cluster.root_token) for node in cluster.nodes for _ in range(4)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(5):
            before = cluster.await_active()
            count = sum(writer.written for writer in writers)
            answer = before.request("PUT", "sys/step-down", cluster.root_token)
            assert answer.status_code == 204, answer.text

            def moved():
                return cluster.await_active() is not before

            await_that("another active node", moved)
            more = lambda: sum(writer.written for writer in writers) > count + 50
            await_that("writes to go on", more)
    finally:
        for writer in writers:
            writer.stopping.set()
        for writer in writers:
            writer.join()
    for writer in writers:
        print(f"{writer.node.name}: {writer.written} writes, the longest {writer.longest:.3f} s")
    assert [failure for writer in writers for failure in writer.failures] == []


def test_step_down_needs_a_token(cluster):
    active = cluster.await_active()
    assert active.request("PUT", "sys/step-down").status_code in (400, 403)
    assert cluster.await_active() is active


def test_removed_peer_is_gone_and_comes_back_with_an_empty_directory(fresh_cluster):
    cluster = fresh_cluster()
    cluster.mount_kv()
    active = cluster.await_active()
    removed = cluster.standbys()[0]
    bao = Bao(active, cluster.root_token)
    bao.run("kv", "put", "kv/kept", "a=1")
    assert "Peer removed successfully!" in bao.run("operator", "raft", "remove-peer", removed.name)
    await_that("two peers", lambda: removed.name not in peers(bao) and len(peers(bao)) == 2)
    bao.run("kv", "put", "kv/kept", "a=2")
    removed.kill()
    wipe(removed)
    removed.start()
    body = {"leader_api_addr": active.address}
    joined = removed.request("POST", "sys/storage/raft/join", json=body)
    assert joined.json() == {"joined": True}, joined.text
    removed.unseal(cluster.keys[:3])
    cluster.await_voters(3)
    answer = removed.request("GET", "kv/kept", cluster.root_token)
    assert answer.json()["data"] == {"a": "2"}


def test_removed_peer_serves_nothing_stale(fresh_cluster):
    cluster = fresh_cluster()
    cluster.mount_kv()
    token = cluster.root_token
    active = cluster.await_active()
    removed = cluster.standbys()[0]
    active.request("PUT", "kv/x", token, json={"v": "old"})
    active.request("PUT", "sys/storage/raft/remove-peer", token, json={"server_id": removed.name})
    await_that("the removal", lambda: removed.name not in cluster.servers())
    assert active.request("PUT", "kv/x", token, json={"v": "new"}).status_code == 204
    answer = removed.request("GET", "kv/x", token)
    assert answer.status_code >= 400 or answer.json()["data"] == {"v": "new"}, answer.text


def test_removing_an_unknown_peer_changes_nothing(cluster, bao):
    before = peers(bao)
    bao.run("operator", "raft", "remove-peer", "nobody")
    assert peers(bao) == before
    answer = cluster.await_active().request(
        "POST", "sys/storage/raft/remove-peer", cluster.root_token, json={}
    )
    assert answer.status_code == 400
    assert answer.json()["errors"]


def test_killed_leader_is_replaced_and_returns_as_a_standby(fresh_cluster):
    cluster = fresh_cluster()
    cluster.mount_kv()
    killed = cluster.await_active()
    killed.request("PUT", "kv/kept", cluster.root_token, json={"a": "1"})
    killed.kill()
    active = cluster.await_active()
    assert active is not killed
    answer = active.request("PUT", "kv/after", cluster.root_token, json={"a": "2"})
    assert answer.status_code == 204, answer.text
    killed.start()
    killed.unseal(cluster.keys[:3])
    for path, value in (("kv/kept", "1"), ("kv/after", "2")):
        await_value(cluster, killed, path, {"a": value})


def test_without_a_quorum_nothing_is_acknowledged(fresh_cluster):
    cluster = fresh_cluster()
    cluster.mount_kv()
    token = cluster.root_token
    active = cluster.await_active()
    assert active.request("PUT", "kv/x", token, json={"v": "quorum"}).status_code == 204
    for node in cluster.standbys():
        node.kill()
    answer = active.request("PUT", "kv/x", token, json={"v": "alone"}, timeout=60)
    assert answer.status_code >= 500, answer.text
    for node in cluster.nodes:
        if node is not active:
            node.start()
            node.unseal(cluster.keys[:3])
    cluster.await_active()
    # The refused write may have happened; anything else must not.
    found = active.request("GET", "kv/x", token).json()["data"]
    assert found in ({"v": "quorum"}, {"v": "alone"})
    for node in cluster.nodes:
        assert node.request("GET", "kv/x", token).json()["data"] == found


@pytest.mark.beyond_openbao("a removed node that comes back over its old data is not told")
def test_removed_peer_with_its_old_data_does_not_disturb(fresh_cluster):
    cluster = fresh_cluster()
    cluster.mount_kv()
    active = cluster.await_active()
    removed = cluster.standbys()[0]
    Bao(active, cluster.root_token).run("operator", "raft", "remove-peer", removed.name)
    await_that("the removal", lambda: removed.name not in cluster.servers())
    removed.kill()
    removed.start()
    for key in cluster.keys[:3]:
        removed.request("PUT", "sys/unseal", json={"key": key})
    for number in range(50):
        answer = active.request("PUT", "kv/x", cluster.root_token, json={"n": number})
        assert answer.status_code == 204, answer.text
    assert active.health() == 200
