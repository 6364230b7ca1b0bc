# SPDX-License-Identifier: MIT
"""The ProVerif models say what the protocol does: their two sides understand each other, and nobody else."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest
from model import noise

FOLDER = Path(__file__).parents[1] / "docs" / "formal"
NAMES = {"XK": "XKhfs+psk3", "XX": "XXhfs+psk3", "NK": "NKhfs+psk2", "NN": "NNhfs+psk0"}

spec = importlib.util.spec_from_file_location("formal_models", FOLDER / "models.py")
models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(models)

EVERY = [(pattern, name) for pattern, questions in models.QUESTIONS.items() for name in questions]


def normal(term):
    """Reduce a term as the equation and the destructors of the models do; raises where a destructor fails."""
    if isinstance(term, str):
        return term
    name, *arguments = term
    arguments = [normal(each) for each in arguments]
    if name == "exp":
        base, exponents = arguments[0], [arguments[1]]
        while isinstance(base, tuple) and base[0] == "exp":
            base, exponents = base[1], [*base[2:], *exponents]
        return ("exp", base, *sorted(exponents))
    if name == "adec":
        key, nonce, ad, sealed = arguments
        assert sealed[:4] == ("aenc", key, nonce, ad), "it does not open"
        return sealed[4]
    if name == "kdec":
        secret, (what, public, drawn) = arguments
        assert (what, public) == ("kct", ("kpub", secret)), "not for this key"
        return ("kss", public, drawn)
    return (name, *arguments)


class Run:
    """One side of an honest run, statement by statement."""

    def __init__(self, pattern, role, **known):
        self.role = role
        self.values = known
        self.program = iter(models.side(pattern, role))
        self.events = []
        self.said = None

    def value(self, term):
        if isinstance(term, str):
            return self.values.get(term, term)
        return normal((term[0], *map(self.value, term[1:])))

    def go(self, message=None):
        """Go on to the next message to be read, or to the end; what was written last."""
        written = None
        for what, *rest in self.program:
            if what == "new":
                self.values[rest[0]] = f"{rest[0]}{self.role}"
            elif what == "let":
                self.values[rest[0]] = self.value(rest[1])
            elif what == "open":
                self.take(rest[0], self.value(rest[1]))
            elif what == "in":
                if message is None:
                    self.wanted = rest[0]
                    return written
                self.receive(rest[0], message)
                message = None
            elif what == "out":
                written = [self.value(term) for term in rest[0]]
            elif what == "event":
                self.events.append((rest[0], [self.value(term) for term in rest[1]]))
            else:
                self.said = self.value(rest[0])
        return written

    def receive(self, names, message):
        for (name, _), value in zip(names, message, strict=True):
            self.values[name] = value

    def take(self, form, value):
        if form == "=empty":
            assert value == "empty"
        elif isinstance(form, tuple):
            assert value[0] == form[0]
            self.values[form[1]] = value[1]
        else:
            self.values[form] = value


def honest(pattern, spoil=None, keys=("s0", "s1")):
    """Run both sides of a handshake; `spoil` changes one message on the way."""
    known = {"rs": ("exp", "g", keys[1])} if models.PATTERNS[pattern][0] else {}
    sides = [Run(pattern, 0, s=keys[0], **known), Run(pattern, 1, s=keys[1])]
    sides[1].go()  # up to its first reading
    message, reader = sides[0].go(), 1
    for number in range(1, len(models.PATTERNS[pattern])):
        if spoil == number:
            message = [*message[:-1], ("aenc", "other", *message[-1][2:])]
        waiting = sides[reader]
        waiting.receive(waiting.wanted, message)
        message, reader = waiting.go(), 1 - reader
    return sides


@pytest.mark.parametrize("pattern", models.PATTERNS)
def test_the_tokens_are_those_of_the_protocol(pattern):
    assert models.PATTERNS[pattern] == noise.PATTERNS[NAMES[pattern]]


@pytest.mark.parametrize("pattern", models.PATTERNS)
def test_both_sides_of_a_model_come_to_the_same_keys(pattern):
    sides = honest(pattern)
    chains = [side.said[1][1] for side in sides]
    assert chains[0] == chains[1]
    assert [side.said[1][0] for side in sides] == ["split1", "split2"]
    sent = {(name[4:], tuple(values)) for side in sides for name, values in side.events if name.startswith("Sent")}
    got = {(name[3:], tuple(values)) for side in sides for name, values in side.events if name.startswith("Got")}
    assert sent == got


@pytest.mark.parametrize(("pattern", "n_proved"), [("XK", 2), ("XX", 2), ("NK", 1)])
def test_who_plays_under_a_key_of_its_own_is_taken_for_nobody_else(pattern, n_proved):
    """What is got names the key of who has sent it, so that the questions can be of honest ones."""
    got = {}
    for role, keys in ((0, ("s0", "x")), (1, ("x", "s1"))):
        got |= {name: values[0] for name, values in honest(pattern, keys=keys)[role].events if name.startswith("Got")}
    assert got == dict.fromkeys(("Got2", "Got1")[:n_proved], ("exp", "g", "x"))
    asked = {"Got1": "exp(g, a)", "Got2": "exp(g, b)"}
    written = "".join(models.model(pattern, name) for name in models.QUESTIONS[pattern])
    for name in got:
        assert set(re.findall(rf"event\({name}\((.*?), h\)\) ==>", written)) == {asked[name]}


@pytest.mark.parametrize("pattern", models.PATTERNS)
def test_a_message_that_was_changed_is_not_taken(pattern):
    for number in range(1, len(models.PATTERNS[pattern])):
        with pytest.raises(AssertionError):
            honest(pattern, spoil=number)


@pytest.mark.parametrize(("pattern", "name"), EVERY)
def test_a_model_names_nothing_that_is_not_there(pattern, name):
    written = re.sub(r"\(\*.*?\*\)", "", models.model(pattern, name))
    for left, right in ("()", "[]"):
        assert written.count(left) == written.count(right)
    sides = re.findall(r"let (Initiator|Responder)\(([^)]*)\) =(.*?)\.\n", written, re.DOTALL)
    assert [label for label, *_ in sides] == ["Initiator", "Responder"]
    declared = set(re.findall(r"\b(?:fun|type|const|event|reduc forall[^;]*;) *(\w+)", models.DECLARATIONS))
    declared |= set(re.findall(r"\b(?:fun|event) (\w+)", models.DECLARATIONS)) | {"kdec", "adec", "g2b", "k2b"}
    for _, parameters, body in sides:
        known = {part.split(":")[0].strip() for part in parameters.split(",")}
        known |= {"g", "c", "a", "b", "psk", "mI", "mR", "proto", "prologue", "empty", "n0", "n1", "n2", "n3"}
        for line in map(str.strip, body.splitlines()):
            bound = set(re.findall(r"\b(\w+): \w+", line))
            if match := re.match(r"let (?:\w+\()?(\w+)\)? = (.*) in$", line):
                bound.add(match[1])
                line = match[2]
            used = set(re.findall(r"\b[A-Za-z]\w*", re.sub(r"\b\w+: \w+", "", line)))
            words = {"let", "in", "out", "new", "event", "if", "then", "phase", "empty"}
            assert used <= known | bound | declared | words, (line, used - known - bound - declared - words)
            known |= bound


@pytest.mark.skipif(not shutil.which("proverif"), reason="proverif is not here: docs/formal/README.md says where from")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["secrecy", "agreement", "healing", "no-healing-from-an-active-thief"])
def test_proverif_answers_as_expected(name, tmp_path):
    path = tmp_path / "model.pv"
    path.write_text(models.model("NN", name))
    expected = models.QUESTIONS["NN"][name].expected
    assert all(f"is {expected}." in result for result in models.run(path, 600))
