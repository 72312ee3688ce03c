"""`bao operator raft autopilot …`, promote, demote, remove-peer and hand-over
on real nodes; the answers as a real OpenBao gives them."""

import hvac
import pytest

from servers import KIND, Bao, Node
from waiting import await_that

AUTOPILOT = "sys/storage/raft/autopilot/configuration"
DEFAULTS = {
    "cleanup_dead_servers": False,
    "dead_server_last_contact_threshold": "24h0m0s",
    "last_contact_threshold": "10s",
    "max_trailing_logs": 1000,
    "min_quorum": 0,
    "server_stabilization_time": "10s",
}
# What a server of a healthy cluster shows, besides what Holdfast adds when
# there is something to tell.
SERVER_FIELDS = {
    "id",
    "name",
    "address",
    "node_status",
    "last_contact",
    "last_term",
    "last_index",
    "healthy",
    "stable_since",
    "status",
    "version",
    "node_type",
}
GONE = pytest.mark.beyond_openbao("has no such endpoint or field")


def voters(cluster):
    return {name for name, server in cluster.servers().items() if server["voter"]}


def post(cluster, path, body, node=None):
    node = node or cluster.await_active()
    return node.request("POST", f"sys/storage/raft/{path}", cluster.root_token, json=body)


def state(cluster):
    answer = cluster.await_active().request(
        "GET", "sys/storage/raft/autopilot/state", cluster.root_token
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def test_configuration_is_set_field_by_field_through_any_node(fresh_cluster):
    cluster = fresh_cluster()
    active = cluster.await_active()
    bao = Bao(active, cluster.root_token)
    assert bao.json("operator", "raft", "autopilot", "get-config", "-format=json") == DEFAULTS
    bao.run("operator", "raft", "autopilot", "set-config", "-max-trailing-logs=500")
    standby = Bao(cluster.standbys()[0], cluster.root_token)
    flags = ["-cleanup-dead-servers=true", "-dead-server-last-contact-threshold=1m"]
    flags += ["-min-quorum=3", "-last-contact-threshold=5s", "-server-stabilization-time=5s"]
    standby.run("operator", "raft", "autopilot", "set-config", *flags)
    expected = {
        "cleanup_dead_servers": True,
        "dead_server_last_contact_threshold": "1m0s",
        "last_contact_threshold": "5s",
        "max_trailing_logs": 500,
        "min_quorum": 3,
        "server_stabilization_time": "5s",
    }
    for node in cluster.nodes:
        asked = Bao(node, cluster.root_token)
        found = asked.json("operator", "raft", "autopilot", "get-config", "-format=json")
        assert found == expected, node.name
    # Zero keeps what is there: nothing contradicts itself.
    bao.run("operator", "raft", "autopilot", "set-config", "-min-quorum=0")
    # The next leader follows it, too.
    active.kill()
    active = cluster.await_active()
    found = Bao(active, cluster.root_token).json(
        "operator", "raft", "autopilot", "get-config", "-format=json"
    )
    assert found == expected


@pytest.mark.parametrize(
    "body, reason",
    [
        (
            {"cleanup_dead_servers": True},
            "min_quorum must be set when cleanup_dead_servers is set and it should at least be 3; "
            "cleanup_dead_servers: true, min_quorum: 0x0",
        ),
        (
            {
                "cleanup_dead_servers": True,
                "min_quorum": 3,
                "dead_server_last_contact_threshold": 30,
            },
            "dead_server_last_contact_threshold should not be set to less than 1m; received: 30",
        ),
        (
            {"last_contact_threshold": "bogus"},
            'Field validation failed: error converting input for field "last_contact_threshold": '
            'time: invalid duration "bogus"',
        ),
        (
            {"max_trailing_logs": "abc"},
            'Field validation failed: error converting input for field "max_trailing_logs": '
            "'' cannot parse value as 'int': strconv.ParseInt: invalid syntax",
        ),
        (
            {"cleanup_dead_servers": "maybe"},
            'Field validation failed: error converting input for field "cleanup_dead_servers": '
            "'' cannot parse value as 'bool': strconv.ParseBool: invalid syntax",
        ),
    ],
)
def test_configuration_that_makes_no_sense_is_refused(cluster, body, reason):
    answer = cluster.await_active().request("POST", AUTOPILOT, cluster.root_token, json=body)
    assert answer.status_code == 400
    assert answer.json() == {"errors": [reason]}
    found = cluster.await_active().request("GET", AUTOPILOT, cluster.root_token)
    assert found.json()["data"] == DEFAULTS


def test_configuration_knows_no_other_verbs(cluster):
    for node in cluster.nodes:
        answer = node.request("DELETE", AUTOPILOT, cluster.root_token)
        assert answer.status_code == 405
        assert answer.json() == {"errors": ["1 error occurred:\n\t* unsupported operation\n\n"]}
        answer = node.request("GET", "sys/storage/raft/autopilot", cluster.root_token)
        assert answer.status_code == 404, answer.text


def test_strangers_learn_and_change_nothing(cluster):
    before = cluster.servers()
    for node in cluster.nodes:
        for method, path in [
            ("GET", "autopilot/state"),
            ("GET", "autopilot/configuration"),
            ("POST", "autopilot/configuration"),
            ("GET", "configuration"),
            ("POST", "remove-peer"),
            ("POST", "promote"),
            ("POST", "demote"),
        ]:
            for token in (None, "s.stranger"):
                body = {"server_id": "node2", "max_trailing_logs": 1}
                body = body if method == "POST" else None
                answer = node.request(method, f"sys/storage/raft/{path}", token, json=body)
                assert answer.status_code == 403, f"{node.name} {path}: {answer.text}"
                assert answer.json() == {"errors": ["permission denied"]}
    assert cluster.servers() == before


def test_state_of_a_healthy_cluster(cluster, bao):
    await_that("everybody to be healthy", lambda: state(cluster)["healthy"])
    for node in cluster.nodes:
        answer = node.request("GET", "sys/storage/raft/autopilot/state", cluster.root_token)
        shown = answer.json()["data"]
        assert set(shown) == {"failure_tolerance", "healthy", "leader", "servers", "voters"}
        assert shown["failure_tolerance"] == 1
        assert shown["leader"] == cluster.await_active().name
        assert shown["voters"] == ["node1", "node2", "node3"]
        for name, server in shown["servers"].items():
            assert set(server) == SERVER_FIELDS
            assert server["id"] == server["name"] == name
            assert server["status"] == ("leader" if name == shown["leader"] else "voter")
            assert (server["node_status"], server["node_type"]) == ("alive", "voter")
    text = bao.run("operator", "raft", "autopilot", "state")
    assert "Healthy:                         true" in text
    assert "Failure Tolerance:               1" in text


def test_state_tells_that_a_server_is_gone_and_back(fresh_cluster):
    cluster = fresh_cluster()
    assert post(cluster, "autopilot/configuration", {"last_contact_threshold": 2}).status_code == 204
    gone = cluster.standbys()[0]
    gone.kill()
    await_that("the loss", lambda: not state(cluster)["servers"][gone.name]["healthy"])
    shown = state(cluster)
    assert (shown["healthy"], shown["failure_tolerance"]) == (False, 0)
    assert shown["servers"][gone.name]["node_status"] == "alive", "not yet given up"
    gone.start()
    gone.unseal(cluster.keys[:3])
    await_that("its return", lambda: state(cluster)["healthy"])
    assert state(cluster)["failure_tolerance"] == 1


def test_votes_are_taken_and_given(fresh_cluster):
    cluster = fresh_cluster()
    bao = Bao(cluster.await_active(), cluster.root_token)
    standby = cluster.standbys()[0]
    bao.run("operator", "raft", "demote", standby.name)
    await_that("two voters", lambda: voters(cluster) == {n.name for n in cluster.nodes} - {standby.name})
    await_that("the state to tell", lambda: state(cluster).get("non_voters") == [standby.name])
    assert state(cluster)["servers"][standby.name]["node_type"] == "non-voter"
    bao.run("operator", "raft", "promote", standby.name)
    cluster.await_voters(3)
    for command in ("promote", "demote"):
        refusal = bao.run("operator", "raft", command, "nope", code=2)
        assert "server nope not found in raft configuration" in refusal
        answer = post(cluster, command, {})
        assert (answer.status_code, answer.json()) == (400, {"errors": ["no server id provided"]})
        answer = post(cluster, command, {"server_id": "nope"})
        assert answer.status_code == 500
        expected = "1 error occurred:\n\t* server nope not found in raft configuration\n\n"
        assert answer.json() == {"errors": [expected]}


@pytest.mark.beyond_openbao("answers 500 to what is so already")
def test_votes_taken_or_given_twice_are_fine(fresh_cluster):
    cluster = fresh_cluster()
    standby = cluster.standbys()[0]
    for command, count in (("demote", 2), ("promote", 3)):
        for node in [*cluster.nodes, cluster.await_active()]:
            answer = post(cluster, command, {"server_id": standby.name}, node)
            assert answer.status_code == 204, f"{command} through {node.name}: {answer.text}"
        assert len(voters(cluster)) == count


@pytest.mark.beyond_openbao("demotes a leader that goes on leading")
def test_demoted_leader_hands_over_first(fresh_cluster):
    cluster = fresh_cluster()
    cluster.mount_kv()
    leader = cluster.await_active()
    answer = post(cluster, "demote", {"server_id": leader.name}, leader)
    assert answer.status_code == 204, answer.text
    assert cluster.await_active() is not leader
    assert leader.name not in voters(cluster)
    written = leader.request("PUT", "kv/x", cluster.root_token, json={"v": 1})
    assert written.status_code == 204, written.text


def test_permanent_non_voter_is_never_promoted(fresh_cluster, tmp_path):
    cluster = fresh_cluster(size=1)
    stabilization = {"server_stabilization_time": "1s"}
    assert post(cluster, "autopilot/configuration", stabilization).status_code == 204
    joiner = Node("joiner", tmp_path)
    cluster.nodes.append(joiner.start())
    first = cluster.nodes[0]
    Bao(joiner).run("operator", "raft", "join", "-non-voter", first.address)
    joiner.unseal(cluster.keys[:3])
    await_that(
        "the joiner to be healthy",
        lambda: state(cluster)["servers"].get("joiner", {}).get("healthy"),
    )
    stable = 3

    def still_no_voter():
        assert voters(cluster) == {"node1"}
        shown = state(cluster)["servers"]["joiner"]
        assert (shown["status"], shown["node_type"]) == ("non-voter", "non-voter")
        return True

    import time

    end = time.monotonic() + stable
    while time.monotonic() < end:
        assert still_no_voter()
        time.sleep(0.2)
    Bao(first, cluster.root_token).run("operator", "raft", "promote", "joiner")
    cluster.await_voters(2)


@GONE
def test_removal_that_would_cost_the_quorum_is_refused_with_the_forecast(fresh_cluster):
    cluster = fresh_cluster()
    dead, living = cluster.standbys()
    dead.kill()

    def forecast():
        body = {"server_id": living.name, "dry_run": True}
        answer = post(cluster, "remove-peer", body)
        assert answer.status_code == 200, answer.text
        told = answer.json()["data"]
        return told if not told["allowed"] else None

    told = await_that("the loss to be noticed", forecast)
    assert told["before"] == {
        "voters": 3,
        "voters_in_contact": 2,
        "quorum": 2,
        "failure_tolerance": 0,
    }
    assert told["after"]["voters_in_contact"] == 1
    refused = post(cluster, "remove-peer", {"server_id": living.name})
    assert refused.status_code == 400
    assert "would lose its quorum: 1 of 2 voters" in refused.json()["errors"][0]
    assert len(voters(cluster)) == 3
    # The dead one may go, and then the living one costs nothing.
    assert post(cluster, "remove-peer", {"server_id": dead.name}).status_code == 204
    assert post(cluster, "remove-peer", {"server_id": living.name}).status_code == 204
    assert voters(cluster) == {cluster.await_active().name}


@GONE
def test_leadership_is_handed_to_a_named_node(fresh_cluster):
    cluster = fresh_cluster()
    for node in [*cluster.standbys(), cluster.await_active()]:
        answer = post(cluster, "transfer-leader", {"server_id": node.name}, cluster.nodes[0])
        assert answer.status_code == 204, answer.text
        await_that(f"{node.name} to lead", lambda: cluster.await_active() is node)
    answer = post(cluster, "transfer-leader", {"server_id": "nope"})
    assert answer.status_code == 500
    before = cluster.await_active()
    assert post(cluster, "transfer-leader", {}).status_code == 204
    await_that("another leader", lambda: cluster.await_active() is not before)
    for method, token in (("GET", cluster.root_token), ("POST", None)):
        path = "sys/storage/raft/transfer-leader"
        assert cluster.await_active().request(method, path, token).status_code in (403, 405)


@GONE
def test_leader_removes_itself_after_handing_over(fresh_cluster):
    cluster = fresh_cluster()
    leader = cluster.await_active()
    answer = post(cluster, "remove-peer", {"server_id": leader.name}, leader)
    assert answer.status_code == 204, answer.text
    await_that("the removed node to know it", lambda: leader.health() == 530)
    assert leader.seal_status()["removed_from_cluster"] is True
    assert leader.name not in cluster.servers()
    assert len(voters(cluster)) == 2


@pytest.mark.skipif(KIND == "openbao", reason="takes minutes there")
def test_dead_server_is_removed_and_the_floor_kept(fresh_cluster):
    cluster = fresh_cluster(size=4)
    body = {
        "cleanup_dead_servers": True,
        "dead_server_last_contact_threshold": "1m",
        "min_quorum": 3,
    }
    assert post(cluster, "autopilot/configuration", body).status_code == 204
    first, second = cluster.standbys()[:2]
    first.kill()
    await_that("the dead server to go", lambda: first.name not in cluster.servers(), seconds=90)
    assert len(voters(cluster)) == 3
    second.kill()
    await_that(
        "the second to be given up",
        lambda: state(cluster)["servers"][second.name]["node_status"] == "left",
        seconds=90,
    )
    assert len(voters(cluster)) == 3, "min_quorum"


def test_hvac_knows_these_calls(fresh_cluster):
    cluster = fresh_cluster()
    for node in cluster.nodes:
        client = hvac.Client(url=node.address, token=cluster.root_token)
        servers = client.sys.read_raft_config()["data"]["config"]["servers"]
        assert sorted(server["node_id"] for server in servers) == ["node1", "node2", "node3"]
        if hasattr(client.sys, "read_raft_auto_snapshot_status"):
            with pytest.raises(hvac.exceptions.InvalidPath):
                client.sys.read_raft_auto_snapshot_status("nightly")
