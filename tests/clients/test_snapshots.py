"""`bao operator raft snapshot save` and `restore`, and archives that are wrong."""

import base64
import gzip
import hashlib
import io
import json
import tarfile
import zlib

import pytest

from servers import Bao
from waiting import await_that


def members(archive):
    """Name → content of a snapshot archive's members, in order."""
    with tarfile.open(archive, "r:gz") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def read(node, path, token):
    answer = node.request("GET", path, token)
    return answer.json()["data"] if answer.status_code == 200 else answer.status_code


def await_value(cluster, path, value):
    """The value, through every node; a restore is finished some time after
    it is answered."""
    for node in cluster.nodes:
        await_that(
            f"{path} = {value} through {node.name}",
            lambda node=node: read(node, path, cluster.root_token) == value,
        )


def test_archive_has_the_members_the_client_needs(cluster, bao, tmp_path):
    bao.run("kv", "put", "kv/known", "a=needle-in-the-archive")
    archive = tmp_path / "one.snap"
    bao.run("operator", "raft", "snapshot", "save", archive)
    content = members(archive)
    assert list(content) == ["meta.json", "state.bin", "SHA256SUMS", "SHA256SUMS.sealed"]
    meta = json.loads(content["meta.json"])
    assert meta["Version"] == 1
    assert meta["Size"] == len(content["state.bin"])
    assert meta["Index"] > 0 and meta["Term"] > 0
    assert {server["ID"] for server in meta["Configuration"]["Servers"]} == {"node1", "node2", "node3"}
    sums = dict(reversed(line.split()) for line in content["SHA256SUMS"].decode().splitlines())
    for name in ("meta.json", "state.bin"):
        assert sums[name] == hashlib.sha256(content[name]).hexdigest()
    assert content["SHA256SUMS.sealed"]
    assert b"needle-in-the-archive" not in content["state.bin"]


def test_restore_brings_the_data_back_on_every_node(cluster, bao, tmp_path):
    archive = tmp_path / "s.snap"
    bao.run("kv", "put", "kv/restored/changed", "v=before")
    bao.run("kv", "put", "kv/restored/deleted", "v=before")
    bao.run("operator", "raft", "snapshot", "save", archive)
    bao.run("kv", "put", "kv/restored/changed", "v=after")
    bao.run("kv", "put", "kv/restored/added", "v=after")
    bao.run("kv", "delete", "kv/restored/deleted")
    bao.run("operator", "raft", "snapshot", "restore", archive)
    await_value(cluster, "kv/restored/changed", {"v": "before"})
    await_value(cluster, "kv/restored/deleted", {"v": "before"})
    await_value(cluster, "kv/restored/added", 404)
    cluster.await_voters(3)
    # The cluster goes on: what is written now stays.
    bao = Bao(cluster.await_active(), cluster.root_token)
    bao.run("kv", "put", "kv/restored/changed", "v=later")
    await_value(cluster, "kv/restored/changed", {"v": "later"})


def test_restore_survives_a_restart_of_all_nodes(fresh_cluster, tmp_path):
    cluster = fresh_cluster()
    cluster.mount_kv()
    bao = Bao(cluster.await_active(), cluster.root_token)
    bao.run("kv", "put", "kv/x", "v=before")
    bao.run("operator", "raft", "snapshot", "save", tmp_path / "s.snap")
    bao.run("kv", "put", "kv/x", "v=after")
    bao.run("operator", "raft", "snapshot", "restore", tmp_path / "s.snap")
    await_value(cluster, "kv/x", {"v": "before"})
    for node in cluster.nodes:
        node.kill()
    for node in cluster.nodes:
        node.start()
    for node in cluster.nodes:
        node.unseal(cluster.keys[:3])
    await_value(cluster, "kv/x", {"v": "before"})


