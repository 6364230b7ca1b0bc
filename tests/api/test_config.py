# SPDX-License-Identifier: MIT
"""The configuration: its defaults, and how it tells what is wrong."""

from pathlib import Path

import msgspec
import pytest

from qg.address import Endpoint, Prefix
from qg.config import Config, LimitsConfig, LinkConfig, RelayConfig
from qg.errors import ConfigError
from qg.types import PeerId

PEER = PeerId(bytes(32))

WHOLE = f"""
identity = "node.key"
listen = ["tcp://0.0.0.0:7447", "tcp://[::]:7447"]
network_secret = "/etc/qg/net.secret"
allow = ["{PEER}"]
log_level = "debug"

[link]
padding = "none"
suites_removed = ["aegis-256"]
dead_peer_s = 5

[relay]
allow = "members"
targets = ["127.0.0.0/8", "fd00::/8"]
ports = [7447, 443]

[limits]
half_open = 10
exempt = []
"""


def problems_of(table: dict) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        Config.from_dict(table, "qg.toml")
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_an_empty_configuration_relays_nothing_and_listens_nowhere():
    config = Config.from_dict({})
    assert config == Config()
    assert config.listen == ()
    assert config.relay.allow == "none"
    assert not config.allow_first_contact


def test_a_file_is_read_whole(tmp_path):
    path = tmp_path / "qg.toml"
    path.write_text(WHOLE)
    config = Config.load(path)
    assert config.identity == str(tmp_path / "node.key")
    assert config.network_secret == "/etc/qg/net.secret"
    assert config.listen == (Endpoint("tcp", "0.0.0.0", 7447), Endpoint("tcp", "::", 7447))
    assert config.allow == (PEER,)
    assert config.link == LinkConfig(padding="none", suites_removed=("aegis-256",), dead_peer_s=5)
    assert config.relay == RelayConfig(
        allow="members", targets=(Prefix.parse("127.0.0.0/8"), Prefix.parse("fd00::/8")), ports=(7447, 443)
    )
    assert config.limits == LimitsConfig(half_open=10, exempt=())


def test_a_configuration_cannot_be_changed():
    with pytest.raises(AttributeError):
        Config().log_level = "debug"


def test_all_problems_are_told_at_once_each_with_file_key_and_what_is_allowed():
    problems = problems_of(
        {
            "listen": ["tcp://localhost:1", 5],
            "lisen": [],
            "log_level": "loud",
            "allow_unlocked": "yes",
            "identity": 5,
            "allow": ["nobody"],
            "link": {"padding": "heavy", "suites_removed": ["chacha20-poly1305"], "dead_peer_s": 0, "x": 1},
            "relay": {"allow": "everybody", "ports": [0], "targets": "127.0.0.0/8", "memory_mib": 1.5},
            "limits": 5,
        }
    )
    assert all(problem.startswith("qg.toml: ") and "\n" not in problem for problem in problems)
    expected = {
        "listen[0]": "is a name",
        "listen[1]": '"tcp://0.0.0.0:7447"',
        "lisen": "allowed here: access, advertise, allow, ",
        "log_level": '"debug" or "info" or "warning" or "error"',
        "allow_unlocked": "true or false",
        "identity": "a text",
        "allow[0]": "52 base32 characters",
        "link.padding": '"none" or "light" or "blocks-1k" or "blocks-16k"',
        "link.suites_removed[0]": '"aes-256-gcm" or "aegis-256"',
        "link.dead_peer_s": "from 1 to 86400",
        "link.x": "allowed here: ",
        "relay.allow": '"none" or "members", or a list, each item a PeerID',
        "relay.ports[0]": "from 1 to 65535",
        "relay.targets": '"10.0.0.0/8"',
        "relay.memory_mib": "a whole number",
        "limits": "[limits]",
    }
    told = {problem.removeprefix("qg.toml: ").split(":")[0].split(" = ")[0]: problem for problem in problems}
    assert told.keys() == expected.keys()
    for key, part in expected.items():
        assert part in told[key]


@pytest.mark.parametrize("value", [True, "1", 1.0, None, [], {}])
def test_a_number_is_a_whole_number_and_nothing_else(value):
    assert problems_of({"limits": {"half_open": value}}) == (
        f"qg.toml: limits.half_open = {value!r}: must be a whole number from 1 to 1000000",
    )


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"limits": {"sink_min_s": 91}}, "limits.sink_min_s"),
        ({"limits": {"stream_window_kib": 4096}}, "limits.stream_window_kib"),
        ({"allow": "members"}, "allow"),
        ({"relay": {"allow": "members"}}, "relay.allow"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(table, key):
    (problem,) = problems_of(table)
    assert problem.startswith(f"qg.toml: {key} = ")


def test_defaults_satisfy_their_own_rules():
    table = {key: value for key, value in msgspec.structs.asdict(Config()).items() if value is not None}
    for name in ("link", "cover", "relay", "rates", "exit", "forward", "access", "limits"):
        table[name] = msgspec.structs.asdict(table[name])
    assert Config.from_dict(table) == Config()


def test_a_file_that_is_missing_or_no_toml_is_one_line(tmp_path):
    path = tmp_path / "qg.toml"
    with pytest.raises(ConfigError, match=r"qg.toml: cannot be read: No such file") as caught:
        Config.load(path)
    assert len(caught.value.problems) == 1
    for content in (b"listen = [", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"qg.toml: is not TOML") as caught:
            Config.load(path)
        assert len(caught.value.problems) == 1


def test_paths_are_relative_to_the_file_and_home_is_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    config = Config.from_dict({"identity": "~/node.key", "control_socket": "run/qg.sock"}, "/etc/qg/qg.toml")
    assert config.identity == "/home/somebody/node.key"
    assert config.control_socket == str(Path("/etc/qg/run/qg.sock"))


def test_what_others_are_told_can_be_dialled_and_figures_stay_on_this_machine():
    config = Config.from_dict(
        {"advertise": ["tcp://203.0.113.7:7447"], "metrics": "[::1]:9464", "peers": [f"qg://{'a' * 52}@host.example:1"]}
    )
    assert config.advertise == (Endpoint("tcp", "203.0.113.7", 7447),)
    assert str(config.metrics) == "[::1]:9464"
    assert config.peers[0].host == "host.example"
    problems = problems_of(
        {"advertise": ["tcp://0.0.0.0:7447", "tcp://203.0.113.7:0"], "metrics": "10.0.0.1:9464", "peers": ["host:1"]}
    )
    assert [problem.split(" ")[1] for problem in problems] == ["peers[0]:", "advertise[0]", "advertise[1]", "metrics"]
    assert problems_of({"metrics": "localhost:9464"})[0].startswith("qg.toml: metrics: ")
    assert Config.from_dict({"metrics": "10.0.0.1:9464", "metrics_remote": True}).metrics.host == "10.0.0.1"
