"""KV version 1 through the real CLI and plain HTTP, on three nodes."""

import json
import threading

import pytest

from servers import Bao

NESTED = {
    "number": 12345678901234567890,
    "fraction": 1.5,
    "text": "päss wörd ✓ \" \\ \n",
    "list": [1, "two", None, {"three": 3}],
    "deep": {"a": {"b": {"c": [True, False]}}},
    "empty": {},
}


def test_put_get_list_delete(bao):
    bao.run("kv", "put", "kv/app/one", "user=alice", "password=correct horse")
    bao.run("kv", "put", "kv/app/two", "user=bob")
    bao.run("kv", "put", "kv/app/sub/three", "user=eve")
    assert bao.json("kv", "get", "-format=json", "kv/app/one")["data"] == {
        "user": "alice",
        "password": "correct horse",
    }
    assert bao.run("kv", "get", "-field=user", "kv/app/two").strip() == "bob"
    assert bao.json("kv", "list", "-format=json", "kv/app") == ["one", "sub/", "two"]
    bao.run("kv", "delete", "kv/app/one")
    bao.run("kv", "get", "kv/app/one", code=2)
    assert bao.json("kv", "list", "-format=json", "kv/app") == ["sub/", "two"]


def test_read_write_list_delete_generic_commands(bao):
    bao.run("write", "kv/generic/a", "x=1", "y=2")
    assert bao.json("read", "-format=json", "kv/generic/a")["data"] == {"x": "1", "y": "2"}
    assert bao.json("list", "-format=json", "kv/generic") == ["a"]
    bao.run("delete", "kv/generic/a")
    bao.run("read", "kv/generic/a", code=2)
    bao.run("list", "kv/generic", code=2)


def test_nested_json_from_standard_input_comes_back_equal(bao):
    bao.run("kv", "put", "kv/nested", "-", stdin=json.dumps(NESTED))
    text = bao.run("kv", "get", "-format=json", "kv/nested")
    assert json.loads(text)["data"] == NESTED
    # Written as a number, kept as that number: no detour through a double.
    assert "12345678901234567890" in text


def test_overwrite_replaces_all_fields(bao):
    bao.run("kv", "put", "kv/replaced", "a=1", "b=2")
    bao.run("kv", "put", "kv/replaced", "c=3")
    assert bao.json("kv", "get", "-format=json", "kv/replaced")["data"] == {"c": "3"}


def test_second_mount_is_separate_and_disable_removes_its_data(bao):
    bao.run("secrets", "enable", "-version=1", "-path=second", "kv")
    assert "second/" in bao.json("secrets", "list", "-format=json")
    bao.run("kv", "put", "second/x", "a=1")
    bao.run("kv", "get", "kv/x", code=2)
    bao.run("secrets", "enable", "-version=1", "-path=second", "kv", code=2)
    bao.run("secrets", "disable", "second")
    assert "second/" not in bao.json("secrets", "list", "-format=json")
    bao.run("secrets", "enable", "-version=1", "-path=second", "kv")
    bao.run("kv", "get", "second/x", code=2)
    bao.run("secrets", "disable", "second")


def test_put_and_post_are_the_same_and_so_are_both_ways_to_list(cluster):
    node, token = cluster.await_active(), cluster.root_token
    for method in ("PUT", "POST"):
        answer = node.request(method, f"kv/methods/{method}", token, json={"by": method})
        assert answer.status_code == 204
    for method, path in (("LIST", "kv/methods"), ("LIST", "kv/methods/"), ("GET", "kv/methods?list=true")):
        answer = node.request(method, path, token)
        assert answer.json()["data"] == {"keys": ["POST", "PUT"]}


def test_body_needs_no_content_type_and_curl_s_is_accepted(cluster):
    node, token = cluster.await_active(), cluster.root_token
    for content_type in (None, "application/x-www-form-urlencoded", "text/plain"):
        headers = {"Content-Type": content_type} if content_type else {}
        answer = node.request("PUT", "kv/typed", token, data=b'{"a":"1"}', headers=headers)
        assert answer.status_code == 204, (content_type, answer.text)
        assert node.request("GET", "kv/typed", token).json()["data"] == {"a": "1"}


