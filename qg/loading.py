# SPDX-License-Identifier: MIT
"""Extenders that a configuration names: from installed packages by entry point, and from Python files by path."""

import inspect
import os
import stat
import sys
import traceback
from collections.abc import Iterable
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from qg.config import ExtenderUse
from qg.errors import ConfigError, InvalidValue, QGError
from qg.extender import Extender, Registry

__all__ = ["extenders_load"]

_GROUP = "qg.extenders"
_SOURCE_MAX = 4 << 20  # bytes of a file; what is longer is no source


def extenders_load(uses: Iterable[ExtenderUse]) -> list[Extender]:
    """Make all extenders; raises `ConfigError` with a line for each that cannot be had. Runs their code."""
    extenders, problems = [], []
    modules: dict[str, ModuleType] = {}
    for idx, use in enumerate(uses):
        where = f"extenders[{idx}].use = {use.use!r}"
        try:
            path, separator, class_name = use.use.rpartition(":")
            found = _file_class(path, class_name, modules) if separator else _package_class(use.use)
            extenders.append(_made(found, use.settings))
        except InvalidValue as error:
            problems.append(f"{where}: {error}")
    try:
        Registry(extenders)
    except InvalidValue as error:
        problems.append(f"extenders: {error}")
    if problems:
        raise ConfigError(*problems)
    return extenders


def _made(found: Any, settings: dict[str, Any]) -> Extender:
    if not isinstance(found, type) or not issubclass(found, Extender):
        raise InvalidValue(f"{found!r} is not an extender: name a class made from qg.Extender")
    try:
        inspect.signature(found).bind(**settings)
    except (TypeError, ValueError) as error:
        raise InvalidValue(f"its settings do not fit: {error}; it takes {_signature_text(found)}") from None
    try:
        return found(**settings)
    except Exception as error:
        raise InvalidValue(f"it cannot be made: {_error_text(error)}") from error


def _signature_text(found: type[Extender]) -> str:
    return ", ".join(inspect.signature(found).parameters) or "none"


def _package_class(name: str) -> Any:
    """Import what an installed package offers under a name."""
    offered = entry_points(group=_GROUP)
    fitting = {point.value: point for point in offered.select(name=name)}
    if not fitting:
        names = ", ".join(sorted(offered.names)) or "none"
        raise InvalidValue(
            f"no installed package offers it; offered are: {names}; a file is written path/to/file.py:Class"
        )
    if len(fitting) > 1:
        raise InvalidValue(f"several packages offer it: {', '.join(sorted(fitting))}")
    place, point = fitting.popitem()
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        raise InvalidValue(f"{place} cannot be imported: {_error_text(error)}") from error


def _file_class(path: str, class_name: str, modules: dict[str, ModuleType]) -> Any:
    """Run a file, once for all classes that are named of it, and give the class."""
    path = os.path.realpath(path)
    if path not in modules:
        modules[path] = _file_run(path)
    try:
        return getattr(modules[path], class_name)
    except AttributeError:
        raise InvalidValue(f"there is no {class_name!r} in {path}") from None


def _file_run(path: str) -> ModuleType:
    source = _source_read(path)
    name = f"qg_extender_{os.path.basename(path).removesuffix('.py')}"
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module  # dataclasses and pickle look there
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InvalidValue(f"{path} cannot be run: {_error_text(error)}{_line_text(error, path)}") from error
    return module


def _source_read(path: str) -> bytes:
    """Read a file that nobody but its owner can have written: what is checked is what is read."""
    for place in _places(os.path.dirname(path)):
        _owner_check(place, os.stat(place))
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size > _SOURCE_MAX:
                raise InvalidValue(f"{path} is not a file of Python source")
            _owner_check(path, found)
            return file.read(_SOURCE_MAX)
    except OSError as error:
        raise InvalidValue(f"{path} cannot be read: {error.strerror}") from None


def _places(folder: str) -> list[str]:
    """Give a folder and all above it, as far as they are there."""
    places = [folder]
    while (above := os.path.dirname(places[-1])) != places[-1]:
        places.append(above)
    return [place for place in places if os.path.isdir(place)]


def _owner_check(path: str, found: os.stat_result) -> None:
    """Refuse what others than its owner can change: whoever writes there runs code as this user."""
    if found.st_uid not in (0, os.geteuid()):
        raise InvalidValue(f"{path} belongs to another user, who could change what this node does")
    is_shared = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX  # as /tmp: others' files stay others'
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_shared:
        raise InvalidValue(f"{path} can be written by others: chmod go-w {path}")


def _error_text(error: BaseException) -> str:
    return str(error) if isinstance(error, QGError) else f"{type(error).__name__}: {error}"


def _line_text(error: BaseException, path: str) -> str:
    """Say where in the file it happened; errors of syntax say it themselves."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f" (line {lines[-1]})" if lines else ""
