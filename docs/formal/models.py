#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""ProVerif models of the handshakes: python docs/formal/models.py [--out FOLDER] [--run] [NAME...]

Each model is one handshake of docs/protocol.md (sections 3.2 and 4.5) and one question. Processes are made from the
tokens of the pattern, so that all four are read alike. `--run` has `proverif` answer, where it is installed.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

Term = Any  # a name, or (function, term...)
Statement = tuple[Any, ...]

# Keys that are known before; then the tokens of each message, the initiator's first.
PATTERNS = {
    "XK": ("s", "e es e1", "e ee ekem1", "s se psk"),
    "XX": ("", "e e1", "e ee ekem1 s es", "s se psk"),
    "NK": ("s", "e es e1", "e ee ekem1 psk"),
    "NN": ("", "psk e e1", "e ee ekem1"),
}
INITIATOR, RESPONDER = 0, 1

# Groups, KEM, AEAD and hash as perfect ones. `mix*`, `key*` and `hash*` are the outputs of HKDF.
DECLARATIONS = """
type G. type exponent. type key. type kemsk. type kempk. type rnd. type nonce. type ck.
free c: channel.
const g: G [data].
fun exp(G, exponent): G.
equation forall x: exponent, y: exponent; exp(exp(g, x), y) = exp(exp(g, y), x).
fun kpub(kemsk): kempk.
fun kct(kempk, rnd): bitstring.
fun kss(kempk, rnd): key.
reduc forall s: kemsk, r: rnd; kdec(s, kct(kpub(s), r)) = kss(kpub(s), r).
fun aenc(key, nonce, bitstring, bitstring): bitstring.
reduc forall k: key, n: nonce, ad: bitstring, m: bitstring; adec(k, n, ad, aenc(k, n, ad, m)) = m.
fun g2b(G): bitstring [typeConverter].
fun k2b(kempk): bitstring [typeConverter].
fun mixG(ck, G): ck. fun keyG(ck, G): key.
fun mixK(ck, key): ck. fun keyK(ck, key): key.
fun mixP(ck, key): ck. fun keyP(ck, key): key. fun hashP(ck, key): bitstring.
fun split1(ck): key. fun split2(ck): key.
fun H(bitstring): bitstring.
const n0, n1, n2, n3: nonce [data].
const proto: ck [data].
const prologue, empty: bitstring [data].
free a, b: exponent [private].
free psk: key [private].
free mI, mR: bitstring [private].
event Sent1(G, bitstring). event Got1(G, bitstring).
event Sent2(G, bitstring). event Got2(G, bitstring).
"""