@pytest.mark.beyond_openbao("a standby redirects a snapshot, which the CLI cannot follow")
def test_save_and_restore_through_a_standby(cluster, tmp_path):
    archive = tmp_path / "s.snap"
    for standby in cluster.standbys():
        bao = Bao(standby, cluster.root_token)
        bao.run("kv", "put", "kv/standby/x", f"v={standby.name}")
        bao.run("operator", "raft", "snapshot", "save", archive)
        bao.run("kv", "put", "kv/standby/x", "v=after")
        bao.run("operator", "raft", "snapshot", "restore", archive)
        await_value(cluster, "kv/standby/x", {"v": standby.name})
        await_that("the standby unsealed", lambda: standby.health() in (200, 429))


def test_snapshot_contains_what_was_acknowledged_before_it(cluster, bao, tmp_path):
    for number in range(5):
        bao.run("kv", "put", "kv/fresh/x", f"v={number}")
        bao.run("operator", "raft", "snapshot", "save", tmp_path / f"{number}.snap")
    bao.run("operator", "raft", "snapshot", "restore", tmp_path / "3.snap")
    await_value(cluster, "kv/fresh/x", {"v": "3"})


def test_snapshots_need_a_token(cluster, tmp_path):
    active = cluster.await_active()
    Bao(active).run("operator", "raft", "snapshot", "save", tmp_path / "no.snap", code=2)
    for path in ("snapshot", "snapshot-force"):
        answer = active.request("POST", f"sys/storage/raft/{path}", data=b"x")
        assert answer.status_code == 403, answer.text


