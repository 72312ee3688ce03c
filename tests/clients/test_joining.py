"""How joining goes and who may: the status a node gives of itself, discovery,
identities and addresses. Beyond OpenBao, which has none of it."""

import pytest

from servers import Bao, Cluster, Node, free_port, program_of, start_process
from waiting import await_that

pytestmark = pytest.mark.beyond_openbao("has no join status and does not check identities")

JOIN = "sys/storage/raft/join"


def status(node):
    answer = node.request("GET", f"{JOIN}/status")
    assert answer.status_code == 200, answer.text
    return answer.json()


def failures(node):
    return {t["leader_api_addr"]: t["last_error_kind"] for t in status(node)["targets"]}


@pytest.fixture
def joiner(fresh_cluster, tmp_path):
    """A cluster of one, and a node that is to join it."""
    cluster = fresh_cluster(size=1)
    node = Node("joiner", tmp_path)
    cluster.nodes.append(node.start())
    return cluster, node


def test_status_follows_a_join(joiner):
    cluster, node = joiner
    first = cluster.nodes[0]
    shown = status(node)
    assert (shown["phase"], shown["targets"]) == ("not_joining", [])
    Bao(node).run("operator", "raft", "join", first.address)
    shown = status(node)
    assert shown["phase"] == "waiting_for_shares"
    [target] = shown["targets"]
    assert target["leader_api_addr"] == first.address
    assert (target["attempts"], target["last_error"]) == (1, None)
    node.unseal(cluster.keys[:3])
    await_that("the end", lambda: status(node)["phase"] == "joined")
    progress = status(node)["progress"]
    assert 0 < progress["applied_index"] <= progress["commit_index"]
    # The one that was there first has nothing to tell.
    assert status(first)["phase"] == "joined"
    assert node.request("POST", f"{JOIN}/status").status_code == 405


def test_status_names_why_each_target_failed(fresh_cluster, tmp_path, tls):
    cluster = Cluster(tmp_path / "sealed", size=1, tls=tls)
    node = fresh_cluster(size=1, formed=False).nodes[0].start()
    with_tls = cluster.nodes[0]
    try:
        with_tls.start()
        cluster.initialise(1, 1)
        ca = tls.certificate.read_text()
        nobody = f"http://127.0.0.1:{free_port()}"
        for body, address, kind in (
            ({"leader_api_addr": nobody}, nobody, "tcp"),
            (
                {"leader_api_addr": "http://nobody.invalid:8200"},
                "http://nobody.invalid:8200",
                "dns",
            ),
            ({"leader_api_addr": with_tls.address}, with_tls.address, "tls"),
            (
                {
                    "leader_api_addr": with_tls.address,
                    "leader_ca_cert": ca,
                    "leader_tls_servername": "other.example",
                },
                with_tls.address,
                "tls_name",
            ),
            (
                {"leader_api_addr": with_tls.address, "leader_ca_cert": ca},
                with_tls.address,
                "sealed",
            ),
        ):
            answer = node.request("POST", JOIN, json=body)
            assert answer.status_code == 500, answer.text
            assert failures(node)[address] == kind, status(node)
    finally:
        cluster.stop_all()
    assert status(node)["phase"] == "not_joining"
    assert node.health() == 501


def test_retry_answers_at_once_and_joins_when_there_is_somebody(fresh_cluster, tmp_path):
    cluster = fresh_cluster(size=1)
    first = cluster.nodes[0]
    first.kill()
    node = Node("joiner", tmp_path)
    cluster.nodes.append(node.start())
    answer = Bao(node).json("operator", "raft", "join", "-retry", "-format=json", first.address)
    assert answer == {"joined": False}
    await_that("the failure", lambda: failures(node).get(first.address) == "tcp")
    shown = status(node)
    assert (shown["phase"], shown["retry"]) == ("searching", True)
    first.start()
    await_that("that it is sealed", lambda: failures(node)[first.address] == "sealed")
    first.unseal(cluster.keys[:3])
    await_that("a challenge", lambda: status(node)["phase"] == "waiting_for_shares")
    node.unseal(cluster.keys[:3])
    cluster.await_voters(2)


