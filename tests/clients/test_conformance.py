"""One script of requests to a real OpenBao and to Holdfast, answer beside
answer: status, headers that clients look at, body field by field. What differs
between two runs of one server is masked by name, its type is still compared.

A difference that is meant is listed with its reason. One that is not listed
fails, and so does a listed one that is there no more."""

import dataclasses
import json
import re

import pytest

from conftest import running
from servers import KIND, Cluster
from waiting import await_that

pytestmark = pytest.mark.skipif(KIND == "openbao", reason="compares with it already")

# Values that differ between two runs.
VOLATILE = {
    "request_id",
    "nonce",
    "version",
    "upgrade_version",
    "build_date",
    "commit_date",
    "cluster_id",
    "cluster_name",
    "server_time_utc",
    "stable_since",
    "last_contact",
    "last_term",
    "last_index",
    "index",
    "active_time",
    "raft_committed_index",
    "raft_applied_index",
    "challenge",
    "hostname",
    "last_echo",
    "install_time",
    "encryptions",
    "term",
}
HEADERS = ("Content-Type", "Cache-Control", "Strict-Transport-Security", "Location")

# Fields that Vault has, or Holdfast alone: clients ignore what they do not
# know, and some insist on what Vault has.
ADDED = {
    "sys/health": {
        "performance_standby",
        "enterprise",
        "echo_duration_ms",
        "clock_skew_ms",
        "replication_primary_canary_age_ms",
        "removed_from_cluster",
    },
    "sys/seal-status": {"build_date", "removed_from_cluster", "holdfast_version"},
    "sys/unseal": {"build_date", "removed_from_cluster", "holdfast_version"},
    "sys/leader": {
        "performance_standby",
        "performance_standby_last_remote_wal",
    },
}

LONGER = "names what failed: OpenBao writes it to its log only"
BY_PROXY = "streams for the active node: clients lose a redirected archive"
WRAPPED = "wraps the refusal as all other logical paths do"
OWN_ADDRESS = "knows the API addresses of the active node and of the peers it talks to"
SEALS_ITSELF = "a standby seals like any node, with a token"

# Label of a step → why the answers differ.
DIFFERENCES = {
    "uninitialised: join {}": LONGER,
    "uninitialised: join {'leader_api_addr': 'http://127.0.0.1:1'}": LONGER,
    "uninitialised: join {'auto_join': 'provider=nope'}": LONGER,
    "uninitialised: join {'auto_join': 'nope'}": LONGER,
    "active: sys/ha-status as root": OWN_ADDRESS,
    "standby: sys/ha-status as root": OWN_ADDRESS,
    "active: GET sys/storage/raft/bootstrap/challenge": WRAPPED,
    "standby: GET sys/storage/raft/bootstrap/challenge": WRAPPED,
    "standby: DELETE sys/storage/raft/snapshot": BY_PROXY,
    "standby: GET sys/storage/raft/snapshot-force": BY_PROXY,
    "standby: snapshot as None": BY_PROXY,
    "standby: seal as None": SEALS_ITSELF,
}


@dataclasses.dataclass
class Step:
    label: str
    method: str
    path: str
    body: object = None
    token: str = "root"
    headers: dict = dataclasses.field(default_factory=dict)


