"""Configurations that cannot work: the server says why and ends."""

import json
import subprocess

import pytest

from servers import KIND, Bao, Node, program_of

GOOD_LISTENER = (
    'listener "tcp" {{\n  address = "127.0.0.1:{port}"\n'
    '  cluster_address = "127.0.0.1:{cluster}"\n  tls_disable = true\n}}\n'
)
GOOD_STORAGE = 'storage "raft" {{\n  path = "{data}"\n  node_id = "n1"\n}}\n'
GOOD_ADDRESSES = (
    'api_addr = "http://127.0.0.1:{port}"\n'
    'cluster_addr = "https://127.0.0.1:{cluster}"\ndisable_mlock = true\n'
)

# Name → (configuration, a word that the message must contain).
WRONG = {
    "empty": ("", "storage"),
    "not HCL": ("}}}} what is this {{{{", ""),
    "block not closed": ('storage "raft" {{\n  path = "{data}"\n', ""),
    "string not closed": ('storage "raft" {{\n  path = "{data}\n}}\n', ""),
    "unknown storage": (
        'storage "floppy" {{\n  path = "{data}"\n}}\n' + GOOD_LISTENER + GOOD_ADDRESSES,
        "floppy",
    ),
    "no storage": (GOOD_LISTENER + GOOD_ADDRESSES, "storage"),
    "no path": ('storage "raft" {{\n  node_id = "n1"\n}}\n' + GOOD_LISTENER + GOOD_ADDRESSES, "path"),
    "path is a file": (
        GOOD_STORAGE.replace("{data}", "{config}") + GOOD_LISTENER + GOOD_ADDRESSES,
        "",
    ),
    "no cluster address": (
        GOOD_STORAGE + 'listener "tcp" {{\n  address = "127.0.0.1:{port}"\n  tls_disable = true\n}}\n',
        "",
    ),
    "unknown listener": (
        GOOD_STORAGE + 'listener "pigeon" {{\n  address = "127.0.0.1:{port}"\n}}\n' + GOOD_ADDRESSES,
        "pigeon",
    ),
    "port out of range": (
        GOOD_STORAGE + GOOD_LISTENER.replace("{port}", "99999") + GOOD_ADDRESSES,
        "99999",
    ),
    "certificate that is not there": (
        GOOD_STORAGE
        + 'listener "tcp" {{\n  address = "127.0.0.1:{port}"\n  tls_cert_file = "/nowhere.pem"\n'
        + '  tls_key_file = "/nowhere.key"\n}}\n'
        + GOOD_ADDRESSES,
        "/nowhere.pem",
    ),
    "certificate that is none": (
        GOOD_STORAGE
        + 'listener "tcp" {{\n  address = "127.0.0.1:{port}"\n  tls_cert_file = "{config}"\n'
        + '  tls_key_file = "{config}"\n}}\n'
        + GOOD_ADDRESSES,
        "",
    ),
    "multiplier that is no number": (
        GOOD_STORAGE.replace('"n1"\n', '"n1"\n  performance_multiplier = "many"\n')
        + GOOD_LISTENER
        + GOOD_ADDRESSES,
        "performance_multiplier",
    ),
}


def run_until_it_ends(path):
    return subprocess.run(
        [program_of(KIND), "server", f"-config={path}"],
        capture_output=True,
        text=True,
        timeout=20,
        stdin=subprocess.DEVNULL,
    )


CASES = [
    pytest.param(
        name,
        marks=pytest.mark.beyond_openbao("it looks at raft's settings only when it initialises")
        if name == "multiplier that is no number"
        else (),
    )
    for name in WRONG
]


@pytest.mark.parametrize("name", CASES)
def test_wrong_configuration_is_named_and_ends_the_server(tmp_path, name):
    template, word = WRONG[name]
    node = Node("n1", tmp_path)  # for its free ports and directories
    names = {
        "port": node.port,
        "cluster": node.cluster_port,
        "data": node.data,
        "config": node.config,
    }
    path = tmp_path / "wrong.hcl"
    path.write_text(template.format(**names))
    ended = run_until_it_ends(path)
    output = ended.stdout + ended.stderr
    # Negative would be a signal: a crash.
    assert ended.returncode > 0, output
    assert output.strip(), "it ended without a word"
    assert word in output, output
    assert "panicked" not in output and "goroutine" not in output, output


def test_configuration_that_is_not_there_is_named(tmp_path):
    ended = run_until_it_ends(tmp_path / "none.hcl")
    assert ended.returncode > 0
    assert "none.hcl" in ended.stdout + ended.stderr


def test_port_in_use_is_named(tmp_path):
    first, second = Node("n1", tmp_path), Node("n2", tmp_path)
    second.config.write_text(second.config.read_text().replace(str(second.port), str(first.port)))
    try:
        first.start()
        ended = run_until_it_ends(second.config)
        assert ended.returncode > 0
        assert "in use" in ended.stdout + ended.stderr
        assert first.health() == 501
    finally:
        first.kill()


@pytest.mark.beyond_openbao("a second process waits for the lock for ever")
def test_second_process_on_the_same_data_is_refused(tmp_path):
    first, second = Node("n1", tmp_path), Node("n2", tmp_path)
    second.config.write_text(second.config.read_text().replace(str(second.data), str(first.data)))
    try:
        first.start()
        Bao(first).run("operator", "init", "-key-shares=1", "-key-threshold=1")
        ended = run_until_it_ends(second.config)
        assert ended.returncode > 0
        assert str(first.process.pid) in ended.stdout + ended.stderr
        first.assert_alive()
    finally:
        first.kill()


def test_json_configuration_works(tmp_path):
    node = Node("n1", tmp_path)
    node.config = node.config.with_suffix(".json")
    configuration = {
        "storage": {"raft": {"path": str(node.data), "node_id": "n1"}},
        "listener": [
            {
                "tcp": {
                    "address": f"127.0.0.1:{node.port}",
                    "cluster_address": node.cluster_address,
                    "tls_disable": True,
                }
            }
        ],
        "api_addr": node.address,
        "cluster_addr": f"https://{node.cluster_address}",
        "disable_mlock": True,
    }
    node.config.write_text(json.dumps(configuration))
    try:
        assert node.start().health() == 501
    finally:
        node.kill()
