"""Bytes from outside on the API port: clear errors, a living process, intact
data, and nobody else kept waiting."""

import contextlib
import socket
import ssl
import time

import pytest

from waiting import await_that

pytestmark = pytest.mark.usefixtures("unharmed")


@pytest.fixture
def unharmed(cluster):
    """Each test begins with a secret and must leave it readable through every
    node, all processes being those that were there before."""
    active = cluster.await_active()
    written = active.request("PUT", "kv/intact", cluster.root_token, json={"v": "intact"})
    assert written.status_code == 204
    processes = [node.process.pid for node in cluster.nodes]
    yield
    for node in cluster.nodes:
        answer = node.request("GET", "kv/intact", cluster.root_token)
        assert answer.json()["data"] == {"v": "intact"}, f"through {node.name}"
    assert [node.process.pid for node in cluster.nodes] == processes
    assert cluster.await_active() is active, "leadership was disturbed"


@pytest.fixture
def node(cluster):
    return cluster.await_active()


def raw(node, data, seconds=15, half_close=False):
    """Sends bytes, returns everything that comes back until the server closes
    or falls silent."""
    received = b""
    with socket.create_connection(("127.0.0.1", node.port), timeout=seconds) as connection:
        with contextlib.suppress(ConnectionError):  # it may refuse before reading all
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while chunk := connection.recv(65536):
                received += chunk
    return received


def raw_status(node, head, body=b""):
    """Status of one raw request whose connection the server is asked to close."""
    request = head.encode("latin-1") + b"\r\nHost: x\r\nConnection: close\r\n\r\n" + body
    answer = raw(node, request)
    if not answer:
        return None  # closed without a word: a refusal too
    assert answer.startswith(b"HTTP/1.1 "), answer[:100]
    return int(answer.split()[1])


MALFORMED = {
    "cut off": b'{"a":',
    "not JSON": b"hello: world",
    "array": b"[1,2]",
    "string": b'"text"',
    "number": b"1",
    "bad escape": b'{"a":"\\x"}',
    "bad UTF-8": b'{"a":"\xff\xfe"}',
    "NUL bytes": b"\x00" * 100,
    "unbalanced": b'{"a":{"b":1}',
    "single quotes": b"{'a':1}",
    "deep nesting": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep arrays": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("path", ["kv/hostile", "sys/mounts/hostile", "sys/unseal"])
def test_malformed_body_is_refused(cluster, node, path, name):
    if name == "bad UTF-8" and path == "kv/hostile":
        pytest.skip("replacing what is no UTF-8 is what a JSON reader may do")
    answer = node.request("PUT", path, cluster.root_token, data=MALFORMED[name])
    assert answer.status_code == 400, f"{answer.status_code} {answer.text[:200]}"
    assert answer.json()["errors"]


@pytest.mark.parametrize(
    "path, body",
    [
        ("sys/unseal", {"key": 5}),
        ("sys/unseal", {"key": ["a"]}),
        ("sys/unseal", {}),
        ("sys/storage/raft/join", {"leader_api_addr": {"a": 1}}),
        ("sys/storage/raft/bootstrap/challenge", {}),
        ("sys/storage/raft/bootstrap/challenge", {"server_id": "x" * 20_000}),
        ("sys/storage/raft/bootstrap/answer", {"server_id": "x", "answer": "AAAA"}),
        ("sys/storage/raft/bootstrap/answer", {"server_id": "x", "answer": "!", "cluster_addr": "a:1"}),
        ("sys/storage/raft/bootstrap/answer", {"server_id": "x", "answer": "AAAA", "cluster_addr": "a:1"}),
        ("sys/mounts/x", {"type": "no-such-engine"}),
        ("sys/mounts/x", {"type": 7}),
        ("sys/mounts/sys", {"type": "kv"}),
    ],
)
def test_senseless_fields_are_refused(cluster, node, path, body):
    answer = node.request("POST", path, cluster.root_token, json=body)
    assert 400 <= answer.status_code <= 500, f"{answer.status_code} {answer.text[:200]}"
    assert answer.json()["errors"]
    assert set(cluster.servers()) == {"node1", "node2", "node3"}


def test_body_over_32_mebibytes_is_refused(cluster, node):
    body = b'{"a":"' + b"x" * (33 << 20) + b'"}'
    for path in ("kv/hostile", "sys/unseal"):
        try:
            status = node.request("PUT", path, cluster.root_token, data=body).status_code
        except OSError:  # refused and closed while we were still sending
            continue
        assert status in (400, 413), status


def test_value_over_the_entry_limit_is_refused_with_its_size(cluster, node):
    answer = node.request("PUT", "kv/hostile", cluster.root_token, json={"v": "x" * (2 << 20)})
    assert answer.status_code in (400, 413, 500)
    assert "too large" in answer.json()["errors"][0]
    # One that fits goes through.
    answer = node.request("PUT", "kv/hostile", cluster.root_token, json={"v": "x" * (900 << 10)})
    assert answer.status_code == 204, answer.text


def test_key_over_the_limit_is_refused(cluster, node):
    answer = node.request("PUT", "kv/" + "k" * 40_000, cluster.root_token, json={"v": "1"})
    assert 400 <= answer.status_code <= 500, answer.status_code
    assert node.request("GET", "kv/" + "k" * 40_000, cluster.root_token).status_code >= 400


@pytest.mark.parametrize(
    "target",
    [
        "/v1/../../etc/passwd",
        "/v1/kv/../sys/raw/core",
        "/v1//kv//intact",
        "/v1/kv/%00",
        "/v1/kv/%zz",
        "/v1/kv/%ff%fe",
        "/v1/kv/%2e%2e/%2e%2e/core/keyring",
        "/v1/core/keyring",
        "/v1/sys/raw/core/keyring",
        "/v1/logical/x",
        "/v1",
        "/v2/kv/x",
        "/",
        "*",
        "http://evil/v1/sys/raw/x",
        "/v1/kv/" + "a/" * 30_000,
        "/v1/kv/x?list=" + "y" * 60_000,
        "/v1/kv/\xff",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "LIST", "BREW"])
def test_bad_paths_give_no_data_and_no_crash(cluster, node, method, target):
    head = f"{method} {target} HTTP/1.1\r\nX-Vault-Token: {cluster.root_token}\r\nContent-Length: 2"
    status = raw_status(node, head, b"{}")
    if method == "PUT" and target in ("/v1/kv/%ff%fe", "/v1/kv/\xff", "/v1/kv/" + "a/" * 30_000):
        return  # storing under an odd name is allowed; reading it back is not the subject
    assert status is None or status in (200, 204) and "?list" in target or 300 <= status < 600, status


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"\x00" * 10_000,
        bytes(range(256)) * 100,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600),
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/sys/health HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /v1/sys/health HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"PUT /v1/kv/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"PUT /v1/kv/x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        b"PUT /v1/kv/x HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{}",
        b"GET /v1/sys/health HTTP/1.1\r\nBad Header\x00: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000,
    ],
    ids=lambda data: repr(data[:24]),
)
def test_garbage_is_refused_or_closed(node, data):
    answer = raw(node, data, seconds=5, half_close=True)
    status_line = answer.split(b"\r\n", 1)[0]
    assert not status_line.startswith(b"HTTP/1.1 2"), status_line


