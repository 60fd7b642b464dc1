"""A MongoDB wire-protocol server for tests: SecantusDB in a process of its own, or the one a URL names.

Rule of this file: the server is only ever met over the wire; nothing of it is imported.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

URL_VARIABLE = "DURABLE_TEST_MONGODB_URL"
START_SECONDS = 60.0
_SCRIPT = Path(sys.executable).with_name("secantusd-py")


class MongoServer:
    """A server on a free port of this machine with its data in ``directory``; it syncs every write to disk.

    ``kill`` and then ``start`` is a crash and a restart on the same port and the same data.
    """

    def __init__(self, directory: Path, *, standalone: bool = False) -> None:
        self.directory = directory
        self.port = _free_port()
        self._standalone = standalone
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's URL, without a database."""
        return f"mongodb://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start the server and wait until it answers. Raises RuntimeError with its log when it does not."""
        config = self.directory / "empty.toml"  # else it would look for one in the user's home
        config.touch()
        command = [str(_SCRIPT), "--sync-on-commit", "--enable-test-commands"]
        command += ["--config", str(config), "--port", str(self.port), "--storage-path", str(self.directory / "data")]
        if self._standalone:
            command.append("--standalone")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.directory, stdout=log, stderr=log)
        self._wait_for_answer(self._process)

    def kill(self) -> None:
        """``kill -9``: nothing is finished, nothing is flushed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Freeze the server: connections stay open and nothing is answered.

        It waits until all threads stand still: on a busy machine one may answer some milliseconds after the signal.
        """
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let a frozen server go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def _log(self) -> Path:
        return self.directory / "server.log"

    def _wait_for_answer(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        with MongoClient[dict[str, object]](self.url, serverSelectionTimeoutMS=1000) as client:
            while True:
                try:
                    client.admin.command("ping")
                except PyMongoError as error:
                    if process.poll() is not None or time.monotonic() > deadline:
                        self.kill()
                        raise RuntimeError(f"no MongoDB server: {error}\n{self._log.read_text()[-4000:]}") from error
                else:
                    return


@contextmanager
def running_server(*, standalone: bool = False) -> Iterator[MongoServer]:
    """A server of its own for the block. Skips the test, or fails it when ``CI`` is true, where there is none."""
    if not _SCRIPT.exists():
        missing(f"{_SCRIPT.name} is not installed beside {Path(sys.executable).name}")
    with tempfile.TemporaryDirectory(prefix="durable-mongodb-") as directory:
        server = MongoServer(Path(directory), standalone=standalone)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def server_url() -> Iterator[str]:
    """The URL of the server that the environment names, or of one that runs during the block."""
    if url := os.environ.get(URL_VARIABLE):
        yield url
        return
    with running_server() as server:
        yield server.url


@contextmanager
def fresh_database(url: str) -> Iterator[str]:
    """``url`` with a database that is new; of somebody else's server it is dropped after the block."""
    name = f"durable_test_{uuid4().hex}"
    yield with_database(url, name)
    if os.environ.get(URL_VARIABLE):  # a server of our own goes away with its data
        with MongoClient[dict[str, object]](url) as client:
            client.drop_database(name)


def with_database(url: str, name: str) -> str:
    """``url`` with ``name`` as its database."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def missing(what: str) -> None:
    """Skip the test for want of a server; in CI, where it must not go unseen, fail."""
    text = f"no MongoDB server to test with: {what}; install secantusdb or set {URL_VARIABLE}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(text)
    pytest.skip(text)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