class Side:
    """One side of a handshake, as statements in the order in which it does them."""

    def __init__(self, role: int, before: str, has_keys: bool) -> None:
        self.role = role
        self._has_keys = has_keys
        self.program: list[Statement] = []
        self._n = 0
        self._nonce = 0
        self._h: Term = ("H", "prologue")
        self._ck: Term = "proto"
        self._k: Term = None
        self._parts: list[Term] = []
        if before:
            self._mix_hash(("g2b", "rs" if role == INITIATOR else ("exp", "g", "s")))

    def _let(self, name: str, term: Term) -> str:
        self._n += 1
        self.program.append(("let", f"{name}{self._n}", term))
        return f"{name}{self._n}"

    def _mix_hash(self, term: Term) -> None:
        self._h = self._let("h", ("H", ("tuple", self._h, term)))

    def _mix_key(self, kind: str, secret: Term) -> None:
        self._k = self._let("k", (f"key{kind}", self._ck, secret))
        self._ck = self._let("ck", (f"mix{kind}", self._ck, secret))
        self._nonce = 0

    def _sealed(self, term: Term) -> Term:
        """EncryptAndHash of one who writes; every pattern here has a key by then."""
        sealed = self._let("x", ("aenc", self._k, f"n{self._nonce}", self._h, term))
        self._nonce += 1
        self._mix_hash(sealed)
        return sealed

    def _opened(self, form: Term, type_: str = "bitstring") -> None:
        """DecryptAndHash of one who reads: what comes has to have the form."""
        self._n += 1
        sealed = f"x{self._n}"
        self._parts.append((sealed, type_))
        self.program.append(("open", form, ("adec", self._k, f"n{self._nonce}", self._h, sealed)))
        self._nonce += 1
        self._mix_hash(sealed)

    def message(self, tokens: str, is_ours: bool, number: int) -> None:
        """Write or read one message, with an empty payload behind its tokens."""
        self._parts = []
        start = len(self.program)
        for token in tokens.split():
            getattr(self, f"_{token}")(is_ours)
        if is_ours:
            self._parts.append(self._sealed("empty"))
            self._event(f"Sent{number}")
            self.program.append(("out", tuple(self._parts)))
        else:
            self._opened("=empty")
            self.program.insert(start, ("in", tuple(self._parts)))
            self._event(f"Got{number}")

    def _event(self, name: str) -> None:
        """Whom the second message proves, the responder, and the third one, the initiator: `*2` and `*1`.

        Their keys are named, since only those of honest ones prove anything; patterns without keys name the base.
        """
        what, number = name[:-1], name[-1]
        is_own = what == "Sent"
        if number == "1":
            return
        key: Term = (("exp", "g", "s") if is_own else "rs") if self._has_keys else "g"
        self.program.append(("event", what + ("2" if number == "2" else "1"), (key, self._h)))

    # Tokens

    def _e(self, is_ours: bool) -> None:
        if is_ours:
            self.program.append(("new", "e", "exponent"))
            public: Term = self._let("E", ("exp", "g", "e"))
            self._parts.append(public)
        else:
            public = "re"
            self._parts.append(("re", "G"))
        self._mix_hash(("g2b", public))
        self._mix_key("G", public)  # as every pattern with a psk does

    def _e1(self, is_ours: bool) -> None:
        if is_ours:
            self.program.append(("new", "kem", "kemsk"))
            self._parts.append(self._sealed(("k2b", ("kpub", "kem"))))
        else:
            self._opened(("k2b", "kempub"))

    def _ekem1(self, is_ours: bool) -> None:
        if is_ours:
            self.program.append(("new", "r", "rnd"))
            self._parts.append(self._sealed(("kct", "kempub", "r")))
            self._mix_key("K", ("kss", "kempub", "r"))
        else:
            self._opened("kemct")
            self.program.append(("let", "kemss", ("kdec", "kem", "kemct")))
            self._mix_key("K", "kemss")

    def _s(self, is_ours: bool) -> None:
        if is_ours:
            self._parts.append(self._sealed(("g2b", ("exp", "g", "s"))))
        else:
            self._opened(("g2b", "rs"))

    def _dh(self, own: str, other: str) -> None:
        self._mix_key("G", ("exp", other, own))

    def _ee(self, is_ours: bool) -> None:
        self._dh("e", "re")

    def _es(self, is_ours: bool) -> None:
        self._dh(*(("e", "rs") if self.role == INITIATOR else ("s", "re")))

    def _se(self, is_ours: bool) -> None:
        self._dh(*(("s", "re") if self.role == INITIATOR else ("e", "rs")))

    def _psk(self, is_ours: bool) -> None:
        self._k = self._let("k", ("keyP", self._ck, "psk"))
        self._mix_hash(("hashP", self._ck, "psk"))
        self._ck = self._let("ck", ("mixP", self._ck, "psk"))
        self._nonce = 0

    def end(self) -> None:
        """Both keys of the records; under one of them the side sends its secret."""
        which, secret = (("split1", "mI"), ("split2", "mR"))[self.role]
        self.program.append(("say", ("aenc", (which, self._ck), "n0", "empty", secret)))


def side(pattern: str, role: int) -> list[Statement]:
    """Give what one side does, from its first statement to the first record."""
    before, *messages = PATTERNS[pattern]
    made = Side(role, before, has_keys=any(token in ("es", "se") for tokens in messages for token in tokens.split()))
    for number, tokens in enumerate(messages, 1):
        made.message(tokens, (number % 2 == 1) == (role == INITIATOR), number)
    made.end()
    return made.program


