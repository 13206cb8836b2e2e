"""Downloads from a local server that delivers intact files, damaged files or nothing."""

import gzip
import hashlib
import io
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pooch
import pytest

from plasticity.tasks.datasets.cifar import CIFAR_FORMS
from plasticity.tasks.datasets.downloads import FILE_NAMES, SOURCES, DownloadError, Source, fetch

CONTENT = {name: gzip.compress(name.encode() * 50, mtime=0) for name in FILE_NAMES}
CHECKSUMS = {name: hashlib.md5(content).hexdigest() for name, content in CONTENT.items()}


class _Handler(BaseHTTPRequestHandler):
    """Handler that serves CONTENT under /right/ and damages it under the other folders."""

    def do_GET(self):
        self.server.requested.append(self.path)
        _, behaviour, file_name = self.path.split("/")
        body = CONTENT[file_name]
        self.send_response(404 if behaviour == "absent" else 200)
        if behaviour != "unsized":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if behaviour == "truncated":
            body = body[:-5]
        elif behaviour == "stalled":
            self.wfile.write(body[:-5])
            self.server.released.wait(timeout=60)
            return
        elif behaviour == "wrong":
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.wfile.write(body)

    def log_message(self, *_):
        """Keep the requests off standard error, which a test reads."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.requested = []
        server.released = threading.Event()
        server.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


def _source(server, *behaviours, checksums=CHECKSUMS):
    return Source(tuple(f"{server.address}/{behaviour}/" for behaviour in behaviours), checksums)


def _contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("behaviour", ["right", "unsized"])
def test_files_arrive_and_are_kept(server, tmp_path, behaviour, capfd, monkeypatch):
    announced = []
    monkeypatch.setattr(pooch.get_logger(), "handle", announced.append)
    level = pooch.get_logger().level
    folder = tmp_path / "cache" / "mnist"
    fetch(_source(server, behaviour), folder)
    assert _contents(folder) == CONTENT
    assert server.requested == [f"/{behaviour}/{name}" for name in FILE_NAMES]
    fetch(_source(server, behaviour), folder)
    assert len(server.requested) == 4
    # Not on a terminal: quiet.
    assert capfd.readouterr() == ("", "")
    assert announced == []
    assert pooch.get_logger().level == level


def test_killed_while_downloading(server, tmp_path):
    source = _source(server, "stalled")
    program = (
        "from pathlib import Path; from plasticity.tasks.datasets.downloads import Source, fetch; "
        f"fetch(Source({source.mirrors!r}, {source.checksums!r}), Path({str(tmp_path)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        while not any(tmp_path.iterdir()) and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    # The partial file has a name that is never looked up, and does not affect the next download.
    assert not set(_contents(tmp_path)) & set(FILE_NAMES)
    fetch(_source(server, "right"), tmp_path)
    assert CONTENT.items() <= _contents(tmp_path).items()


@pytest.mark.parametrize("bad", ["absent", "truncated", "wrong"])
def test_the_next_mirror_is_tried(server, tmp_path, bad):
    fetch(_source(server, bad, "right"), tmp_path)
    assert _contents(tmp_path) == CONTENT
    assert server.requested[:2] == [f"/{bad}/{FILE_NAMES[0]}", f"/right/{FILE_NAMES[0]}"]


def test_a_damaged_file_in_the_cache_is_replaced(server, tmp_path):
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / FILE_NAMES[2]).write_bytes(CONTENT[FILE_NAMES[2]][:-5])
    fetch(_source(server, "right"), tmp_path)
    assert _contents(tmp_path) == CONTENT
    assert server.requested == [f"/right/{FILE_NAMES[2]}"]


def test_one_error_reports_all_mirrors_and_nothing_is_left(server, tmp_path):
    with pytest.raises(DownloadError) as caught:
        fetch(_source(server, "absent", "truncated", "wrong"), tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{FILE_NAMES[0]} could not be downloaded to {tmp_path}:\n")
    absent, truncated, wrong = message.splitlines()[1:4]
    assert absent.startswith(f"  {server.address}/absent/: 404")
    assert truncated.startswith(f"  {server.address}/truncated/: ")
    assert wrong.startswith(f"  {server.address}/wrong/: MD5")
    assert CHECKSUMS[FILE_NAMES[0]] in wrong
    assert "--data-dir" in message
    assert "PLASTICITY_DATA" in message
    assert _contents(tmp_path) == {}


def test_connection_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # Bound and released: a local port with no listener.
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as closed:
        port = closed.server_port
    with pytest.raises(DownloadError, match=rf"127\.0\.0\.1:{port}/: .*refused"):
        fetch(Source((f"http://127.0.0.1:{port}/",), CHECKSUMS), tmp_path)


def test_a_cache_that_cannot_be_created(server, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match="cache") as caught:
        fetch(_source(server, "right"), tmp_path / "cache" / "mnist")
    assert isinstance(caught.value, OSError)


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("behaviour", ["right", "unsized"])
def test_progress_is_shown_on_a_terminal(server, tmp_path, monkeypatch, behaviour):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    fetch(_source(server, behaviour), tmp_path)
    shown = terminal.getvalue()
    assert _contents(tmp_path) == CONTENT
    for name, content in CONTENT.items():
        assert name in shown
        if behaviour == "right":
            assert f"{len(content)}/{len(content)} bytes" in shown


def test_published_sources_are_complete():
    assert set(SOURCES) == {"mnist", "fashion-mnist", "kmnist", "cifar10", "cifar100"}
    checksums = [checksum for source in SOURCES.values() for checksum in source.checksums.values()]
    assert len(set(checksums)) == 14
    for name, source in SOURCES.items():
        form = CIFAR_FORMS.get(name)
        assert tuple(source.checksums) == (FILE_NAMES if form is None else (form.archive,))
        assert source.mirrors
        assert all(m.startswith("http") and m.endswith("/") for m in source.mirrors)
    for checksum in checksums:
        assert len(bytes.fromhex(checksum)) == 16
