# SPDX-License-Identifier: MIT
"""The servers that programs are pointed at, on the side of the exit; each starts when it is first asked for."""

import random
import shutil
import sys
from functools import cache
from pathlib import Path

from clients.ground import PATH

FILE = random.Random(64).randbytes(1 << 20)  # what programs fetch
IMAGE = "<svg xmlns='http://www.w3.org/2000/svg' width='{idx}' height='9'><!-- {idx} --></svg>"
PAGE = """<!doctype html><title>page</title><div id=images></div><p id=said></p><script>
const images = [...Array(50).keys()].map((idx) => new Promise((good, bad) => {
  const image = new Image();
  image.onload = good;
  image.onerror = bad;
  image.src = idx + ".svg";
  document.getElementById("images").append(image);
}));
Promise.all([fetch("long").then((answer) => answer.arrayBuffer()), ...images]).then(([long, ...loaded]) => {
  document.getElementById("said").textContent = loaded.length + " images, " + long.byteLength + " bytes";
});
</script>
"""


class Targets:
    """Start servers, and give the port that each listens on."""

    def __init__(self, ground):
        self._ground = ground
        self._side = ground.there
        self.folder = self._side.folder / "served"
        self.folder.mkdir()
        (self.folder / "file").write_bytes(FILE)
        self.files = {}  # what programs find in their folder, by name
        self.port = cache(self._port)

    def _port(self, name):
        """Start this server, and give its port."""
        port = self._side.port_free(self._ground.host)
        getattr(self, f"_{name}")(self._ground.host, port)
        return port

    def _web(self, host, port):
        self._repository()
        (self.folder / "page.html").write_text(PAGE)
        (self.folder / "long").write_bytes(bytes(5 << 20))
        for idx in range(50):
            (self.folder / f"{idx}.svg").write_text(IMAGE.format(idx=idx))
        self._side.serve(host, port, sys.executable, Path(__file__).with_name("web.py"), host, port, self.folder)

    def _git(self, host, port):
        self._repository()
        where = (f"--listen={host}", f"--port={port}", f"--base-path={self.folder}", "--reuseaddr", "--export-all")
        self._side.serve(host, port, "git", "daemon", *where, self.folder)

    def _ssh(self, host, port):
        self._repository()
        keys = self._side.folder / "keys"
        keys.mkdir()
        for name in ("host", "user"):
            self._do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name)
        Path("/run/sshd").mkdir(exist_ok=True)  # where it locks itself in
        config = keys / "config"
        config.write_text(
            f"Port {port}\nListenAddress {host}\nHostKey {keys}/host\nAuthorizedKeysFile {keys}/user.pub\n"
            "PidFile none\nStrictModes no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
        )
        self.files["ssh_config"] = (
            f"Host *\nPort {port}\nIdentityFile {keys}/user\nUserKnownHostsFile /dev/null\n"
            "StrictHostKeyChecking no\nBatchMode yes\n"
        )
        self._side.serve(host, port, shutil.which("sshd", path=PATH), "-D", "-e", "-f", config)

    def _ftp(self, host, port):
        words = ("-i", host, "-p", port, "-d", self.folder)
        self._side.serve(host, port, sys.executable, "-m", "pyftpdlib", *words)

    def _redis(self, host, port):
        words = ("--bind", host, "--port", port, "--save", "", "--protected-mode", "no")
        self._side.serve(host, port, "redis-server", *words)
        self._do("sh", "-c", f"redis-cli -h {host} -p {port} -x set file <{self.folder}/file")

    def _torrent(self, host, port):
        script = Path(__file__).with_name("torrent.py")
        words = ("seed", self.folder / "file.torrent", self.folder / "file", host, port)
        self._side.serve(host, port, sys.executable, script, *words)

    def _litecoin(self, host, port):
        self._side.serve(host, port, "sh", Path(__file__).with_name("litecoin.sh"), "mine", host, port, self.folder)

    def _iperf(self, host, port):
        self._side.serve(host, port, "iperf3", "-s", "-B", host, "-p", port)

    def _repository(self):
        work = self.folder / "work"
        if shutil.which("git", path=PATH) and not work.exists():
            self._do("git", "init", "-q", work)
            (work / "file").write_bytes(FILE)
            self._do("git", "-C", work, "add", "file")
            self._do("git", "-C", work, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qm", "file")
            self._do("git", "clone", "-q", "--bare", work, self.folder / "repo.git")

    def _do(self, *words):
        done = self._side.run(*words)
        assert done.returncode == 0, done.stderr
