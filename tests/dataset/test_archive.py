"""Archives: fetched with a checksum from a local server, unpacked safely, once, and by one of several processes."""
import functools
import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import threading
import time

import pytest

from common.dataset.archive import download, extract, unpack_once
from common.dataset.once import in_progress, once
from common.errors import UserError


def make_tar(path, files, mode="w"):
    """Write an archive of name -> content."""
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def tree(folder):
    """Return relative path -> content of all files that are not hidden."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name[0] != "."}


@pytest.fixture
def server(tmp_path):
    """A web server on this machine: its address and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            if self.path == "/short.tar":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"x" * 10)
            else:
                super().do_GET()

    service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=service.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{service.server_port}", folder
    service.shutdown()
    service.server_close()
    thread.join()


@pytest.mark.parametrize("mode,name", [("w", "a.tar"), ("w:gz", "a.tar.gz"), ("w:xz", "a.tar.xz")])
def test_archive_is_unpacked_into_the_folder(tmp_path, mode, name):
    file = make_tar(tmp_path / name, {"top/a.txt": b"one", "top/deep/b.txt": b"two"}, mode)
    unpack_once(file, tmp_path)
    assert tree(tmp_path / "top") == {"a.txt": b"one", "deep/b.txt": b"two"}


def test_archive_is_not_unpacked_twice(tmp_path):
    file = make_tar(tmp_path / "a.tar", {"top/a.txt": b"one"})
    unpack_once(file, tmp_path)
    (tmp_path / "top" / "a.txt").write_bytes(b"changed by the user")
    unpack_once(file, tmp_path)
    assert (tmp_path / "top" / "a.txt").read_bytes() == b"changed by the user"


def test_unpacking_adds_to_a_folder_that_is_there(tmp_path):
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "mine.txt").write_bytes(b"mine")
    unpack_once(make_tar(tmp_path / "a.tar", {"top/a.txt": b"one"}), tmp_path)
    assert tree(tmp_path / "top") == {"mine.txt": b"mine", "a.txt": b"one"}


def test_images_at_the_top_go_into_a_folder_named_like_the_archive(tmp_path):
    unpack_once(make_tar(tmp_path / "n01440764.tar", {"x.jpg": b"x"}), tmp_path, class_folders=True)
    assert (tmp_path / "n01440764" / "x.jpg").read_bytes() == b"x"


def test_archives_inside_an_archive_become_class_folders(tmp_path):
    inner = make_tar(tmp_path / "inner.tar", {"x.jpg": b"x"}).read_bytes()
    (tmp_path / "inner.tar").unlink()
    file = make_tar(tmp_path / "all.tar", {"n1.tar": inner, "n2.tar": inner})
    unpack_once(file, tmp_path, class_folders=True)
    assert {name for name in tree(tmp_path) if name != "all.tar"} == {"n1/x.jpg", "n2/x.jpg"}


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil_absolute.txt", "top/../../evil.txt",
                                  "evil/" * 2000 + "evil.txt"])
def test_member_outside_of_the_archive_is_refused(tmp_path, name):
    folder = tmp_path / "in"
    folder.mkdir()
    file = make_tar(folder / "a.tar", {"good.txt": b"1", name: b"2"})
    with pytest.raises(UserError, match="a.tar is refused: its member '.*evil"):
        unpack_once(file, folder)
    assert not (tmp_path / "evil.txt").exists()
    assert tree(folder).keys() == {"a.tar"}, "nothing half-unpacked may stay"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(UserError, match="member 'link' is a link, a device"):
        unpack_once(tmp_path / "a.tar", tmp_path)