# Text


def text(term: Term) -> str:
    if isinstance(term, str):
        return term
    name, *arguments = term
    inside = ", ".join(map(text, arguments))
    return f"({inside})" if name == "tuple" else f"{name}({inside})"


def lines(program: list[Statement], harvest: bool, guard: str) -> Iterator[str]:
    """Write one side as ProVerif reads it; `guard` is what must hold before it says its secret."""
    for what, *rest in program:
        if what == "new":
            yield f"new {rest[0]}: {rest[1]};"
            if harvest and rest[1] == "exponent":
                yield "((phase 1; out(c, e)) | ("
        elif what in ("let", "open"):
            yield f"let {text(rest[0]) if rest[0] != '=empty' else '=empty'} = {text(rest[1])} in"
        elif what == "in":
            yield f"in(c, ({', '.join(f'{name}: {type_}' for name, type_ in rest[0])}));"
        elif what == "out":
            yield f"out(c, ({', '.join(map(text, rest[0]))}));"
        elif what == "event":
            yield f"event {rest[0]}({', '.join(map(text, rest[1]))});"
        else:
            yield f"{guard}out(c, {text(rest[0])})"
    if harvest:
        yield "))"


class Question(NamedTuple):
    """What is asked of a handshake, and who knows what meanwhile."""

    query: str
    leaks: str = ""  # a process that gives secrets away
    harvest: bool = False  # every secret exponent is known in the end
    is_passive: bool = False  # the attacker only listens
    honest_only: bool = False  # for passive attackers nobody but the two takes part
    expected: str = "true"


SECRECY = "query attacker(mI). query attacker(mR)."
LATER = "query attacker(mI) phase 1. query attacker(mR) phase 1."
# Of honest ones: who plays under a key of its own has sent what was got, and is nobody else.
INITIATOR_PROVED = "query h: bitstring; event(Got1(exp(g, a), h)) ==> event(Sent1(exp(g, a), h))."
RESPONDER_PROVED = "query h: bitstring; event(Got2(exp(g, b), h)) ==> event(Sent2(exp(g, b), h))."
BOTH_PROVED = f"{INITIATOR_PROVED} {RESPONDER_PROVED}"
KEYLESS_PROVED = "query h: bitstring; event(Got2(g, h)) ==> event(Sent2(g, h))."
STATICS = "phase 1; out(c, (a, b, psk))"

_LINKS = {
    "secrecy": Question(SECRECY),
    "secrecy-public-psk": Question(SECRECY, "out(c, psk)"),
    "forward-secrecy": Question(LATER, STATICS),
    "harvested": Question(LATER, STATICS, harvest=True),
    "agreement": Question(BOTH_PROVED),
    "agreement-public-psk": Question(BOTH_PROVED, "out(c, psk)"),
    "impersonation-to-a-stolen-responder": Question(INITIATOR_PROVED, "out(c, (b, psk))"),
    "impersonation-to-a-stolen-initiator": Question(RESPONDER_PROVED, "out(c, (a, psk))"),
    "members-only": Question(INITIATOR_PROVED, "out(c, (a, b))"),
}
# Who begins a layer shows no key: only what he says to an honest relay is secret, and only the relay is proved.
_LAYERS = {
    "secrecy": Question("query attacker(mI)."),
    "secrecy-public-psk": Question("query attacker(mI).", "out(c, psk)"),
    "forward-secrecy": Question("query attacker(mI) phase 1.", STATICS),
    "harvested": Question("query attacker(mI) phase 1.", STATICS, harvest=True),
    "agreement": Question(RESPONDER_PROVED, "out(c, psk)"),
    "members-only": Question(RESPONDER_PROVED, "out(c, (a, b))"),
}
# Re-keying: the psk comes from the session before, and there are no other keys.
_RENEWALS = {
    "secrecy": Question(SECRECY),
    "agreement": Question(KEYLESS_PROVED),
    "forward-secrecy": Question(LATER, STATICS),
    "healing": Question(SECRECY, "out(c, psk)", is_passive=True, honest_only=True),
    "no-healing-from-an-active-thief": Question(SECRECY, "out(c, psk)", expected="false"),
}
QUESTIONS = {"XK": _LINKS, "XX": _LINKS, "NK": _LAYERS, "NN": _RENEWALS}


