"""A snapshot moves between OpenBao and Holdfast, both ways: no lock-in."""

import json

from servers import KIND, Bao
from waiting import await_that

SECRET = {"user": "alice", "nested": {"list": [1, 2, {"three": None}]}, "text": "ü ✓"}


def saved(cluster, archive):
    """Puts secrets in and saves a snapshot of them."""
    cluster.mount_kv("kv")
    cluster.mount_kv("team/secrets")
    bao = Bao(cluster.await_active(), cluster.root_token)
    bao.run("kv", "put", "kv/app", "-", stdin=json.dumps(SECRET))
    bao.run("kv", "put", "team/secrets/a/b/c", "deep=yes")
    for number in range(40):
        bao.node.request("PUT", f"kv/many/{number:02}", cluster.root_token, json={"n": number})
    bao.run("operator", "raft", "snapshot", "save", archive)


def force_restored(source, target, archive):
    """Restores a foreign archive into a cluster, and unseals its nodes with the
    keys of the cluster that the archive came from."""
    names = set(target.servers())
    bao = Bao(target.await_active(), target.root_token)
    bao.run("operator", "raft", "snapshot", "restore", "-force", archive)
    target.root_token = source.root_token
    for node in target.nodes:
        await_that(f"{node.name} sealed by keys that are not its own", lambda: node.health() == 503)
        if target.kind == "openbao":
            # OpenBao takes the archive's seal configuration on only at a start.
            node.kill()
            node.start()
    for node in target.nodes:
        node.unseal(source.keys[:3])
    target.await_active()
    assert set(target.servers()) == names, "the peers are the target's own, not the archive's"


def assert_same_secrets(target):
    token = target.root_token
    for node in target.nodes:
        await_that(f"secrets through {node.name}", lambda: node.request("GET", "kv/app", token).ok)
        bao = Bao(node, token)
        assert bao.json("kv", "get", "-format=json", "kv/app")["data"] == SECRET
        assert bao.json("kv", "get", "-format=json", "team/secrets/a/b/c")["data"] == {"deep": "yes"}
        assert bao.json("kv", "list", "-format=json", "kv/many") == [f"{n:02}" for n in range(40)]
        mounts = bao.json("secrets", "list", "-format=json")
        assert {"kv/", "team/secrets/", "sys/", "cubbyhole/"} <= set(mounts)
    bao = Bao(target.await_active(), token)
    bao.run("kv", "put", "kv/after", "written=here")
    assert bao.json("kv", "get", "-format=json", "kv/after")["data"] == {"written": "here"}
    bao.run("token", "lookup")
    bao.run("secrets", "enable", "-version=1", "-path=new", "kv")
    bao.run("kv", "put", "new/x", "a=1")


def restarted(cluster, keys):
    for node in cluster.nodes:
        node.kill()
    for node in cluster.nodes:
        node.start()
    for node in cluster.nodes:
        node.unseal(keys)
    cluster.await_active()


def test_openbao_archive_restores_here(fresh_cluster, tmp_path):
    openbao = fresh_cluster(size=1, kind="openbao")
    saved(openbao, tmp_path / "openbao.snap")
    here = fresh_cluster(size=3)
    force_restored(openbao, here, tmp_path / "openbao.snap")
    assert_same_secrets(here)
    restarted(here, openbao.keys[2:])
    assert_same_secrets_remain(here)


def test_archive_from_here_restores_in_openbao(fresh_cluster, tmp_path):
    here = fresh_cluster(size=3)
    saved(here, tmp_path / "here.snap")
    openbao = fresh_cluster(size=1, kind="openbao")
    force_restored(here, openbao, tmp_path / "here.snap")
    assert_same_secrets(openbao)
    restarted(openbao, here.keys[2:])
    assert_same_secrets_remain(openbao)


def test_archive_that_went_through_both_comes_home_without_force(fresh_cluster, tmp_path):
    """Same keys, so the sealed sums verify: each opens what the other sealed."""
    here = fresh_cluster(size=1)
    saved(here, tmp_path / "here.snap")
    openbao = fresh_cluster(size=1, kind="openbao")
    force_restored(here, openbao, tmp_path / "here.snap")
    bao = Bao(openbao.await_active(), here.root_token)
    bao.run("kv", "put", "kv/abroad", "changed=yes")
    bao.run("operator", "raft", "snapshot", "save", tmp_path / "abroad.snap")
    Bao(here.await_active(), here.root_token).run(
        "operator", "raft", "snapshot", "restore", tmp_path / "abroad.snap"
    )
    node = here.nodes[0]
    if KIND == "openbao":
        await_that("the restore to end", lambda: node.health() == 200)
    await_that(
        "the value written abroad",
        lambda: node.request("GET", "kv/abroad", here.root_token).json()["data"] == {"changed": "yes"},
    )


def assert_same_secrets_remain(cluster):
    bao = Bao(cluster.await_active(), cluster.root_token)
    assert bao.json("kv", "get", "-format=json", "kv/app")["data"] == SECRET
    assert bao.json("kv", "get", "-format=json", "kv/after")["data"] == {"written": "here"}