def step(label, method, path, body=None, token="root", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Step(label, method, path, body, token, headers)


def anybody(phase):
    """What any node answers without a token, in any state."""
    reads = ("sys/seal-status", "sys/health", "sys/init", "sys/leader")
    return [
        *[step(f"{phase}: {path}", "GET", path, token=None) for path in reads],
        step(f"{phase}: HEAD health", "HEAD", "sys/health", token=None),
        step(f"{phase}: standbyok", "GET", "sys/health?standbyok=true", token=None),
        step(f"{phase}: codes", "GET", "sys/health?standbycode=299&sealedcode=298&uninitcode=297", token=None),
        step(f"{phase}: bad code", "GET", "sys/health?sealedcode=x", token=None),
        *[
            step(f"{phase}: {method} {path}", method, path, token=None)
            for method, path in (
                ("DELETE", "sys/health"),
                ("POST", "sys/leader"),
                ("POST", "sys/seal-status"),
                ("DELETE", "sys/init"),
                ("GET", "sys/unseal"),
                ("GET", "sys/seal"),
                ("GET", "sys/step-down"),
                ("GET", "sys/storage/raft/join"),
                ("GET", "sys/storage/raft/bootstrap"),
                ("DELETE", "sys/storage/raft/bootstrap"),
            )
        ],
    ]


def behind_a_token(phase):
    """Reads, and requests that change nothing."""
    raft = "sys/storage/raft"
    steps = []
    for path in (
        f"{raft}/configuration",
        f"{raft}/autopilot/state",
        f"{raft}/autopilot/configuration",
        "sys/ha-status",
        "sys/key-status",
        "sys/nope",
        raft,
        f"{raft}/nope",
        f"{raft}/autopilot",
    ):
        for token in ("root", None, "s.stranger"):
            steps.append(step(f"{phase}: {path} as {token}", "GET", path, token=token))
    for method, path in (
        ("POST", f"{raft}/configuration"),
        ("DELETE", f"{raft}/configuration"),
        ("GET", f"{raft}/remove-peer"),
        ("DELETE", f"{raft}/remove-peer"),
        ("GET", f"{raft}/promote"),
        ("GET", f"{raft}/demote"),
        ("POST", f"{raft}/autopilot/state"),
        ("DELETE", f"{raft}/autopilot/configuration"),
        ("DELETE", f"{raft}/snapshot"),
        ("GET", f"{raft}/snapshot-force"),
        ("GET", f"{raft}/bootstrap/challenge"),
    ):
        steps.append(step(f"{phase}: {method} {path}", method, path))
    for path in ("remove-peer", "promote", "demote"):
        for label, body in (
            ("nothing", {}),
            ("an unknown", {"server_id": "nope"}),
            ("a list", {"server_id": ["a"]}),
            ("a number", {"server_id": 5}),
        ):
            steps.append(step(f"{phase}: {path} {label}", "POST", f"{raft}/{path}", body))
        steps.append(
            step(f"{phase}: {path} as None", "POST", f"{raft}/{path}", {"server_id": "node2"}, None)
        )
    for label, body in (
        ("nothing", {}),
        ("a bad duration", {"last_contact_threshold": "bogus"}),
        ("a bad count", {"max_trailing_logs": "abc"}),
        ("a bad boolean", {"cleanup_dead_servers": [1]}),
        ("cleanup without a floor", {"cleanup_dead_servers": True}),
        (
            "a short threshold",
            {"cleanup_dead_servers": True, "min_quorum": 3, "dead_server_last_contact_threshold": 30},
        ),
        ("null", {"max_trailing_logs": None}),
        ("text for a number", {"max_trailing_logs": "1000"}),
        ("an unknown field", {"nonsense": 1}),
    ):
        steps.append(step(f"{phase}: autopilot {label}", "POST", f"{raft}/autopilot/configuration", body))
    for label, body in (
        ("nothing", {}),
        ("no answer", {"server_id": "x"}),
        ("no address", {"server_id": "x", "answer": "YQ=="}),
        ("no base64", {"server_id": "x", "answer": "!", "cluster_addr": "127.0.0.1:1"}),
        ("a wrong answer", {"server_id": "x", "answer": "YQ==", "cluster_addr": "127.0.0.1:1"}),
    ):
        steps.append(step(f"{phase}: answer {label}", "POST", f"{raft}/bootstrap/answer", body, None))
    steps += [
        step(f"{phase}: challenge nothing", "POST", f"{raft}/bootstrap/challenge", {}, None),
        step(f"{phase}: challenge", "POST", f"{raft}/bootstrap/challenge", {"server_id": "x"}, None),
        step(f"{phase}: namespace", "GET", f"{raft}/configuration", X_Vault_Namespace="other"),
        step(f"{phase}: snapshot as None", "GET", f"{raft}/snapshot", token=None),
        step(f"{phase}: seal as None", "PUT", "sys/seal", token=None),
        step(f"{phase}: step-down as None", "PUT", "sys/step-down", token=None),
        step(f"{phase}: join again", "POST", f"{raft}/join", {"leader_api_addr": "http://127.0.0.1:1"}, None),
        step(f"{phase}: init again", "PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}, None),
        step(f"{phase}: unseal again", "PUT", "sys/unseal", {"key": "00"}, None),
        step(f"{phase}: bootstrap", "POST", f"{raft}/bootstrap", {}, None),
        step(f"{phase}: malformed", "POST", f"{raft}/remove-peer", b"{"),
    ]
    return steps


UNINITIALISED = [
    *anybody("uninitialised"),
    *[
        step(f"uninitialised: init {body}", "PUT", "sys/init", body, None)
        for body in (
            {},
            {"secret_shares": 3, "secret_threshold": 1},
            {"secret_shares": 1, "secret_threshold": 2},
            {"secret_shares": 256, "secret_threshold": 2},
            {"secret_shares": "x"},
            {"recovery_shares": 1},
        )
    ],
    *[
        step(f"uninitialised: join {body}", "POST", "sys/storage/raft/join", body, None)
        for body in (
            {},
            {"leader_api_addr": "http://127.0.0.1:1"},
            {"leader_api_addr": 5},
            {"auto_join_port": "x"},
            {"auto_join": "x", "auto_join_scheme": "ftp"},
            {"auto_join": "provider=nope"},
            {"auto_join": "nope"},
            {"leader_api_addr": "http://127.0.0.1:1", "leader_client_cert": "abc"},
        )
    ],
    step("uninitialised: unseal", "PUT", "sys/unseal", {"key": "00"}, None),
    step("uninitialised: unseal nothing", "PUT", "sys/unseal", {}, None),
    step("uninitialised: seal", "PUT", "sys/seal", token=None),
    step("uninitialised: step-down", "PUT", "sys/step-down", token=None),
    step("uninitialised: configuration", "GET", "sys/storage/raft/configuration", token=None),
    step("uninitialised: snapshot", "GET", "sys/storage/raft/snapshot", token=None),
    step("uninitialised: state", "GET", "sys/storage/raft/autopilot/state", token=None),
]

SEALED = [
    *anybody("sealed"),
    step("sealed: seal", "PUT", "sys/seal", token=None),
    step("sealed: step-down", "PUT", "sys/step-down"),
    step("sealed: unseal nothing", "PUT", "sys/unseal", {}, None),
    step("sealed: unseal reset", "PUT", "sys/unseal", {"reset": True}, None),
    step("sealed: unseal junk", "PUT", "sys/unseal", {"key": "junk!"}, None),
    step("sealed: configuration", "GET", "sys/storage/raft/configuration"),
    step("sealed: snapshot", "GET", "sys/storage/raft/snapshot"),
    step("sealed: remove-peer", "POST", "sys/storage/raft/remove-peer", {"server_id": "x"}),
    step("sealed: challenge", "POST", "sys/storage/raft/bootstrap/challenge", {"server_id": "x"}, None),
]

# In this order: each is seen by the next.
CHANGES = [
    step("change: autopilot", "PUT", "sys/storage/raft/autopilot/configuration", {"max_trailing_logs": 500}),
    step("change: autopilot read", "GET", "sys/storage/raft/autopilot/configuration"),
    step("change: garbage snapshot", "POST", "sys/storage/raft/snapshot", b"garbage"),
    step("change: remove an unknown", "PUT", "sys/storage/raft/remove-peer", {"server_id": "nope"}),
    step("change: remove node3", "PUT", "sys/storage/raft/remove-peer", {"server_id": "node3"}),
    step("change: remove it again", "PUT", "sys/storage/raft/remove-peer", {"server_id": "node3"}),
    step("change: configuration", "GET", "sys/storage/raft/configuration"),
]


def masked(value, key, names):
    if key in VOLATILE and value is not None:
        return f"<{type(value).__name__}>"
    if isinstance(value, dict):
        return {name: masked(inner, name, names) for name, inner in value.items()}
    if isinstance(value, list):
        return [masked(inner, None, names) for inner in value]
    if isinstance(value, str):
        return renamed(value, names)
    return value


def renamed(text, names):
    for address, name in names.items():
        text = text.replace(address, name)
    return re.sub(r"request_id=\S+", "request_id=", text)


def answer_of(cluster, node, asked):
    names = {}
    for other in cluster.nodes:
        names[other.address] = f"<api of {other.name}>"
        names[other.cluster_address] = f"<cluster address of {other.name}>"
    token = cluster.root_token if asked.token == "root" else asked.token
    content = {"data": asked.body} if isinstance(asked.body, bytes) else {"json": asked.body}
    answer = node.request(
        asked.method, asked.path, token, headers=dict(asked.headers), timeout=60, **content
    )
    try:
        body = masked(answer.json(), None, names)
    except ValueError:
        body = renamed(answer.text[:300], names)
    path = asked.path.split("?")[0]
    if isinstance(body, dict):
        body = {name: inner for name, inner in body.items() if name not in ADDED.get(path, ())}
    headers = {name: answer.headers.get(name) for name in HEADERS}
    headers = {name: renamed(value, names) for name, value in headers.items() if value}
    return {"status": answer.status_code, "headers": headers, "body": body}


def answers_of(directory, kind):
    """Label → answer, of a whole life of one cluster."""
    answers = {}
    with running(Cluster(directory / kind, kind=kind)) as cluster:
        first, *others = cluster.nodes

        def run(steps, node):
            for asked in steps:
                assert asked.label not in answers, asked.label
                answers[asked.label] = answer_of(cluster, node, asked)

        first.start()
        run(UNINITIALISED, first)
        cluster.initialise(3, 2)
        run(SEALED, first)
        first.unseal(cluster.keys[:2])
        cluster.await_active()
        for node in others:
            node.start()
            node.request("POST", "sys/storage/raft/join", json={"leader_api_addr": first.address})
            node.unseal(cluster.keys[:2])
        cluster.await_voters(3)
        await_that("everybody to be healthy", lambda: is_healthy(cluster, first))
        for phase, node in (("active", first), ("standby", others[0])):
            run(anybody(phase), node)
            run(behind_a_token(phase), node)
        run(CHANGES, first)
    return answers


def is_healthy(cluster, node):
    answer = node.request("GET", "sys/storage/raft/autopilot/state", cluster.root_token).json()
    state = answer["data"]
    return state["healthy"] and state["failure_tolerance"] == 1


def test_answers_are_openbaos_but_where_it_is_said_why(tmp_path):
    reference = answers_of(tmp_path, "openbao")
    ours = answers_of(tmp_path, "holdfast")
    different = {
        label: f"{label}\n  openbao:  {json.dumps(expected)}\n  holdfast: {json.dumps(ours[label])}"
        for label, expected in reference.items()
        if ours[label] != expected
    }
    unexplained = [text for label, text in different.items() if label not in DIFFERENCES]
    stale = sorted(label for label in DIFFERENCES if label not in different)
    count = f"{len(reference)} answers, {len(different)} differ"
    print(count)
    assert not unexplained, f"{count}, {len(unexplained)} unexplained:\n" + "\n".join(unexplained)
    assert not stale, f"listed, and the same by now: {stale}"