def model(pattern: str, name: str) -> str:
    """Write the model of one handshake and one question."""
    question = QUESTIONS[pattern][name]
    before = PATTERNS[pattern][0]
    learns = " s " in f" {PATTERNS[pattern][2]} "  # the initiator hears whom it talks to (XX)
    initiator = ["s: exponent"] + (["rs: G"] if before else []) + ["them: G"]
    guards = {
        INITIATOR: "if rs = them then " if before or learns else "",
        RESPONDER: "if rs = them then " if len(PATTERNS[pattern]) == 4 else "",
    }
    sides = [
        f"let {label}({', '.join(parameters)}) =\n  "
        + "\n  ".join(lines(side(pattern, role), question.harvest, guards[role]))
        + "."
        for label, role, parameters in (
            ("Initiator", INITIATOR, initiator),
            ("Responder", RESPONDER, ["s: exponent", "them: G"]),
        )
    ]
    call = "Initiator(a, B, B)" if before else "Initiator(a, B)"
    others = ["!(in(c, X: G); Initiator(a, X, B))"] if before and not question.honest_only else []
    parts = [f"!{call}", "!Responder(b, A)", *others, *([question.leaks] if question.leaks else [])]
    return "\n".join(
        [
            f"(* {pattern}, {name}; expected: {question.expected}. Made by docs/formal/models.py. *)",
            *(["set attacker = passive."] if question.is_passive else []),
            DECLARATIONS.strip(),
            question.query,
            *sides,
            "process let A = exp(g, a) in let B = exp(g, b) in out(c, (A, B));",
            "  (" + " | ".join(f"({part})" for part in parts) + ")",
            "",
        ]
    )


def run(path: Path, limit_s: float) -> list[str]:
    """Let ProVerif answer; the words after RESULT, nothing where it takes longer."""
    began = time.monotonic()
    try:
        found = subprocess.run(
            ["proverif", "-in", "pitype", str(path)], capture_output=True, text=True, timeout=limit_s, check=False
        ).stdout
    except subprocess.TimeoutExpired:
        return [f"no answer within {limit_s:.0f} s"]
    results = [line.removeprefix("RESULT ") for line in found.splitlines() if line.startswith("RESULT")]
    return [f"{result} ({time.monotonic() - began:.0f} s)" for result in results] or [found[-300:]]


def main() -> int:
    parser = argparse.ArgumentParser(description="Write, and run, ProVerif models of qg's handshakes.")
    parser.add_argument("--out", type=Path, default=Path("build/formal"), metavar="FOLDER")
    parser.add_argument("--run", action="store_true", help="have proverif answer them")
    parser.add_argument("--limit", type=float, default=900, metavar="S", help="seconds for each; 900 unless said")
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as XK-secrecy; all without")
    arguments = parser.parse_args()
    every = [f"{pattern}-{name}" for pattern, questions in QUESTIONS.items() for name in questions]
    if unknown := set(arguments.names) - set(every):
        parser.error(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    if arguments.run and not shutil.which("proverif"):
        parser.error("proverif is not here: see docs/formal/README.md")
    arguments.out.mkdir(parents=True, exist_ok=True)
    n_wrong = 0
    for name in arguments.names or every:
        pattern, _, question = name.partition("-")
        path = arguments.out / f"{name}.pv"
        path.write_text(model(pattern, question))
        if arguments.run:
            results = run(path, arguments.limit)
            expected = QUESTIONS[pattern][question].expected
            n_wrong += not all(f"is {expected}." in result for result in results)
            print(name, *results, sep="\n  ", flush=True)
    print(f"{arguments.out}: {len(arguments.names or every)} models{f', {n_wrong} not as expected' if n_wrong else ''}")
    return int(n_wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
