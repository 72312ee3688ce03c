"""`bao operator init`, `unseal`, `seal`, `status` on one node, step by step."""

import re

import pytest

from servers import Bao
from waiting import await_that


@pytest.fixture
def node(fresh_cluster):
    """A started, uninitialised node and its CLI."""
    cluster = fresh_cluster(size=1, formed=False)
    node = cluster.nodes[0].start()
    return node


def initialise(bao):
    answer = bao.json("operator", "init", "-key-shares=5", "-key-threshold=3", "-format=json")
    assert len(answer["unseal_keys_b64"]) == 5
    assert answer["unseal_threshold"] == 3
    return answer["unseal_keys_b64"], answer["root_token"]


def progress(bao, *arguments):
    status = bao.json("operator", "unseal", "-format=json", *arguments)
    return status["sealed"], status["progress"], status["t"]


def test_status_exit_codes_tell_sealed_unsealed_and_unreachable(node):
    bao = Bao(node)
    assert bao.json("status", "-format=json", code=2)["initialized"] is False
    bao.run("operator", "init", "-status", code=2)
    keys, _ = initialise(bao)
    bao.run("operator", "init", "-status")
    assert bao.json("status", "-format=json", code=2)["sealed"] is True
    for key in keys[:3]:
        bao.run("operator", "unseal", key)
    await_that("an active node", lambda: node.health() == 200)
    status = bao.json("status", "-format=json")
    assert (status["initialized"], status["sealed"]) == (True, False)
    assert (status["t"], status["n"], status["storage_type"]) == (3, 5, "raft")
    node.stop()
    bao.run("status", code=1)


def test_init_twice_is_refused(node):
    bao = Bao(node)
    initialise(bao)
    refusal = bao.run("operator", "init", "-key-shares=5", "-key-threshold=3", code=2)
    assert "Vault is already initialized" in refusal


@pytest.mark.parametrize(
    "shares, threshold", [(0, 0), (1, 2), (2, 1), (5, 0), (256, 3), (-1, -1)]
)
def test_init_with_senseless_numbers_is_refused_and_changes_nothing(node, shares, threshold):
    body = {"secret_shares": shares, "secret_threshold": threshold}
    answer = node.request("PUT", "sys/init", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["errors"]
    assert node.health() == 501


def test_unseal_before_init_is_refused(node):
    refusal = Bao(node).run("operator", "unseal", "A" * 44, code=2)
    assert "Vault is not initialized" in refusal


def test_unseal_counts_shares_ignores_duplicates_and_resets(node):
    bao = Bao(node)
    keys, token = initialise(bao)
    assert progress(bao, keys[0]) == (True, 1, 3)
    assert progress(bao, keys[0]) == (True, 1, 3)
    assert progress(bao, keys[3]) == (True, 2, 3)
    assert progress(bao, "-reset") == (True, 0, 3)
    assert progress(bao, keys[4]) == (True, 1, 3)
    assert progress(bao, keys[2]) == (True, 2, 3)
    sealed, _, _ = progress(bao, keys[1])
    assert sealed is False
    # One share too many is no error.
    assert progress(bao, keys[0])[0] is False
    Bao(node, token).run("token", "lookup")


def test_malformed_share_is_refused_at_once(node):
    bao = Bao(node)
    keys, _ = initialise(bao)
    assert "'key' must be a valid hex or base64 string" in bao.run(
        "operator", "unseal", "not-base64!!", code=2
    )
    assert "key is shorter than minimum 16 bytes" in bao.run("operator", "unseal", "AAAA", code=2)
    assert progress(bao, keys[0]) == (True, 1, 3)


def test_wrong_share_is_found_at_the_threshold_and_resets_progress(node):
    bao = Bao(node)
    keys, token = initialise(bao)
    wrong = "/" * 44
    assert progress(bao, wrong) == (True, 1, 3)
    assert progress(bao, keys[0]) == (True, 2, 3)
    assert "Code: 400" in bao.run("operator", "unseal", keys[1], code=2)
    assert bao.json("status", "-format=json", code=2)["progress"] == 0
    for key in keys[:3]:
        bao.run("operator", "unseal", key)
    await_that("an active node", lambda: node.health() == 200)
    Bao(node, token).run("token", "lookup")


def test_shares_may_be_given_in_hexadecimal(node):
    bao = Bao(node)
    answer = bao.json("operator", "init", "-key-shares=3", "-key-threshold=2", "-format=json")
    for key in answer["unseal_keys_hex"][:2]:
        bao.run("operator", "unseal", key)
    await_that("an active node", lambda: node.health() == 200)


@pytest.mark.beyond_openbao("the last share is answered before the node is active")
def test_request_right_after_the_last_share_succeeds(node):
    bao = Bao(node)
    keys, token = initialise(bao)
    for key in keys[:3]:
        answer = node.request("PUT", "sys/unseal", json={"key": key})
    assert answer.json()["sealed"] is False
    assert node.request("GET", "auth/token/lookup-self", token).status_code == 200


def test_sealed_server_says_so_to_everybody(node):
    bao = Bao(node)
    keys, token = initialise(bao)
    for who in (None, token, "s.wrong"):
        answer = node.request("GET", "kv/x", who)
        assert answer.status_code == 503
        assert answer.json() == {"errors": ["Vault is sealed"]}


def test_seal_needs_a_token_and_keeps_the_data(node):
    bao = Bao(node)
    keys, token = initialise(bao)
    node.unseal(keys[:3])
    await_that("an active node", lambda: node.health() == 200)
    root = Bao(node, token)
    root.run("secrets", "enable", "-version=1", "-path=kv", "kv")
    root.run("kv", "put", "kv/kept", "a=1")
    bao.run("operator", "seal", code=2)
    assert node.health() == 200
    assert "Success! Vault is sealed." in root.run("operator", "seal")
    bao.run("status", code=2)
    assert "Vault is sealed" in root.run("kv", "get", "kv/kept", code=2)
    node.unseal(keys[2:])
    await_that("an active node", lambda: node.health() == 200)
    assert root.json("kv", "get", "-format=json", "kv/kept")["data"] == {"a": "1"}


def test_restart_comes_back_sealed_with_its_data(node):
    bao = Bao(node)
    keys, token = initialise(bao)
    node.unseal(keys[:3])
    await_that("an active node", lambda: node.health() == 200)
    root = Bao(node, token)
    root.run("secrets", "enable", "-version=1", "-path=kv", "kv")
    root.run("kv", "put", "kv/kept", "a=1")
    for end in (node.stop, node.kill):
        end()
        node.start()
        bao.run("status", code=2)
        node.unseal(keys[:3])
        await_that("an active node", lambda: node.health() == 200)
        assert root.json("kv", "get", "-format=json", "kv/kept")["data"] == {"a": "1"}


def test_keys_and_tokens_are_not_in_the_log(node):
    bao = Bao(node)
    keys, token = initialise(bao)
    node.unseal(keys[:3])
    await_that("an active node", lambda: node.health() == 200)
    root = Bao(node, token)
    root.run("secrets", "enable", "-version=1", "-path=kv", "kv")
    root.run("kv", "put", "kv/kept", "a=a-very-secret-value")
    log = node.log.read_text(errors="replace")
    for secret in [*keys, token, "a-very-secret-value"]:
        assert re.search(re.escape(secret), log) is None