def test_members_are_found_by_name(joiner):
    cluster, node = joiner
    first = cluster.nodes[0]
    body = {
        "auto_join": "provider=dns name='localhost'",
        "auto_join_scheme": "http",
        "auto_join_port": first.port,
    }
    answer = node.request("POST", JOIN, json=body)
    assert answer.json() == {"joined": True}, answer.text
    node.unseal(cluster.keys[:3])
    cluster.await_voters(2)


@pytest.mark.parametrize(
    "auto_join, reason",
    [
        ("provider=nope", "discover: unknown provider nope"),
        ("nope", "discover: word 1: missing '='"),
        ("provider=dns nmae=x", "discover-dns: unknown key nmae"),
        ("provider=dns name=nobody.invalid", "discover-dns: "),
    ],
)
def test_discovery_that_cannot_work_says_why(fresh_cluster, auto_join, reason):
    node = fresh_cluster(size=1, formed=False).nodes[0].start()
    answer = node.request("POST", JOIN, json={"auto_join": auto_join})
    assert answer.status_code == 500
    [text] = answer.json()["errors"]
    assert text.startswith("failed to join raft cluster: failed to get raft challenge")
    assert reason in text


def test_stanza_with_an_unknown_provider_is_refused_at_the_start(tmp_path):
    node = Node("joiner", tmp_path)
    stanza = '  retry_join {\n    auto_join = "provider=nope"\n  }\n}\nlistener'
    node.config.write_text(node.config.read_text().replace("}\nlistener", stanza, 1))
    with node.log.open("ab") as log:
        process = start_process([program_of(node.kind), "server", f"-config={node.config}"], log)
    assert process.wait(timeout=30) == 1
    assert "discover: unknown provider nope" in node.log_tail()


def test_name_of_a_live_member_is_refused_with_its_address(fresh_cluster, tmp_path):
    cluster = fresh_cluster(size=2)
    twin = Node("node2", tmp_path)
    cluster.nodes.append(twin.start())
    first, second = cluster.nodes[:2]
    answer = twin.request("POST", JOIN, json={"leader_api_addr": first.address})
    assert answer.json() == {"joined": True}, answer.text
    for key in cluster.keys[:3]:
        answer = twin.request("PUT", "sys/unseal", json={"key": key})
    assert answer.status_code >= 400
    assert "in use by a live member" in answer.text
    assert second.cluster_address in answer.text
    assert cluster.servers()["node2"]["address"] == second.cluster_address
    assert second.health() == 429


def test_member_that_moved_is_found_at_its_new_address(fresh_cluster):
    cluster = fresh_cluster()
    cluster.mount_kv()
    moved = cluster.standbys()[0]
    old = moved.cluster_address
    moved.kill()
    moved.cluster_port = free_port()
    moved.cluster_address = f"127.0.0.1:{moved.cluster_port}"
    moved.config.write_text(moved.config.read_text().replace(old, moved.cluster_address))
    moved.start()
    moved.unseal(cluster.keys[:3])
    await_that(
        "the membership to follow",
        lambda: cluster.servers()[moved.name]["address"] == moved.cluster_address,
    )
    assert cluster.servers()[moved.name]["voter"]
    answer = moved.request("PUT", "kv/x", cluster.root_token, json={"v": "1"})
    assert answer.status_code == 204, answer.text


def test_removed_node_says_so(fresh_cluster):
    cluster = fresh_cluster()
    removed = cluster.standbys()[0]
    active = cluster.await_active()
    body = {"server_id": removed.name}
    answer = active.request("POST", "sys/storage/raft/remove-peer", cluster.root_token, json=body)
    assert answer.status_code == 204, answer.text
    await_that("it to know", lambda: removed.health() == 530)
    assert removed.seal_status()["removed_from_cluster"] is True
    assert status(removed)["phase"] == "removed"
    # Also after a restart, before it could ask anybody.
    removed.kill()
    removed.start()
    assert removed.health() == 530
    assert removed.request("GET", "sys/health?removedcode=299").status_code == 299
    answer = removed.request("POST", JOIN, json={"leader_api_addr": active.address})
    assert answer.status_code == 500
    assert "was removed from its cluster" in answer.text