def archive_of(content, headers=None):
    """A gzipped tar of these members; `headers` overrides declared sizes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb") as stream:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = (headers or {}).get(name, len(data))
            stream.write(info.tobuf())
            stream.write(data + bytes(-len(data) % 512))
        stream.write(bytes(1024))
    return buffer.getvalue()


def sums_of(content):
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in content]
    return "".join(lines).encode()


def meta_of(size):
    return json.dumps(
        {
            "Version": 1,
            "ID": "bolt-snapshot",
            "Index": 10,
            "Term": 2,
            "Peers": None,
            "Configuration": {"Servers": [{"Suffrage": 0, "ID": "x", "Address": "127.0.0.1:1"}]},
            "ConfigurationIndex": 1,
            "Size": size,
        }
    ).encode()


def forged(state, meta=None):
    """An archive whose plain sums are right: what `snapshot-force` lets in."""
    content = [("meta.json", meta or meta_of(len(state))), ("state.bin", state)]
    sums = sums_of(content)
    return archive_of([*content, ("SHA256SUMS", sums), ("SHA256SUMS.sealed", b"\x0a\x10" + bytes(16))])


def zero_bomb(mebibytes):
    """A valid start of an archive, then so many zeros, a thousandth of them
    on the wire."""
    block = bytes(1 << 20)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    info = tarfile.TarInfo("meta.json")
    meta = meta_of(mebibytes << 20)
    info.size = len(meta)
    head = info.tobuf() + meta + bytes(-len(meta) % 512)
    info = tarfile.TarInfo("state.bin")
    info.size = mebibytes << 20
    start = deflate.compress(head + info.tobuf()) + deflate.flush(zlib.Z_FULL_FLUSH)
    zeros = deflate.compress(block) + deflate.flush(zlib.Z_FULL_FLUSH)
    gzip_header = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    return gzip_header + start + zeros * mebibytes


WRONG_ARCHIVES = {
    "empty": b"",
    "garbage": b"not an archive " * 1000,
    "gzip of nothing": gzip.compress(b""),
    "gzip of garbage": gzip.compress(b"garbage" * 1000),
    "gzip header only": gzip.compress(b"x")[:10],
    "unknown member": archive_of([("evil.sh", b"rm -rf")]),
    "path traversal": archive_of([("../../meta.json", meta_of(0))]),
    "no state": archive_of([("meta.json", meta_of(0))]),
    "no sums": archive_of([("meta.json", meta_of(0)), ("state.bin", b"")]),
    "huge meta": archive_of([("meta.json", b" " * 1_000_000)]),
    "meta is not JSON": forged(b"", b"{"),
    "meta of another version": forged(b"", meta_of(0).replace(b'"Version": 1', b'"Version": 99')),
    "state shorter than declared": archive_of(
        [("meta.json", meta_of(1 << 40)), ("state.bin", b"x")], {"state.bin": 1 << 40}
    ),
    "record of 2^62 bytes": forged(b"\x80\x80\x80\x80\x80\x80\x80\x80\x40" + bytes(100)),
    "record cut off": forged(b"\x64\x0a\x03abc"),
    "state of nothing": forged(b""),
    "state of empty records": forged(bytes(1000)),
    "state of random bytes": forged(bytes(range(256)) * 64),
}


def resident_kib(node):
    with open(f"/proc/{node.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def refused(node, path, token, archive):
    """Posts an archive; it must be refused with a reason."""
    answer = node.request("POST", f"sys/storage/raft/{path}", token, data=archive, timeout=120)
    assert 400 <= answer.status_code <= 500, f"{answer.status_code} {answer.text}"
    assert answer.json()["errors"], answer.text
    return answer


def assert_unharmed(cluster, node):
    assert node.health() == 200
    assert read(node, "kv/intact", cluster.root_token) == {"v": "intact"}
    assert node.request("PUT", "kv/probe", cluster.root_token, json={"v": "1"}).status_code == 204


@pytest.mark.parametrize("name", WRONG_ARCHIVES)
def test_wrong_archive_is_refused_and_harms_nothing(cluster, name):
    node = cluster.await_active()
    node.request("PUT", "kv/intact", cluster.root_token, json={"v": "intact"})
    refused(node, "snapshot", cluster.root_token, WRONG_ARCHIVES[name])
    assert_unharmed(cluster, node)


@pytest.mark.beyond_openbao("forced archives with broken content are taken and seal or end the node")
@pytest.mark.parametrize("name", WRONG_ARCHIVES)
def test_wrong_archive_is_refused_even_when_forced(cluster, name):
    node = cluster.await_active()
    node.request("PUT", "kv/intact", cluster.root_token, json={"v": "intact"})
    refused(node, "snapshot-force", cluster.root_token, WRONG_ARCHIVES[name])
    assert_unharmed(cluster, node)


@pytest.mark.parametrize("path", ["snapshot", "snapshot-force"])
def test_truncated_and_flipped_archives_are_refused(cluster, bao, tmp_path, path):
    node = cluster.await_active()
    node.request("PUT", "kv/intact", cluster.root_token, json={"v": "intact"})
    bao.run("operator", "raft", "snapshot", "save", tmp_path / "s.snap")
    good = (tmp_path / "s.snap").read_bytes()
    for part in (1, 2, 3, 7):
        refused(node, path, cluster.root_token, good[: len(good) * part // 8])
    state = members(tmp_path / "s.snap")["state.bin"]
    # Flipped before compression: only the sums can tell.
    plain = gzip.decompress(good)
    position = plain.index(state) + len(state) // 2
    flipped = plain[:position] + bytes([plain[position] ^ 1]) + plain[position + 1 :]
    refused(node, path, cluster.root_token, gzip.compress(flipped, 0))
    assert_unharmed(cluster, node)


def test_bomb_is_refused_within_bounded_memory(cluster):
    node = cluster.await_active()
    node.request("PUT", "kv/intact", cluster.root_token, json={"v": "intact"})
    before = resident_kib(node)
    refused(node, "snapshot-force", cluster.root_token, zero_bomb(mebibytes=300))
    assert resident_kib(node) < before + (100 << 10)
    assert_unharmed(cluster, node)


def test_foreign_archive_is_refused_unless_forced(cluster, fresh_cluster, tmp_path):
    foreign = fresh_cluster(size=1)
    bao = Bao(foreign.nodes[0], foreign.root_token)
    bao.run("operator", "raft", "snapshot", "save", tmp_path / "foreign.snap")
    node = cluster.await_active()
    node.request("PUT", "kv/intact", cluster.root_token, json={"v": "intact"})
    refusal = Bao(node, cluster.root_token).run(
        "operator", "raft", "snapshot", "restore", tmp_path / "foreign.snap", code=2
    )
    assert "could not verify hash file" in refusal
    assert_unharmed(cluster, node)


def test_upload_broken_off_midway_changes_nothing(cluster, bao, tmp_path):
    node = cluster.await_active()
    node.request("PUT", "kv/intact", cluster.root_token, json={"v": "intact"})
    bao.run("operator", "raft", "snapshot", "save", tmp_path / "s.snap")
    good = (tmp_path / "s.snap").read_bytes()

    def half():
        yield good[: len(good) // 2]
        raise ConnectionAbortedError("the client dies here")

    with pytest.raises(Exception):
        node.request("POST", "sys/storage/raft/snapshot", cluster.root_token, data=half())
    assert_unharmed(cluster, node)


def saved(node, token):
    answer = node.request("GET", "sys/storage/raft/snapshot", token)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.beyond_openbao("sends neither length nor digest")
def test_archive_comes_with_length_and_digest(fresh_cluster):
    cluster = fresh_cluster()
    cluster.mount_kv()
    for node in cluster.nodes:
        answer = saved(node, cluster.root_token)
        assert answer.headers["Content-Type"] == "application/gzip"
        assert int(answer.headers["Content-Length"]) == len(answer.content)
        digest = base64.b64encode(hashlib.sha256(answer.content).digest()).decode()
        assert answer.headers["Repr-Digest"] == f"sha-256=:{digest}:"


@pytest.mark.beyond_openbao("has no dry run and no status")
def test_dry_run_tells_what_a_restore_would_do_and_does_nothing(fresh_cluster):
    cluster = fresh_cluster()
    cluster.mount_kv()
    token = cluster.root_token
    active = cluster.await_active()
    archive = saved(active, token).content
    active.request("PUT", "kv/after", token, json={"v": 1})
    stranger = fresh_cluster(size=1)
    foreign = saved(stranger.nodes[0], stranger.root_token).content
    for node in cluster.nodes:
        path = "sys/storage/raft/snapshot?dry_run=true"
        told = node.request("POST", path, token, data=archive)
        assert told.status_code == 200, told.text
        told = told.json()["data"]
        assert (told["secret_shares"], told["secret_threshold"], told["seals"]) == (5, 3, False)
        assert told["entries"] > 5 and told["bytes"] > 100
        # The refusals are those of the restore itself.
        assert node.request("POST", path, token, data=foreign).status_code == 400
        assert node.request("POST", path, token, data=archive[:-100]).status_code == 500
        assert node.request("POST", path, None, data=archive).status_code == 403
        force = "sys/storage/raft/snapshot-force?dry_run=true"
        told = node.request("POST", force, token, data=foreign).json()["data"]
        assert told["seals"] is True
    assert active.request("GET", "kv/after", token).status_code == 200


@pytest.mark.beyond_openbao("has no dry run and no status")
def test_status_tells_the_last_restore(fresh_cluster):
    cluster = fresh_cluster()
    token = cluster.root_token
    active, standby = cluster.await_active(), cluster.standbys()[0]
    path = "sys/storage/raft/restore/status"
    assert standby.request("GET", path, token).json()["data"]["phase"] == "none"
    archive = saved(active, token).content
    broken = archive[:-100]
    assert standby.request("POST", "sys/storage/raft/snapshot", token, data=broken).status_code == 500
    shown = standby.request("GET", path, token).json()["data"]
    assert (shown["phase"], shown["force"]) == ("failed", False)
    assert shown["error"]
    whole = "sys/storage/raft/snapshot?wait=true"
    assert standby.request("POST", whole, token, data=archive).status_code == 204
    shown = active.request("GET", path, token).json()["data"]
    assert (shown["phase"], shown["error"]) == ("done", None)
    assert active.request("GET", path).status_code == 403
