# SPDX-License-Identifier: MIT
"""Sizes, durations and tables read as people write them."""

import pytest

from qg.cli.text import duration_text, size_parse, size_text, table_text


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("16M", 16 << 20), ("512m", 512 << 20), ("2GiB", 2 << 30), ("3kb", 3072), ("1T", 1 << 40)],
)
def test_sizes_are_read_in_powers_of_1024(text: str, size: int) -> None:
    assert size_parse(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "M", "1.5G", "1X", "1MM", "one"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        size_parse(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (512 << 20, "512.0 MiB"), (1 << 50, "1024.0 TiB")],
)
def test_sizes_are_written_in_the_largest_unit(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (90_000, "1 d 1 h")]
)
def test_durations_are_written_in_two_units(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_a_table_has_its_numbers_to_the_right() -> None:
    assert table_text([("name", "n"), ("a", "10"), ("bcdef", "7")]) == "name    n\na      10\nbcdef   7"
