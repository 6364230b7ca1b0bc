# SPDX-License-Identifier: MIT
"""The control socket belongs to its owner, answers what it knows, and leaves nothing behind."""

import asyncio
import os
import socket
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from qg.cli.status import _lines
from qg.control import ControlServer, control_ask, control_path_default, control_stop, status_object
from qg.errors import LocalError
from qg.status import COUNTERS
from qg.types import ExtenderId, KeptInfo, LinkInfo, LinkKey, PeerId, PeerInfo, Status

PEER = PeerId(bytes(32))


def served(path: Path, answers: Mapping[str, Callable[[], object]], client: Callable[[], Any]) -> Any:
    """Run a blocking client while the server answers."""

    async def main() -> Any:
        async with ControlServer(path, answers):
            return await asyncio.to_thread(client)

    return asyncio.run(main())


def raw_answer(path: Path, line: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(line)
        return connection.recv(65536)


def test_only_the_owner_may_use_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "qg.sock"
    mode = served(path, {}, lambda: os.stat(path).st_mode)
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only there do long paths have short names")
def test_a_folder_whose_path_is_longer_than_a_sockets_address_will_do(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120) / "qg.sock"
    assert served(path, {"status": lambda: 3}, lambda: control_ask(path, "status")) == 3
    assert not path.exists()
    with pytest.raises(LocalError, match="no node answers"):
        control_ask(path, "status")


def test_an_answer_comes_back_as_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "qg.sock"
    assert served(path, {"status": lambda: {"peer": PEER, "n": 3}}, lambda: control_ask(path, "status")) == {
        "peer": str(PEER),
        "n": 3,
    }


def test_an_answer_that_takes_waiting_comes_back_and_so_does_its_refusal(tmp_path: Path) -> None:
    path = tmp_path / "qg.sock"

    async def slow() -> object:
        await asyncio.sleep(0)
        return {"done": 1}

    async def refuse() -> object:
        await asyncio.sleep(0)
        raise LocalError("not now")

    assert served(path, {"reload": slow}, lambda: control_ask(path, "reload")) == {"done": 1}
    with pytest.raises(LocalError, match="not now"):
        served(path, {"reload": refuse}, lambda: control_ask(path, "reload"))


def test_a_refusal_comes_back_as_an_error(tmp_path: Path) -> None:
    path = tmp_path / "qg.sock"

    def refuse() -> object:
        raise LocalError("not started yet")

    with pytest.raises(LocalError, match="not started yet"):
        served(path, {"status": refuse}, lambda: control_ask(path, "status"))


@pytest.mark.parametrize("line", [b"{}\n", b"status\n", b'{"do": "format disk"}\n', b"\xff\n", b'{"do": 3}\n'])
def test_nonsense_is_answered_with_an_error_and_the_server_lives_on(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "qg.sock"

    def client() -> tuple[bytes, Any]:
        return raw_answer(path, line), control_ask(path, "status")

    answer, after = served(path, {"status": lambda: 1}, client)
    assert answer.startswith(b'{"error":')
    assert after == 1


def test_a_request_without_an_end_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "qg.sock"

    def ask() -> bytes:
        with suppress(ConnectionError):  # while it still sends
            return raw_answer(path, b"x" * (17 << 20))
        return b""

    assert served(path, {}, ask) == b""


def test_who_asks_to_stop_is_answered_and_stays_connected_until_the_server_has_gone(tmp_path: Path) -> None:
    path = tmp_path / "qg.sock"
    client = socket.socket(socket.AF_UNIX)

    def ask() -> tuple[bytes, bytes]:
        client.connect(str(path))
        with client.makefile("rwb", buffering=0) as lines:
            lines.write(b'{"do": "stop"}\n')
            first = lines.readline()
            lines.write(b'{"do": "status"}\n')
            return first, lines.readline()

    with client:
        assert served(path, {"stop": lambda: None, "status": lambda: 1}, ask) == (b"{}\n", b'{"ok":1}\n')
        assert client.recv(1) == b""


def test_stop_returns_when_the_server_has_gone(tmp_path: Path) -> None:
    path = tmp_path / "qg.sock"

    async def main() -> None:
        stopped = asyncio.Event()
        async with ControlServer(path, {"stop": stopped.set, "status": lambda: 1}):
            client = asyncio.create_task(asyncio.to_thread(control_stop, path))
            await stopped.wait()
            for _ in range(10):  # long enough for one that does not wait
                await asyncio.to_thread(control_ask, path, "status")
            assert not client.done()
        await client

    asyncio.run(main())


def test_the_socket_of_a_dead_node_is_replaced_and_taken_away_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "qg.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert served(path, {"status": lambda: 1}, lambda: control_ask(path, "status")) == 1
    assert not path.exists()


def test_the_socket_of_a_living_node_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "qg.sock"

    def second() -> None:
        with pytest.raises(LocalError, match="another node"):
            ControlServer(path, {})

    served(path, {}, second)


def test_a_file_that_is_no_socket_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "qg.sock"
    path.write_text("precious")
    with pytest.raises(LocalError, match="not a control socket"):
        ControlServer(path, {})
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long_says_so(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="--control"):
        ControlServer(tmp_path / ("x" * 120), {})


def test_asking_where_nobody_is_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="qg run"):
        control_ask(tmp_path / "none.sock", "status")


def test_without_a_run_time_folder_the_socket_is_in_the_users_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert control_path_default() == Path("/run/user/7/qg.sock")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", "/home/a/state")
    assert control_path_default() == Path("/home/a/state/qg/qg.sock")


STATUS_KEYS = {
    "version", "peer_id", "link_key", "uptime_s", "listen", "peers", "links", "relayed_bytes", "n_splices",
    "n_circuit_links", "counters", "memory_bytes", "locked_bytes", "is_locked", "clock_skew_s",
}  # fmt: skip
PEER_KEYS = {"peer_id", "n_links", "n_streams", "extenders"}
LINK_KEYS = {
    "peer_id", "carrier", "remote", "is_outgoing", "suite", "age_s", "generation", "bytes_in", "bytes_out", "n_streams",
    "rtt_us",
}  # fmt: skip


def test_the_keys_of_a_status_stay_and_are_documented() -> None:
    assert set(Status._fields) >= STATUS_KEYS
    assert set(PeerInfo._fields) >= PEER_KEYS
    assert set(LinkInfo._fields) >= LINK_KEYS
    page = Path(__file__).parents[2].joinpath("docs", "running.md").read_text()
    for key in (*Status._fields, *PeerInfo._fields, *LinkInfo._fields):
        assert f"`{key}`" in page


def test_a_status_is_printed_in_eighty_columns() -> None:
    longest = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"
    links = [
        LinkInfo(
            PEER, "tcp", longest, False, "chacha20-poly1305", 86399.0, 999, 2**40 - 1, 2**40 - 1, 1024, 99_999_999
        ),
        LinkInfo(PEER, "pipe", "127.0.0.1:7447", True, "aegis-256", 1.0, 0, 1, 2, 3, None),
    ]
    status = Status(
        version="1",
        peer_id=PEER,
        link_key=LinkKey(bytes(32)),
        uptime_s=1.5,
        listen=(f"tcp://{longest}",) * 3,
        peers=(PeerInfo(PEER, 2, 3, ()),),
        links=tuple(links),
        relayed_bytes=2**50,
        n_splices=65536,
        n_circuit_links=10_000,
        counters=dict.fromkeys(COUNTERS, 10**9 - 1),
        memory_bytes=2**40 - 1,
        locked_bytes=2**40 - 1,
        is_locked=False,
        clock_skew_s=-3600.0,
        is_draining=True,
        kept=(KeptInfo("qg://x@203.0.113.7:7447?via=y@z:1", PEER, False, 12, 299.0, "away"),) * 2,
    )
    text = "\n".join(_lines(status_object(status)))
    assert max(map(len, text.splitlines())) <= 80
    for word in ("NOT locked", "-3600 s (others refuse", "over relays", "999", "1024.0 GiB", *COUNTERS, longest):
        assert word in text
    for word in ("draining", "203.0.113.7:7447 aaaaaaaa", "in 4 min 59 s"):
        assert word in text


def test_a_status_becomes_objects_and_texts() -> None:
    link = LinkInfo(PEER, "tcp", "127.0.0.1:1", True, "aegis-256", 1.0, 0, 1, 2, 3, None)
    service = ExtenderId(bytes(16))
    status = Status(
        version="1",
        peer_id=PEER,
        link_key=LinkKey(bytes(32)),
        uptime_s=1.5,
        listen=("tcp://127.0.0.1:1",),
        peers=(PeerInfo(PEER, 1, 3, (service,)),),
        links=(link,),
        relayed_bytes=0,
        n_splices=0,
        n_circuit_links=0,
        counters=MappingProxyType({"replay": 2}),
        memory_bytes=0,
        locked_bytes=0,
        is_locked=True,
        clock_skew_s=None,
    )
    plain = status_object(status)
    assert plain["peer_id"] == str(PEER)
    assert plain["links"][0]["suite"] == "aegis-256"
    assert plain["peers"][0]["extenders"] == (str(service),)
    assert plain["counters"] == {"replay": 2}
