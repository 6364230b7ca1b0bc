# SPDX-License-Identifier: MIT
"""Native extenders: services whose streams are served by C functions on the node's own threads, without the GIL."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from qg._core.runtime import extender_table_check
from qg.errors import InvalidValue, Reason
from qg.extender import Extender
from qg.types import ExtenderId

if TYPE_CHECKING:
    from qg.stream import Stream

__all__ = ["NativeExtender", "get_include"]


def get_include() -> str:
    """Give the folder for a compiler's -I, in which `qg/extender.h` is found."""
    packed = Path(__file__).with_name("include")
    return str(packed if packed.is_dir() else packed.parents[1] / "include")


class NativeExtender(Extender):
    """Offer a service whose streams are served by a table of C functions (`qg/extender.h`), never by Python.

    `table` is a PyCapsule named "qg.extender.v1", a pointer of cffi, or an address; it is kept alive by this object,
    the library behind it must stay loaded until the last node that has it is closed. Messages and peers come to Python
    as they do with every extender, where a derived class defines `on_message` or the hooks.

    Raises `InvalidValue` for a table of another version, or one without `on_data`.
    """

    def __init__(self, extender_id: ExtenderId | str, table: object) -> None:
        self.id = extender_id if isinstance(extender_id, ExtenderId) else ExtenderId(extender_id)
        self.table = table if not _is_cffi(table) else _address(table)
        self._kept = table
        try:
            extender_table_check(self.table)
        except (TypeError, ValueError) as error:
            raise InvalidValue(f"{table!r} is not a table of a native extender: {error}") from None

    async def on_stream(self, stream: "Stream") -> None:
        """Refuse a stream that came after the functions had gone; the others are not seen by Python."""
        stream.reset(Reason.UNSUPPORTED)


def _is_cffi(table: object) -> bool:
    return type(table).__module__ == "_cffi_backend"


def _address(table: object) -> int:
    ffi = import_module("cffi").FFI()  # whoever has a pointer of it has it
    return int(ffi.cast("uintptr_t", table))
