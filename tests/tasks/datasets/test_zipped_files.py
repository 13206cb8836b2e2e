"""Files inside zip archives: found in any folder of one, and damage that is named."""

import zipfile

import pytest

from plasticity.tasks.datasets.zipped_files import ZippedFile, find_zipped


def _archive(path, **files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return path


def test_the_first_archive_that_holds_the_file_gives_it(tmp_path):
    one = _archive(tmp_path / "a.zip", other=b"0")
    two = _archive(tmp_path / "b.zip", deep__down__file=b"12", other=b"3")
    three = _archive(tmp_path / "c.zip", file=b"4")
    found = find_zipped([one, two, three], "file")
    assert found == ZippedFile(two, "deep/down/file")
    assert found.read_bytes() == b"12"
    assert find_zipped([one, two, three], "down") is None
    assert find_zipped([], "file") is None


def test_it_has_the_parts_of_a_path(tmp_path):
    file = ZippedFile(tmp_path / "a.zip", "folder/name-idx3-ubyte.gz")
    assert (file.name, file.stem, file.suffix) == ("name-idx3-ubyte.gz", "name-idx3-ubyte", ".gz")
    assert str(file) == f"{tmp_path / 'a.zip'}/folder/name-idx3-ubyte.gz"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a zip archive, found a corrupt or truncated file"),
        (b"<!DOCTYPE html><html>", r"found a web page \(HTML\)\. Download the file itself"),
        (b"\x1f\x8b rest", "found gzip-compressed data. Uncompress it"),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path, content, message):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        find_zipped([tmp_path / "a.zip"], "file")
    assert str(caught.value).startswith(str(tmp_path / "a.zip"))


def test_damage_is_named(tmp_path):
    path = _archive(tmp_path / "a.zip", folder__file=b"content " * 9)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])  # the list of files is at the end
    with pytest.raises(ValueError, match=r"a\.zip: .* corrupt or truncated .* Replace it"):
        find_zipped([path], "file")
    path.write_bytes(whole.replace(b"content content", b"content consent", 1))
    found = find_zipped([path], "file")
    with pytest.raises(ValueError, match=r"a\.zip/folder/file: .* found a corrupt one .*CRC"):
        found.read_bytes()
