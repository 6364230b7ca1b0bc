# SPDX-License-Identifier: MIT
"""The machinery of the benchmarks: comparing, what is missing, the table, the plot, and processes that end."""

import json
import socket
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import plot, report  # noqa: E402
from benchmarks.harness import HOPS, compare, pair, python_role  # noqa: E402
from benchmarks.program import NotInstalled, Program, descendants, is_running, port_is_open, process_cpu_s  # noqa: E402
from benchmarks.targets import TARGETS, Target  # noqa: E402
from benchmarks.test_engines import Pair, hash_long, measure  # noqa: E402


class Rounds:
    """What `compare` uses of pytest-benchmark."""

    def __init__(self):
        self.extra_info = {}

    def pedantic(self, work, rounds):
        for _ in range(rounds):
            work()


def test_candidates_alternate_and_one_that_is_missing_is_named():
    order = []

    def measured(name):
        order.append(name)
        return {"figure": len(order)}

    def missing():
        raise NotInstalled("c is not installed: install c")

    benchmark = Rounds()
    compare(benchmark, {"a": lambda: measured("a"), "b": lambda: measured("b"), "c": missing}, n_rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert benchmark.extra_info["figures"] == {"a": {"figure": [1, 4, 5]}, "b": {"figure": [2, 3, 6]}}
    assert benchmark.extra_info["missing"] == {"c": "c is not installed: install c"}


def test_a_candidate_that_fails_keeps_what_was_measured_and_is_given_up_after_the_second_time():
    calls = []

    def failing():
        calls.append("b")
        if len(calls) == 1:
            return {"figure": 7}
        raise OSError("cut")

    benchmark = Rounds()
    with pytest.raises(RuntimeError, match="'b': 'OSError: cut'"):
        compare(benchmark, {"a": lambda: {"figure": 1}, "b": failing}, n_rounds=5)
    assert calls == ["b"] * 3
    assert benchmark.extra_info["figures"] == {"a": {"figure": [1] * 5}, "b": {"figure": [7]}}
    assert benchmark.extra_info["failed"] == {"b": "OSError: cut"}


def test_a_file_that_fails_or_dies_is_named_and_costs_no_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RECORDS", tmp_path)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # a worker of these tests measures nothing
    path = tmp_path / "test_it.py"
    path.write_text(
        "from benchmarks.harness import HOPS, compare\n"
        "def fails(): raise OSError('cut')\n"
        "def test_one(benchmark): compare(benchmark, {'a': lambda: {'figure': 3}, 'b': fails}, 2)\n"
    )
    run = report.file_run(path)
    assert run.figures == {"test_one": {"a": {"figure": [3, 3]}}}
    assert run.failures == ["test_one, b: OSError: cut"]
    path.write_text("import os\ndef test_two(benchmark): os.abort()\n")
    assert report.file_run(path) == ({}, ["test_it.py: pytest ended with -6"])


@pytest.mark.slow
def test_a_file_that_takes_too_long_is_named_and_keeps_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RECORDS", tmp_path)
    monkeypatch.setattr(report, "FILE_LIMIT_S", 15)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    path = tmp_path / "test_it.py"
    path.write_text(
        "import time\n"
        "from benchmarks.harness import compare\n"
        "waits_s = iter([0, 600])\n"
        "def slow():\n    time.sleep(next(waits_s))\n    return {'figure': 3}\n"
        "def test_one(benchmark): compare(benchmark, {'a': slow}, 2)\n"
    )
    run = report.file_run(path)
    assert run == ({"test_one": {"a": {"figure": [3]}}}, ["test_it.py: pytest ended with 2"])


def test_the_report_says_how_often_it_measured_and_what_is_left_out():
    rounds = {test: {"qg": {"key": [1] * 5}} for test in ("test_hops", *(target.test for target in TARGETS))}
    assert report.scope_text(rounds) == "one run: 5 rounds of each work; nothing is left out"
    rounds["test_ping"]["qg"]["key"] = [1] * 11
    del rounds["test_link"], rounds["test_circuit"]
    less = "one run: 5 rounds of each work, but 11 of test_ping; without test_circuit, test_link"
    assert report.scope_text(rounds) == less
    assert report.scope_text({}) == "nothing was measured"


@pytest.mark.parametrize(("last", "words"), [(8, ["0.0%", "reached"]), (14, ["61.5%", "**missed**"])])
def test_what_hops_cost_is_held_against_a_line(last, words):
    costs = dict(zip(HOPS.values(), [3, 4, 5, 6, 7, last], strict=True))
    figures = {"test_hops": {name: {"cpu_s_per_gb": [cost]} for name, cost in costs.items()}}
    row = report.hops_row(figures)
    assert [row[3], row[5]] == words
    del figures["test_hops"]["1 relay"]
    assert report.hops_row(figures)[-1] == "not measured"


def figures(**medians):
    return {"test_x": {name: {"key": [value]} for name, value in medians.items()}}


@pytest.mark.parametrize(
    ("sense", "limit", "words"),
    [
        ("at most", 2, "reached"),
        ("at most", 1.9, "**missed**"),
        ("at least", 2, "reached"),
        ("at least", 2.1, "**missed**"),
    ],
)
def test_a_line_of_the_table_is_reached_or_missed(sense, limit, words):
    target = Target("work", "test_x", "qg", "key", limit, against="peer", sense=sense)
    row = report.target_row(target, figures(qg=6, peer=3))
    assert row == ["work", "6", "peer: 3", "2 ×", f"{sense} {limit:g} ×", words]


def test_a_line_whose_peer_is_missing_says_so():
    target = Target("work", "test_x", "qg", "key", 1, against="peer")
    assert report.target_row(target, figures(qg=6))[-1] == "not measured"
    assert report.target_row(target, {})[-1] == "not measured"


def test_every_line_of_the_table_names_a_benchmark_that_exists():
    tests = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("test_*.py"))
    assert [target.test for target in TARGETS if f"def {target.test}(" not in tests] == []


