# SPDX-License-Identifier: MIT
"""A program: move a file by BitTorrent, as libtorrent does it. It prints where it has come to, and ends with its input.

torrent.py seed TORRENT FILE HOST PORT            make the torrent, and give the file to whoever asks
torrent.py get TORRENT FOLDER HOST PORT PROXY tcp|utp
"""

import sys
import time
from pathlib import Path

import libtorrent

LIMIT_S = 20
QUIET = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "allow_multiple_connections_per_ip": True,
}


def params(torrent, folder):
    made = libtorrent.load_torrent_file(torrent)
    made.save_path = str(folder)
    return made


def seed(torrent, file, host, port):
    """Serve a file for as long as somebody lets it."""
    made = libtorrent.create_torrent(libtorrent.list_files(file))
    libtorrent.set_piece_hashes(made, str(Path(file).parent))
    Path(torrent).write_bytes(libtorrent.bencode(made.generate()))
    session = libtorrent.session(QUIET | {"listen_interfaces": f"{host}:{port}"})
    session.add_torrent(params(torrent, Path(file).parent))
    while True:
        time.sleep(60)


def get(torrent, folder, host, port, proxy, protocol):
    """Fetch it from one peer, over the proxy and nothing beside it."""
    proxy_host, _, proxy_port = proxy.rpartition(":")
    settings = {
        "proxy_type": libtorrent.proxy_type_t.socks5,
        "proxy_hostname": proxy_host,
        "proxy_port": int(proxy_port),
        "proxy_peer_connections": True,
        "proxy_hostnames": True,
        "listen_interfaces": "127.0.0.1:0",
        **{f"enable_{way}_{kind}": kind == protocol for way in ("incoming", "outgoing") for kind in ("tcp", "utp")},
    }
    session = libtorrent.session(QUIET | settings)
    handle = session.add_torrent(params(torrent, folder))
    until_s = time.monotonic() + LIMIT_S
    tried_s = 0.0
    while not handle.status().is_seeding:
        if time.monotonic() > until_s:
            return f"it has {handle.status().progress:.0%} after {LIMIT_S} s"
        if time.monotonic() > tried_s + 1 and not handle.status().num_peers:  # its UDP associates in the background
            tried_s = time.monotonic()
            handle.connect_peer((host, int(port)))
        time.sleep(0.05)
    return 0


what, *arguments = sys.argv[1:]
sys.exit({"seed": seed, "get": get}[what](*arguments))
