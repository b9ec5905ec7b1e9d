"""A PostgreSQL of the test's own, started by `initdb` where there is one."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.servers import free_port

PASSWORD = "s3cr3t-of-the-database"


@dataclass
class Postgres:
    """A server that can be stopped and started again."""

    folder: Path
    binaries: Path
    port: int
    running: "subprocess.Popen[bytes] | None" = None

    @property
    def address(self) -> str:
        """Without the password, which comes from the environment."""
        return f"postgresql://tester@127.0.0.1:{self.port}/postgres"

    def command(self, name: str, *more: object) -> list[str]:
        return [str(self.binaries / name), "-D", str(self.folder / "data"), *map(str, more)]

    def start(self) -> None:
        flags = ("-p", self.port, "-k", self.folder, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off")
        self.running = subprocess.Popen(self.command("postgres", *flags), stderr=subprocess.DEVNULL, **_as_user())
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.address).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline and self.running.poll() is None
                time.sleep(0.05)

    def stop(self) -> None:
        if self.running:
            self.running.kill()  # its other processes end with it
            self.running.wait()
            (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def count(self, table: str) -> int:
        with psycopg.connect(self.address) as connection:
            row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert row
        return int(row[0])


def _as_user() -> dict[str, Any]:
    """PostgreSQL does not run as root."""
    return {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A running server; the test is skipped where none is installed."""
    found = [Path(name) for name in (shutil.which("initdb"), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))) if name]  # fmt: skip
    if not found:
        pytest.skip("no PostgreSQL here (initdb): apt-get install postgresql")
    folder = Path(tempfile.mkdtemp())
    server = Postgres(folder, found[-1].resolve().parent, free_port())
    try:
        folder.chmod(0o777)
        (secret := folder / "password").write_text(PASSWORD)
        made = server.command("initdb", "-U", "tester", "--auth", "scram-sha-256", "--pwfile", secret)
        subprocess.run(made, check=True, capture_output=True, **_as_user())
        os.environ["PGPASSWORD"] = PASSWORD
        server.start()
        yield server
    finally:
        os.environ.pop("PGPASSWORD", None)
        server.stop()
        shutil.rmtree(folder)
