# SPDX-License-Identifier: MIT
"""Services that a configuration names, of files and of packages: offered by `qg run`, tried by `qg check`."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import qg
from qg.config import ExtenderUse
from qg.errors import ConfigError
from qg.loading import extenders_load

Run = Callable[..., subprocess.CompletedProcess[str]]

GREETER = '''
import qg

class Greeter(qg.Extender):
    """Say a word to whoever opens a stream."""

    id = qg.ExtenderId("6f1d6a52-4a5e-4f8c-9d0e-3b2a1c0d9f00")
    name = "greeter"

    def __init__(self, word="hello"):
        if word == "nothing":
            raise ValueError("say something")
        self.word = word

    async def on_stream(self, stream):
        await stream.write(self.word.encode())
'''
GREETER_ID = qg.ExtenderId("6f1d6a52-4a5e-4f8c-9d0e-3b2a1c0d9f00")


@pytest.fixture
def greeter(folder: Path) -> Path:
    """Give the file of a service."""
    folder.chmod(0o755)
    path = folder / "greeter.py"
    path.write_text(GREETER)
    path.chmod(0o644)
    return path


def fault(use: str, **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        extenders_load([ExtenderUse(use=use, settings=settings)])
    (problem,) = caught.value.problems
    assert problem.startswith(f"extenders[0].use = {use!r}: ")
    return problem.removeprefix(f"extenders[0].use = {use!r}: ")


def package_make(folder: Path, *lines: str) -> None:
    """Make what an installer leaves of a package with entry points."""
    info = folder / "greetings-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greetings\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(("[qg.extenders]", *lines)) + "\n")


@pytest.mark.net
@pytest.mark.anyio
async def test_a_running_node_offers_what_files_and_packages_hold(
    qg_start: Any, qg_run: Run, greeter: Path, folder: Path, environment: dict[str, str]
) -> None:
    package_make(folder, "echoes = qg.extenders.echo:Echo")
    environment["PYTHONPATH"] = str(folder)
    (folder / "qg.toml").write_text(
        'listen = ["tcp://127.0.0.1:0"]\n[[extenders]]\nuse = "greeter.py:Greeter"\nsettings = {word = "moin"}\n'
        '[[extenders]]\nuse = "echoes"\n'
    )
    checked = qg_run("check", "-c", "qg.toml")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert f"greeter.py:Greeter offers greeter, {GREETER_ID}\n" in checked.stdout
    address = qg_start("run", "-c", "qg.toml").line()
    assert qg_run("ping", "-n", "1", address).returncode == 0
    async with qg.Node(qg.Identity.generate()) as node:
        peer = await node.connect(address)
        async with await peer.open_stream(GREETER_ID) as stream:
            assert await stream.readexactly(4) == b"moin"
    services = qg_run("status").stdout.partition("\nservices\n")[2]
    assert "greeter" in services and "Echo" in services


def test_all_faults_are_told_at_once_by_check_and_run(qg_run: Run, greeter: Path, folder: Path) -> None:
    (folder / "qg.toml").write_text(
        '[[extenders]]\nuse = "gone.py:Greeter"\n[[extenders]]\nuse = "greeter.py:Greeter"\nsettings = {words = 2}\n'
        '[[extenders]]\nuse = "unheard-of"\n'
    )
    for command in ("check", "run"):
        result = qg_run(command, "-c", "qg.toml")
        assert result.returncode != 0
        assert "Traceback" not in result.stderr
        for text in (f"extenders[0].use = '{folder}/gone.py:Greeter'", "extenders[1].use", "extenders[2].use"):
            assert text in result.stderr


def test_what_is_wrong_with_a_file_is_said(greeter: Path) -> None:
    path = str(greeter)
    assert fault(f"{path}:Gone") == f"there is no 'Gone' in {path}"
    assert fault(f"{path}:qg").endswith("is not an extender: name a class made from qg.Extender")
    assert fault(f"{path}:Greeter", words=2).endswith("it takes word")
    assert fault(f"{path}:Greeter", word="nothing") == "it cannot be made: ValueError: say something"
    assert fault(f"{greeter.parent}:Greeter").endswith("cannot be read: Is a directory")
    assert fault(f"{path}.gone:Greeter").endswith("cannot be read: No such file or directory")
    greeter.write_text("import qg\n\n1 / 0\n")
    assert fault(f"{path}:Greeter") == f"{path} cannot be run: ZeroDivisionError: division by zero (line 3)"
    greeter.write_text("class Greeter(\n")
    assert "SyntaxError" in fault(f"{path}:Greeter")
    greeter.write_text("raise SystemExit(0)\n")
    assert "SystemExit" in fault(f"{path}:Greeter")


def test_a_file_that_others_can_change_is_refused(greeter: Path) -> None:
    use = f"{greeter}:Greeter"
    greeter.chmod(0o664)
    assert fault(use) == f"{greeter} can be written by others: chmod go-w {greeter}"
    greeter.chmod(0o644)
    greeter.parent.chmod(0o777)
    assert fault(use) == f"{greeter.parent} can be written by others: chmod go-w {greeter.parent}"
    greeter.parent.chmod(0o755)
    assert len(extenders_load([ExtenderUse(use=use)])) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused(greeter: Path) -> None:
    os.chown(greeter, 65534, 65534)
    assert "belongs to another user" in fault(f"{greeter}:Greeter")


def test_a_pipe_in_place_of_a_file_holds_nobody_up(greeter: Path) -> None:
    greeter.unlink()
    os.mkfifo(greeter, 0o600)
    assert fault(f"{greeter}:Greeter").endswith("is not a file of Python source")


def test_one_service_cannot_be_named_twice(greeter: Path) -> None:
    with pytest.raises(ConfigError, match="two extenders have the id"):
        extenders_load([ExtenderUse(use=f"{greeter}:Greeter")] * 2)


def test_what_is_wrong_with_a_package_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package_make(folder, "gone = greetings_gone:Greeter", "wrong = qg.extenders.echo:asyncio")
    monkeypatch.syspath_prepend(folder)
    assert "ModuleNotFoundError" in fault("gone")
    assert "cannot be imported" in fault("wrong")
    assert "offered are: " in fault("unheard-of") and "gone, wrong" in fault("unheard-of")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("extenders = 1", "extenders = 1"),
        ('extenders = ["x"]', "extenders[0] = 'x'"),
        ("[[extenders]]", "extenders[0].use: is missing"),
        ('[[extenders]]\nuse = "x"\nsettings = 1', "extenders[0].settings = 1: must be a table"),
        ('[[extenders]]\nuse = "x"\nhow = 1', "extenders[0].how: unknown key"),
    ],
)
def test_a_table_that_is_wrong_is_told(folder: Path, text: str, place: str) -> None:
    path = folder / "qg.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        qg.Config.load(path)
    assert place in str(caught.value)


def test_a_path_is_taken_from_the_folder_of_the_configuration(folder: Path) -> None:
    path = folder / "qg.toml"
    path.write_text('[[extenders]]\nuse = "in/x.py:X"\n[[extenders]]\nuse = "named"\n')
    assert [use.use for use in qg.Config.load(path).extenders] == [f"{folder}/in/x.py:X", "named"]