def test_own_check_holds_where_python_has_no_filter(tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    with pytest.raises(UserError, match="refused"):
        extract(make_tar(tmp_path / "a.tar", {"../evil.txt": b"2"}), tmp_path)
    extract(make_tar(tmp_path / "b.tar", {"fine.txt": b"3"}), tmp_path)
    assert (tmp_path / "fine.txt").read_bytes() == b"3"


def test_an_archive_that_unpacks_to_a_multiple_is_refused_before_it_fills_the_disk(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for number in range(20):
            member = tarfile.TarInfo(f"{number}.bmp")
            member.size = 1_000_000
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(UserError, match="more than 100 times as large as the archive"):
        unpack_once(tmp_path / "a.tar.gz", tmp_path)
    assert [file.name for file in tmp_path.rglob("*.bmp")] == []


@pytest.mark.parametrize("damage", ["cut", "html", "cut gzip", "gzip header", "empty"])
def test_damaged_archive_is_one_sentence_and_leaves_nothing(tmp_path, damage):
    mode = "w:gz" if damage == "cut gzip" else "w"
    content = make_tar(tmp_path / "a.tar", {"top/a.txt": b"one" * 5000}, mode).read_bytes()
    content = {"html": b"<html>not found</html>", "gzip header": b"\x1f\x8b\x08", "empty": b""}.get(damage, content[:len(content) // 3])
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UserError, match="a.tar is damaged"):
        unpack_once(tmp_path / "a.tar", tmp_path)
    assert tree(tmp_path).keys() == {"a.tar"}
    assert not list(tmp_path.glob(".*.unpacking"))


def test_one_of_several_processes_unpacks_and_all_see_the_files(tmp_path):
    make_tar(tmp_path / "a.tar", {f"top/{i}.txt": b"x" * 1000 for i in range(300)})
    program = ("import logging, pathlib; from common.dataset import archive; logging.basicConfig(level=logging.INFO);"
               "archive.unpack_once(pathlib.Path('a.tar'), pathlib.Path('.'));"
               "print(len(list(pathlib.Path('top').iterdir())))")
    runs = [subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE) for _ in range(4)]
    results = [run.communicate(timeout=300) for run in runs]
    assert [out.strip() for out, _ in results] == ["300"] * 4, results
    assert sum("Unpacking a.tar" in err for _, err in results) == 1, results


def test_those_who_wait_get_the_error_too(tmp_path):
    started, calls, errors = threading.Event(), [], []

    def fail():
        calls.append(1)
        started.set()
        time.sleep(0.5)
        raise UserError("the disk is full.")

    def attempt():
        try:
            once(tmp_path / "marker", fail, poll=0.05)
        except UserError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=attempt)]
    threads[0].start()
    started.wait(10)
    threads += [threading.Thread(target=attempt) for _ in range(2)]
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert errors == ["the disk is full."] * 3
    assert len(calls) == 1


def test_a_failure_does_not_prevent_the_next_run(tmp_path):
    def fail():
        raise UserError("the disk is full.")

    with pytest.raises(UserError, match="the disk is full"):
        once(tmp_path / "marker", fail)
    once(tmp_path / "marker", lambda: None)
    assert (tmp_path / "marker").exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / ".marker.lock").mkdir()
    assert in_progress(marker)
    once(marker, lambda: None, stale=0.2, poll=0.02)
    assert marker.exists() and not in_progress(marker)


def test_download_fetches_and_checks(tmp_path, server):
    address, folder = server
    (folder / "x.bin").write_bytes(b"hello" * 1000)
    target = tmp_path / "new" / "x.bin"
    download(f"{address}/x.bin", target, hashlib.md5(b"hello" * 1000).hexdigest())
    assert target.read_bytes() == b"hello" * 1000
    assert [p.name for p in target.parent.iterdir()] == ["x.bin"]


@pytest.mark.parametrize("name,message", [("x.bin", "sent another file than expected"), ("y.bin", "answered 404"),
                                          ("short.tar", "broke off after 10 of 1000 bytes")])
def test_failed_download_says_why_and_leaves_nothing(tmp_path, server, name, message):
    address, folder = server
    (folder / "x.bin").write_bytes(b"hello")
    with pytest.raises(UserError, match=message) as caught:
        download(f"{address}/{name}", tmp_path / "target" / name, "0" * 32)
    assert "fetch it by hand and put it at" in str(caught.value)
    assert list((tmp_path / "target").iterdir()) == []


def test_unreachable_server_is_one_sentence(tmp_path, server):
    address, _ = server
    port = int(address.rsplit(":", 1)[1])
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as closed:
        free = closed.server_port
    assert free != port
    with pytest.raises(UserError, match="could not be fetched"):
        download(f"http://127.0.0.1:{free}/x.bin", tmp_path / "x.bin", "0" * 32)
    assert not (tmp_path / "x.bin").exists()
