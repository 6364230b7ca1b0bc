# SPDX-License-Identifier: MIT
"""What a relay has passed on in a calendar month, kept across restarts, and the end that an operator has set to it."""

import logging
from datetime import UTC, datetime

from qg.errors import LocalError
from qg.storage import file_replace

__all__ = ["Account"]

_log = logging.getLogger("qg.node")

_MONTHS_KEPT = 13
_WARN_PERCENT = 95
_SAVE_S = 60.0


class Account:
    """Count relayed bytes by calendar month (UTC): what came in and what went out again, as hosters count.

    The file holds a line per month, "2026-11 123456", the newest last. A clock that is set back finds the month that it
    comes back to; one that shows a month which was never counted, before the newest, goes on from the newest one's
    bytes: no clock gives a relay more than it is to have. Belongs to one thread.
    """

    def __init__(self, path: str | None, limit: int) -> None:
        self.limit = limit  # bytes in a month; 0: none
        self._path = path
        self._months: dict[str, int] = {} if path is None else _read(path)
        self._seen = 0  # of the core's counter
        self._saved_s = 0.0
        self._is_saved = True
        self._said = 0  # percent that the log has told of
        self.month = ""

    @property
    def used(self) -> int:
        """Give the bytes of the month at the last `look`."""
        return self._months.get(self.month, 0)

    @property
    def is_spent(self) -> bool:
        """Tell whether no new circuits are to be taken before the month ends."""
        return 0 < self.limit <= self.used

    def limit_set(self, limit: int) -> None:
        """Change the end; whether it is reached is told anew."""
        if limit != self.limit:
            self.limit, self._said = limit, 0

    def look(self, n_relayed: int, unix_s: float) -> None:
        """Count what the core has relayed since it started, by the clock of this moment."""
        month = f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m}"
        if month != self.month:
            self._turn(month)
        if n_relayed != self._seen:
            self._months[month] += 2 * (n_relayed - self._seen)
            self._seen = n_relayed
            self._is_saved = False
        self._tell()
        if abs(unix_s - self._saved_s) >= _SAVE_S:
            self.save()
            self._saved_s = unix_s

    def _turn(self, month: str) -> None:
        """Begin a month, or come back to one."""
        newest = max(self._months, default="")
        if month not in self._months:
            self._months[month] = self._months[newest] if month < newest else 0
        for oldest in sorted(self._months)[:-_MONTHS_KEPT]:
            if oldest != month:
                del self._months[oldest]
        self.month, self._said = month, 0

    def _tell(self) -> None:
        percent = self.used * 100 // self.limit if self.limit else 0
        if percent >= 100 > self._said:
            _log.warning(
                "relay_month_spent month=%s bytes=%d: no new circuits until the next month", self.month, self.used
            )
        elif percent >= _WARN_PERCENT > self._said:
            _log.warning("relay_month_low month=%s bytes=%d percent=%d", self.month, self.used, percent)
        self._said = max(self._said, percent)

    def save(self) -> None:
        """Write the file if something is new; what cannot be written is logged, and tried again."""
        if self._path is None or self._is_saved:
            return
        lines = "".join(f"{month} {n}\n" for month, n in sorted(self._months.items()))
        try:
            file_replace(self._path, lines.encode())
        except OSError as error:
            _log.warning("relay_month_unsaved file=%s error=%s", self._path, error.strerror)
        else:
            self._is_saved = True


def _read(path: str) -> dict[str, int]:
    try:
        with open(path, encoding="ascii") as file:
            lines = [line.split() for line in file]
        months = {month: int(n) for month, n in lines}
        for month in months:
            datetime.strptime(month, "%Y-%m")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LocalError(f"{path} cannot be read: {error.strerror}; name another file by relay_account") from None
    except ValueError:
        raise LocalError(
            f"{path} is not an account of relayed bytes, or is damaged: correct it (lines such as '2026-11 123456'), or"
            " move it away to count from nothing"
        ) from None
    return months
