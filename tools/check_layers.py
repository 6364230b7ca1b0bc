#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Check that imports in qg/ go strictly downward (docs/architecture.md, section 3), or draw them with --graph FILE.

The tables below are the rule. A new module goes into its level; an edge that the levels do not allow goes into EDGES
with a reason. Both in the commit that needs them.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cython_text import code_text

ROOT = Path(__file__).resolve().parent.parent

# Level -> modules of qg/_core, from the bottom up.
CORE = {
    "L0": ("sodium", "uv", "sys", "shared", "fork", "status", "abi", "_build_info"),
    "L1": ("memory", "table", "heap", "rate"),
    "L2": ("crypto", "secret"),
    "L3": ("wire",),
    "L4": ("noise", "envelope", "cert", "replay", "record", "keyfile", "message", "prefixes"),
    "L5": ("handshake", "rekey", "mux", "cover", "ledger"),
    "L6": ("session",),
    "L7": ("layer", "relay", "guard", "roster", "flow"),
    "L8": ("channel", "circuit", "engine", "border", "machine", "endpoint"),  # the last two: owners for the tests
    "L9": ("loop", "tcp", "resolve", "bridge", "udp", "probe"),
    "L10": ("tunnel", "service", "worker", "figures", "runtime"),
}

# Level -> modules of qg/, above the core. A package counts as one module; "qg" is qg/__init__.py, the public names.
PYTHON = {
    "P0": ("errors", "types", "storage", "security"),
    "P1": ("identity", "address", "config", "exit_policy", "forwarding", "access"),
    "P2": (
        *("policy", "account", "check", "extender", "native", "flow", "packing", "dial", "keep", "reload"),
        *("relays", "route", "guards", "routes", "records", "gossip"),
    ),
    "P3": (
        *("node", "settings", "asked", "audience", "offer", "reception", "peer", "stream", "message", "request"),
        *("control", "status", "loading"),
    ),
    "API": ("qg",),
    "P4": ("extenders.*", "discovery.*", "testing", "sync"),
    "OPS": ("logs", "metrics", "notify", "measured", "dumps"),  # what a service says to machines, or leaves to none
    "SERVICE": ("daemon",),  # a node as a service
    "P5": ("cli",),
    "RUN": ("__main__",),
}

# What Python may import of the core: the border, nothing behind it.
BORDER = ("runtime", "keyfile", "message", "cert", "_build_info")

# Modules that only some may import.
ONLY_FOR = {
    "_core.sodium": ("_core.crypto", "_core.secret", "_core.keyfile"),
    # worker and tunnel: the type of a socket address and nothing else.
    "_core.uv": tuple(f"_core.{module}" for module in ("loop", "tcp", "resolve", "udp", "probe", "worker", "tunnel")),
}

# Level -> levels below it that it may not know: the loop reaches the engine through function pointers.
BLIND = {"L9": ("L2", "L3", "L4", "L5", "L6", "L7", "L8")}

