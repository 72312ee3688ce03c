"""Strangers on the cluster port: no handshake, no effect, no harm."""

import contextlib
import os
import socket
import ssl

import pytest

PROTOCOLS = [
    ["holdfast-raft/1"],
    ["holdfast-snapshot/1"],
    ["holdfast-forward/1"],
    ["raft_storage_v1"],
    ["req_fw_sb-act_v1"],
    ["h2"],
    [],
]


@pytest.fixture(autouse=True)
def undisturbed(cluster):
    """Whatever strangers do: the same leader, the same peers, all data."""
    active = cluster.await_active()
    before = active.request("GET", "sys/leader").json()
    peers = cluster.servers()
    written = active.request("PUT", "kv/intact", cluster.root_token, json={"v": "intact"})
    assert written.status_code == 204
    yield
    assert cluster.await_active() is active
    assert active.request("GET", "sys/leader").json()["active_time"] == before["active_time"]
    assert cluster.servers() == peers
    for node in cluster.nodes:
        node.assert_alive()
        assert node.request("GET", "kv/intact", cluster.root_token).json()["data"] == {"v": "intact"}
        answer = node.request("PUT", f"kv/by-{node.name}", cluster.root_token, json={"v": "1"})
        assert answer.status_code == 204, answer.text


def connect(node):
    return socket.create_connection(("127.0.0.1", node.cluster_port), timeout=15)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 100_000,
        os.urandom(100_000),
        b"\x16\x03\x01\xff\xff" + b"a" * 70_000,
    ],
    ids=["http", "zeros", "random", "oversized TLS record"],
)
def test_garbage_is_closed(cluster, data):
    for node in cluster.nodes:
        with connect(node) as connection, contextlib.suppress(OSError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass


def test_half_open_connections_hold_up_nobody(cluster):
    with contextlib.ExitStack() as stack:
        for node in cluster.nodes:
            for number in range(150):
                connection = stack.enter_context(connect(node))
                if number % 2:
                    connection.sendall(b"\x16\x03\x01\x02")  # the start of a ClientHello
        for node in cluster.nodes:
            answer = node.request("PUT", "kv/meanwhile", cluster.root_token, json={"v": "1"}, timeout=10)
            assert answer.status_code == 204


def talk_as_stranger(node, protocols, certificate=None):
    """Bytes that a server says to a client that is no member of the cluster;
    it must say none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    if certificate:
        context.load_cert_chain(certificate.certificate, certificate.key)
    received = b""
    with connect(node) as connection:
        # In TLS 1.3 a client may believe in the connection before the server
        # has seen its certificate: the refusal then comes with the first read.
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            with context.wrap_socket(connection, server_hostname="stranger") as stream:
                stream.sendall(b"\x00\x00\x00\x10" + os.urandom(4096))
                while chunk := stream.recv(65536):
                    received += chunk
    return received


@pytest.mark.parametrize("protocols", PROTOCOLS, ids=lambda names: ",".join(names) or "none")
def test_stranger_without_certificate_is_refused(cluster, protocols):
    for node in cluster.nodes:
        assert talk_as_stranger(node, protocols) == b""


@pytest.mark.parametrize("protocols", PROTOCOLS, ids=lambda names: ",".join(names) or "none")
def test_stranger_with_its_own_certificate_is_refused(cluster, tls, protocols):
    for node in cluster.nodes:
        assert talk_as_stranger(node, protocols, tls) == b""
