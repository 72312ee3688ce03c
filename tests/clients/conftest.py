"""Fixtures: clusters of real processes, ended whatever a test does."""

import contextlib

import pytest

from servers import KIND, Bao, Cluster, Tls


def pytest_collection_modifyitems(items):
    if KIND != "openbao":
        return
    for item in items:
        mark = item.get_closest_marker("beyond_openbao")
        if mark:
            item.add_marker(pytest.mark.skip(reason=f"OpenBao: {mark.args[0]}"))


def pytest_report_header():
    return f"server under test: {KIND}"


@contextlib.contextmanager
def running(cluster):
    """Shows the servers' logs if the test fails; ends the processes anyway."""
    try:
        yield cluster
    except BaseException:
        for node in cluster.nodes:
            if node.log.exists():
                print(f"--- log of {node.name}\n{node.log_tail()}")
        raise
    finally:
        cluster.stop_all()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Three voters with a KV v1 mount at kv/, shared by a file's tests: those
    leave it as they found it, apart from secrets."""
    directory = tmp_path_factory.mktemp("cluster")
    with running(Cluster(directory)) as cluster:
        cluster.form()
        cluster.mount_kv()
        yield cluster


@pytest.fixture
def fresh_cluster(tmp_path):
    """A function that makes clusters: formed, private to one test."""
    with contextlib.ExitStack() as stack:
        count = 0

        def make(size=3, formed=True, **options):
            nonlocal count
            count += 1
            cluster = stack.enter_context(running(Cluster(tmp_path / str(count), size, **options)))
            return cluster.form() if formed else cluster

        yield make


@pytest.fixture(scope="session")
def tls(tmp_path_factory):
    return Tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def bao(cluster):
    """The CLI with the root token at the active node."""
    return Bao(cluster.await_active(), cluster.root_token)