@pytest.mark.parametrize("lines, length", [(1, 2 << 20), (20_000, 100)])
def test_huge_headers_are_refused(node, lines, length):
    headers = b"".join(b"X-Filler-%d: %s\r\n" % (line, b"a" * length) for line in range(lines))
    answer = raw(node, b"GET /v1/sys/health HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
    status = answer.split()[1:2]
    assert status in ([], [b"400"], [b"413"], [b"431"]), answer[:100]


def test_slow_headers_are_cut_off_and_hold_up_nobody(cluster, node):
    slow = []
    try:
        for _ in range(100):
            connection = socket.create_connection(("127.0.0.1", node.port), timeout=5)
            connection.sendall(b"GET /v1/sys/health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            slow.append(connection)
        begin = time.monotonic()
        answer = node.request("PUT", "kv/meanwhile", cluster.root_token, json={"v": "1"})
        assert answer.status_code == 204
        assert time.monotonic() - begin < 5
        for connection in slow:
            connection.setblocking(False)

        def cut_off():
            with contextlib.suppress(BlockingIOError):
                with contextlib.suppress(ConnectionError):
                    while slow[0].recv(4096):
                        pass
                return True
            # A dribble must not keep it open either.
            with contextlib.suppress(ConnectionError, BlockingIOError):
                slow[0].sendall(b"a")
            return False

        await_that("a slow connection to be closed", cut_off, seconds=60)
    finally:
        for connection in slow:
            connection.close()


def test_body_that_never_comes_holds_up_nobody(cluster, node):
    waiting = []
    head = (
        f"PUT /v1/kv/never HTTP/1.1\r\nHost: x\r\nX-Vault-Token: {cluster.root_token}\r\n"
        "Content-Length: 1000000\r\n\r\n{"
    )
    try:
        for _ in range(100):
            connection = socket.create_connection(("127.0.0.1", node.port), timeout=5)
            connection.sendall(head.encode())
            waiting.append(connection)
        answer = node.request("PUT", "kv/meanwhile", cluster.root_token, json={"v": "1"}, timeout=5)
        assert answer.status_code == 204
    finally:
        for connection in waiting:
            connection.close()
    assert node.request("GET", "kv/never", cluster.root_token).status_code == 404


def test_tls_on_a_plain_port_is_refused(node):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as connection:
        with pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(connection)


def test_token_guesses_and_odd_tokens_are_refused(node):
    for token in ("s." + "A" * 24, "x" * 5_000, "s.../../core", "\u00e9".encode("latin-1"), "root"):
        answer = node.request("GET", "kv/intact", token)
        assert answer.status_code in (400, 403), f"{token!r}: {answer.status_code}"