# (importer, imported): why this edge may go sideways or upward, or into what its level may not know.
EDGES = {
    ("_core.table", "_core.memory"): "a table takes its slots from the caller's pool",
    ("_core.heap", "_core.memory"): "a heap takes its places from the caller's pool",
    ("_core.circuit", "_core.channel"): "circuits are made of channels",
    ("_core.engine", "_core.channel"): "the engine drives channels",
    ("_core.engine", "_core.circuit"): "the engine tells circuits what became of their channels",
    ("_core.border", "_core.channel"): "fills the settings of an engine and the hops of a path",
    ("_core.machine", "_core.border"): "owns an engine for the tests: options in, events out",
    ("_core.machine", "_core.channel"): "owns an engine for the tests",
    ("_core.machine", "_core.circuit"): "owns an engine for the tests: its commands",
    ("_core.machine", "_core.engine"): "owns an engine for the tests",
    ("_core.keyfile", "_core.cert"): "PeerID and link certificates of the keys it holds",
    ("_core.keyfile", "errors"): "raises the public errors itself; P0 imports nothing of the core",
    ("_core.runtime", "_core.worker"): "the border owns its workers",
    ("_core.runtime", "_core.figures"): "the border tells their figures",
    ("_core.figures", "_core.worker"): "figures are of workers",
    ("_core.worker", "_core.tunnel"): "a worker owns its tunnels",
    ("_core.runtime", "_core.service"): "native extenders are handed to the workers",
    ("_core.worker", "_core.service"): "a worker owns what its native extenders serve",
    ("_core.tcp", "_core.loop"): "a socket belongs to a loop",
    ("_core.resolve", "_core.loop"): "a look-up belongs to a loop",
    ("_core.resolve", "_core.tcp"): "socket addresses become addresses of the wire in one place",
    ("_core.tcp", "_core.wire"): "address_t is the one form of an address in the core",
    ("_core.resolve", "_core.wire"): "address_t is the one form of an address in the core",
    ("_core.probe", "_core.bridge"): "owns bridges for the tests",
    ("_core.probe", "_core.loop"): "owns a loop for the tests",
    ("_core.probe", "_core.resolve"): "owns look-ups for the tests",
    ("_core.probe", "_core.tcp"): "owns connections for the tests",
    ("_core.probe", "_core.wire"): "address_t is the one form of an address in the core",
    ("cli", "_core.crypto"): "qg version prints the suites in force and libsodium's version",
    ("measured", "_core.crypto"): "a build for tests measures with the suite that seals nothing",
    ("native", "extender"): "a native extender is an extender",
    ("extender", "_core.abi"): "extender.pxd hands on the declarations of the C header",
    ("peer", "stream"): "a peer opens streams",
    ("peer", "message"): "a peer sends and receives messages",
    ("peer", "request"): "a peer is asked",
    ("request", "message"): "a request is a message there and one back",
    ("node", "peer"): "a node has peers",
    ("node", "status"): "a node tells its status",
    ("status", "peer"): "the status counts peers",
    ("node", "settings"): "a node goes by its settings",
    ("node", "asked"): "a node asks its core",
    ("asked", "peer"): "a connection that was asked for gives a peer",
    ("node", "stream"): "messages have priorities",
    ("node", "reception"): "a node hands events of streams on",
    ("reception", "peer"): "streams come from peers",
    ("reception", "stream"): "makes the streams that peers open",
    ("reception", "message"): "hands messages to extenders",
    ("reception", "request"): "hands requests to extenders",
    ("extenders.forward", "extenders.sockets"): "services share how streams are joined with sockets",
    ("node", "offer"): "a node changes what it offers",
    ("node", "audience"): "a node finds its peers",
    ("audience", "peer"): "an audience is peers",
    ("audience", "stream"): "messages have priorities",
    ("extenders.proxy", "extenders.sockets"): "services share how streams are joined with sockets",
    ("types", "errors"): "identifiers refuse bad text, and re-export Reason",
    ("access", "address"): "rules are of networks",
    ("access", "config"): "the configuration says where rules live, and what holds without one",
    ("config", "address"): "settings hold addresses, endpoints and networks",
    ("config", "exit_policy"): "settings hold the rules of an exit",
    ("config", "forwarding"): "settings hold forwards and the rules of those that are offered",
    ("forwarding", "address"): "forwards are written with hosts and ports",
    ("forwarding", "exit_policy"): "rules of forwards name places as those of exits do",
    ("guards", "relays"): "guards are relays",
    ("records", "relays"): "a record tells of a relay",
    ("gossip", "records"): "gossip is records",
    ("gossip", "relays"): "gossip fills the book of relays",
    ("route", "relays"): "a route is made of relays",
    ("routes", "guards"): "a path begins with a guard",
    ("routes", "relays"): "a path is drawn from the book of relays",
    ("routes", "route"): "a path is drawn by the rules",
}

LEVELS = (*CORE, *PYTHON)
LEVEL_OF = {f"_core.{name}": level for level, names in CORE.items() for name in names} | {
    name: level for level, names in PYTHON.items() for name in names
}
LEVEL_OF["_core"] = "L0"

CIMPORT = re.compile(
    r"""^[ \t]*(?:from\s+(?P<source>\.*[\w.]*)\s+c?import\s*(?P<names>\([^)]*\)|[^\n;]+)
                |c?import\s+(?P<plain>[\w.,\ \t]+))""",
    re.MULTILINE | re.VERBOSE,
)


def unit_of(module: str) -> str:
    """Give the name under which the tables know a module: its package, where a package counts as one."""
    parts = module.split(".")
    if parts[0] == "_core":
        return module
    if f"{parts[0]}.*" in LEVEL_OF:
        return ".".join(parts[:2])
    return parts[0]


def level_of(unit: str) -> str | None:
    return LEVEL_OF.get(unit) or LEVEL_OF.get(unit.partition(".")[0] + ".*")


def modules_find(root: Path) -> dict[str, list[Path]]:
    """Find the sources of every module under root/qg; qg itself is called "qg"."""
    modules: dict[str, list[Path]] = {}
    for path in sorted((root / "qg").rglob("*")):
        if path.suffix in (".py", ".pyx", ".pxd"):
            parts = path.relative_to(root / "qg").with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            modules.setdefault(name or "qg", []).append(path)
    return modules


def module_resolve(source: str, names: list[str], importer: str, is_package: bool) -> Iterator[str]:
    """Yield the qg modules that "from source import names" reaches, by the tables' names; none for foreign ones."""
    if source.startswith("."):
        n_dots = len(source) - len(source.lstrip("."))
        own = [] if importer == "qg" else importer.split(".")
        base = own[: len(own) - n_dots + (1 if is_package else 0)]
        target = [*base, *filter(None, source.lstrip(".").split("."))]
    elif source == "qg" or source.startswith("qg."):
        target = source.split(".")[1:]
    else:
        return
    for name in names or [""]:
        inner = ".".join([*target, name])
        yield inner if name and level_of(unit_of(inner)) else ".".join(target) or "qg"