def test_token_is_demanded_and_may_be_a_bearer(cluster):
    node, token = cluster.await_active(), cluster.root_token
    node.request("PUT", "kv/guarded", token, json={"a": "1"})
    assert node.request("GET", "kv/guarded").status_code == 403
    assert node.request("GET", "kv/guarded", "s.AAAAAAAAAAAAAAAAAAAAAAAA").status_code == 403
    bearer = {"Authorization": f"Bearer {token}"}
    assert node.request("GET", "kv/guarded", headers=bearer).json()["data"] == {"a": "1"}


def test_reply_has_the_whole_envelope_and_is_not_cached(cluster):
    node, token = cluster.await_active(), cluster.root_token
    node.request("PUT", "kv/enveloped", token, json={"a": "1"})
    answer = node.request("GET", "kv/enveloped", token)
    assert set(answer.json()) == {
        "request_id",
        "lease_id",
        "renewable",
        "lease_duration",
        "data",
        "wrap_info",
        "warnings",
        "auth",
    }
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Type"] == "application/json"
    missing = node.request("GET", "kv/there/is/none", token)
    assert (missing.status_code, missing.json()) == (404, {"errors": []})


def test_write_through_any_node_is_read_at_once_through_every_node(cluster):
    token = cluster.root_token
    for round_number in range(30):
        for writer in cluster.nodes:
            value = {"v": f"{writer.name}-{round_number}"}
            answer = writer.request("PUT", "kv/consistent", token, json=value)
            assert answer.status_code == 204, answer.text
            for reader in cluster.nodes:
                found = reader.request("GET", "kv/consistent", token).json()["data"]
                assert found == value, f"written through {writer.name}, read through {reader.name}"


def test_delete_and_mount_through_any_node_are_seen_at_once_by_every_node(cluster):
    token = cluster.root_token
    for number, writer in enumerate(cluster.nodes):
        mount = f"everywhere{number}"
        body = {"type": "kv", "options": {"version": "1"}}
        assert writer.request("POST", f"sys/mounts/{mount}", token, json=body).status_code == 204
        for node in cluster.nodes:
            answer = node.request("PUT", f"{mount}/{node.name}", token, json={"a": "1"})
            assert answer.status_code == 204, f"mounted through {writer.name}: {answer.text}"
        assert writer.request("DELETE", f"{mount}/node1", token).status_code == 204
        for node in cluster.nodes:
            listed = node.request("LIST", mount, token).json()["data"]["keys"]
            assert listed == ["node2", "node3"]
        assert writer.request("DELETE", f"sys/mounts/{mount}", token).status_code == 204
        for node in cluster.nodes:
            assert node.request("GET", f"{mount}/node2", token).status_code == 404


def test_cli_writes_and_reads_through_standbys(cluster):
    for writer in cluster.standbys():
        Bao(writer, cluster.root_token).run("kv", "put", "kv/standby", f"by={writer.name}")
        for reader in cluster.nodes:
            answer = Bao(reader, cluster.root_token).json("kv", "get", "-format=json", "kv/standby")
            assert answer["data"] == {"by": writer.name}


def test_concurrent_writers_of_many_keys_lose_nothing(cluster):
    token = cluster.root_token
    errors = []

    def write(number):
        node = cluster.nodes[number % 3]
        for index in range(25):
            answer = node.request("PUT", f"kv/many/{number}-{index}", token, json={"v": f"{number}.{index}"})
            if answer.status_code != 204:
                errors.append(answer.text)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(12)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert errors == []
    for node in cluster.nodes:
        keys = node.request("LIST", "kv/many", token).json()["data"]["keys"]
        assert keys == sorted(f"{number}-{index}" for number in range(12) for index in range(25))


@pytest.mark.parametrize("path", ["kv/a b", "kv/ü", "kv/a%2Fb", "kv/x.y~z", "kv/UPPER/lower"])
def test_unusual_paths_keep_their_names(cluster, path):
    node, token = cluster.await_active(), cluster.root_token
    assert node.request("PUT", path, token, json={"p": path}).status_code == 204
    for reader in cluster.nodes:
        assert reader.request("GET", path, token).json()["data"] == {"p": path}