def test_the_line_through_points_of_a_line_is_that_line():
    assert plot.line_fit([1, 2, 3, 4], [5, 8, 11, 14]) == pytest.approx((3, 2))


def test_the_plot_is_xml_with_a_dot_for_each_point():
    root = ElementTree.fromstring(plot.scatter_svg("t", "x", "y", [1, 2, 3], [[1, 2], [2, 3], [3, 4]]))
    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == 3


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")
def test_a_program_ends_with_its_children(tmp_path):
    work = "import os, time\nos.fork()\ntime.sleep(600)"
    with Program([sys.executable, "-c", work], tmp_path / "log") as program:
        program.ready(lambda: len(descendants(program.pid)) == 2)
        pids = descendants(program.pid)
        assert program.cpu_s() >= process_cpu_s(program.pid) > 0
        assert all(map(is_running, pids))
    assert not any(map(is_running, pids))


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")
def test_a_program_that_ends_too_early_is_an_error_with_its_last_words(tmp_path):
    with (
        Program([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path / "log") as program,
        pytest.raises(ChildProcessError, match="no such thing"),
    ):
        program.ready(lambda: False)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")
def test_a_port_is_open_while_somebody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert port_is_open(port)
    assert not port_is_open(port)


def test_engines_push_bytes_over_memory_on_threads_of_their_own():
    works = [Pair().push, Pair().push, hash_long]
    assert all(value > 0 for value in measure(works, 1 << 20).values())
    pair = Pair()
    pair.push(1 << 22)
    assert pair.target.status()["in_len"] - pair.source.status()["in_len"] > 1 << 22
    with pytest.raises(ValueError, match="not both open"):
        pair.source.push(1, 7, pair.target, pair.far_flow, 9, 1, 0)


SUITE = "chacha20-poly1305"


def test_a_server_of_qg_counts_who_comes_and_goes():
    with pair("qg", "idle", SUITE) as (server, client):
        client.ask("prepare", n=3)
        client.ask("handshakes", n=3, n_in_flight=2)
        server.ask("opened", total=3)
        server.ask("closed", total=3)


@pytest.mark.parametrize("taken", ["lists", "callbacks", "each"])
def test_a_server_of_qg_counts_messages_however_they_are_taken(taken):
    with (
        python_role("qg_messages", "server", taken, SUITE) as receiver,
        python_role("qg_messages", "client", json.dumps(receiver.hello), "batch", SUITE) as sender,
    ):
        sender.ask("messages", n=2_000)
        receiver.ask("received_messages", total=2_000)