def nodes_walk(node: ast.AST) -> Iterator[ast.AST]:
    """Walk the syntax tree without what stands under "if TYPE_CHECKING": names in annotations are no dependency."""
    yield node
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    for child in ast.iter_child_nodes(node):
        yield from nodes_walk(child)


def imports_python(path: Path, importer: str) -> Iterator[str]:
    is_package = path.stem == "__init__"
    for node in nodes_walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from module_resolve(alias.name, [], importer, is_package)
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            yield from module_resolve(source, [alias.name for alias in node.names], importer, is_package)


def imports_cython(path: Path, importer: str) -> Iterator[str]:
    for match in CIMPORT.finditer(code_text(path.read_text())):
        if match["plain"]:
            for part in match["plain"].split(","):
                yield from module_resolve(part.split()[0] if part.split() else "", [], importer, False)
        else:
            names = [part.split()[0] for part in match["names"].strip("() \n").split(",") if part.split()]
            yield from module_resolve(match["source"], names, importer, path.stem == "__init__")


def edges_find(modules: dict[str, list[Path]]) -> set[tuple[str, str]]:
    """Find all (importer, imported) between different modules, by the names of the tables."""
    edges = set()
    for module, paths in modules.items():
        for path in paths:
            found = imports_python(path, module) if path.suffix == ".py" else imports_cython(path, module)
            edges |= {(unit_of(module), unit_of(imported)) for imported in found}
    return {(importer, imported) for importer, imported in edges if importer != imported}


def edge_problem(importer: str, imported: str) -> str | None:
    """Say what is wrong with an import; None if it is allowed."""
    above, below = level_of(importer), level_of(imported)
    if above is None or below is None:
        return f"{imported} is not in the tables" if above else None
    if imported in ONLY_FOR and importer not in ONLY_FOR[imported]:
        return f"only {', '.join(ONLY_FOR[imported])} may import {imported}"
    if (importer, imported) in EDGES:
        return None
    if LEVELS.index(below) >= LEVELS.index(above):
        return f"{imported} ({below}) is not below {importer} ({above})"
    if below in BLIND.get(above, ()):
        return f"{above} may not know {below}: {imported}"
    if above in PYTHON and below in CORE and imported.removeprefix("_core.") not in (*BORDER, "_core"):
        return f"Python may import only {', '.join(BORDER)} of the core, not {imported}"
    if above == "P4" and below in ("P0", "P1", "P2", "P3") and importer != "testing":
        return f"{importer} stands on the public API: import it from qg, not from qg.{imported}"
    return None


def layers_check(root: Path) -> list[str]:
    """Check the tree under root; one line for each thing that is wrong."""
    modules = modules_find(root)
    units = {unit_of(module) for module in modules}
    problems = [
        f"{unit}: unknown module: put it into the tables of tools/check_layers.py"
        for unit in sorted(units)
        if level_of(unit) is None
    ]
    edges = edges_find(modules)
    for importer, imported in sorted(edges):
        problem = edge_problem(importer, imported)
        if problem:
            problems.append(f"{importer}: {problem}")
    for importer, imported in EDGES:
        if {importer, imported} <= units and (importer, imported) not in edges:
            problems.append(f"{importer}: no longer imports {imported}: take the edge out of EDGES")
    return problems


def graph_text(root: Path) -> str:
    """Draw the real imports as a Mermaid graph; imports of L0 are left out, since nearly everything has them."""
    modules = modules_find(root)
    units = {unit_of(module) for module in modules}
    lines = ["flowchart TD"]
    for level in reversed(LEVELS[1:]):
        members = sorted(unit for unit in units if level_of(unit) == level)
        if members:
            lines.append(f"  subgraph {level}")
            lines += [f"    {unit.replace('.', '_')}[{unit.removeprefix('_core.')}]" for unit in members]
            lines.append("  end")
    for importer, imported in sorted(edges_find(modules)):
        if level_of(imported) not in (None, "L0"):
            lines.append(f"  {importer.replace('.', '_')} --> {imported.replace('.', '_')}")
    return "\n".join(lines) + "\n"


def graph_write(root: Path, path: Path) -> None:
    """Put the graph into the first Mermaid block of a Markdown file."""
    page = path.read_text()
    path.write_text(
        re.sub(r"(?<=```mermaid\n).*?(?=```)", lambda match: graph_text(root), page, count=1, flags=re.DOTALL)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="check that imports in qg/ go downward")
    parser.add_argument("--graph", type=Path, metavar="FILE", help="draw the imports into this Markdown file instead")
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, help="the project's folder")
    options = parser.parse_args()
    if options.graph:
        graph_write(options.root, options.graph)
        return 0
    problems = layers_check(options.root)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
