# SPDX-License-Identifier: MIT
"""The known-answer files are those of this version of the protocol, and small."""

import json

import pytest
from model.kat import DIRECTORY, FILES, kat_text


@pytest.mark.parametrize("name", FILES)
def test_the_committed_known_answers_are_what_the_model_says(name):
    assert (DIRECTORY / name).read_text() == kat_text(name), "a change of the protocol needs a new version number"


def test_the_known_answers_stay_small_and_say_what_they_hold():
    assert sum((DIRECTORY / name).stat().st_size for name in FILES) < 300 * 1024
    for name in FILES:
        document = json.loads((DIRECTORY / name).read_text())
        assert document["protocol"] == "qg-v1"
        assert document["fields"]
