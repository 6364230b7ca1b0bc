# SPDX-License-Identifier: MIT
"""A program: serve the files of a folder over HTTP, and the repositories in it by git's own half. HOST PORT FOLDER."""

import http.server
import os
import subprocess
import sys
from functools import partial


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if "/info/refs?" in self.path:
            self.git()
        else:
            super().do_GET()

    def do_POST(self):
        self.git()

    def git(self):
        """Let `git http-backend` answer, as a CGI program."""
        path, _, query = self.path.partition("?")
        environment = {
            "GIT_PROJECT_ROOT": self.directory,
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": self.headers.get("Content-Length", "0"),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        body = self.rfile.read(int(environment["CONTENT_LENGTH"]))
        done = subprocess.run(["git", "http-backend"], env=os.environ | environment, input=body, stdout=subprocess.PIPE)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


host, port, folder = sys.argv[1:]
http.server.ThreadingHTTPServer((host, int(port)), partial(Handler, directory=folder)).serve_forever()
