"""Archives come apart within limits, and nothing in them leads out."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from awkward_files import BOMB_LAYER, zip_of

from reef.knowledge.archives import ArchiveLimits, Member, expand, is_archive
from reef.ports import ParseFailed

LIMITS = ArchiveLimits(free_bytes_min=0)


def unpack(tmp_path: Path, data: bytes, name: str = "upload.zip", limits: ArchiveLimits = LIMITS) -> list[Member]:
    """Everything that comes out."""
    path = tmp_path / name
    path.write_bytes(data)
    return list(expand(path, name, tmp_path / "out", limits))


def tar_of(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A .tar.gz with these members."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return memory.getvalue()


def test_members_come_out_with_their_names(tmp_path: Path) -> None:
    """Folders are part of the name; what file managers leave behind is passed over."""
    members: dict[str, bytes | str] = {
        "a/": "", "a/one.txt": "1", "two.md": "2", "__MACOSX/a/._one.txt": "x", ".DS_Store": "x", "a/Thumbs.db": "x",
    }  # fmt: skip
    found = unpack(tmp_path, zip_of(members))
    assert [member.name for member in found] == ["a/one.txt", "two.md"]
    assert [member.path.read_text() for member in found if member.path] == ["1", "2"]


@pytest.mark.parametrize("name", ["../out.txt", "/etc/cron.d/x", "a/../../x", "..\\x", "C:\\x", "n" * 600])
def test_names_lead_nowhere(tmp_path: Path, name: str) -> None:
    """A name that leads out is a problem of its own; its neighbours come out, and nothing is written elsewhere."""
    found = unpack(tmp_path, zip_of({name: "evil", "good.txt": "good"}))
    assert [(member.path is None, member.problem.code if member.problem else "") for member in found] == [
        (True, "unsupported"),
        (False, ""),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "upload.zip"]


def test_links_and_devices_are_passed_over(tmp_path: Path) -> None:
    """In a zip as in a tar, only regular files come out."""
    link = zipfile.ZipInfo("link.txt")
    link.external_attr = 0o120777 << 16
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("good.txt", "good")
    assert [member.name for member in unpack(tmp_path, memory.getvalue())] == ["good.txt"]
    kinds = [tarfile.TarInfo(f"{kind!r}.x") for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)]
    for info, kind in zip(kinds, (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE), strict=True):
        info.type, info.linkname = kind, "/etc/passwd"
    data = tar_of([*((info, b"") for info in kinds), (tarfile.TarInfo("good.txt"), b"good")])
    assert [member.name for member in unpack(tmp_path / "out", data, "upload.tar.gz")] == ["good.txt"]


def test_an_archive_in_an_archive_is_not_opened(tmp_path: Path) -> None:
    """It comes out as the file it is; the parser then refuses it as any archive."""
    found = unpack(tmp_path, zip_of({f"lib {n}.zip": BOMB_LAYER for n in range(16)}))
    assert [member.path.read_bytes() == BOMB_LAYER for member in found if member.path] == [True] * 16


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (ArchiveLimits(members_max=3), "more than 3 files"),
        (ArchiveLimits(unpacked_bytes_max=2_000_000), "more than 2 MB"),
        (ArchiveLimits(), "bomb"),
        (ArchiveLimits(unpacked_ratio_max=10**6, free_bytes_min=10**18), "no room"),
    ],
)
@pytest.mark.parametrize("kind", ["upload.zip", "upload.tar.gz"])
def test_limits_hold(tmp_path: Path, limits: ArchiveLimits, says: str, kind: str) -> None:
    """Members, bytes, ratio and room on the disk: the sentence says which, and little was written by then."""
    zeros = b"\0" * 1_000_000
    if kind == "upload.zip":
        data = zip_of({f"{n}.txt": zeros for n in range(16)})
    else:
        data = tar_of([(tarfile.TarInfo(f"{n}.txt"), zeros) for n in range(16)])
    with pytest.raises(ParseFailed, match=says) as refused:
        unpack(tmp_path, data, kind, limits)
    assert refused.value.code == ("no_room" if says == "no room" else "too_large")
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 16_000_000


def test_a_member_that_is_too_large_is_its_own_problem(tmp_path: Path) -> None:
    """The others come out."""
    found = unpack(tmp_path, zip_of({"large.txt": "x" * 5000, "small.txt": "x"}), limits=ArchiveLimits(
        file_bytes_max=1000, free_bytes_min=0))  # fmt: skip
    assert [member.problem.code if member.problem else "" for member in found] == ["too_large", ""]


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=str
)
def test_a_damaged_member_is_its_own_problem(tmp_path: Path, method: int) -> None:
    """However it was packed: its checksum or its unpacker tells; the others come out."""
    words = " ".join(str(number * 7919) for number in range(400))
    data = bytearray(zip_of({"bad.txt": words, "good.txt": "good"}, method))
    for at in range(200, 300):
        data[at] ^= 0x55
    found = unpack(tmp_path, bytes(data))
    assert [member.problem.code if member.problem else "" for member in found] == ["corrupt", ""]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000001"]


def test_a_strangely_packed_member_is_its_own_problem(tmp_path: Path) -> None:
    """A method that nobody here unpacks, or a member that is not where the list says: the others come out."""
    data = bytearray(zip_of({"odd.txt": "odd", "lost.txt": "lost", "good.txt": "good"}))
    data[data.index(b"PK\x01\x02") + 10] = 97
    data[data.index(b"PK\x03\x04", 10)] ^= 1
    found = unpack(tmp_path, bytes(data))
    assert [member.problem.code if member.problem else "" for member in found] == ["unsupported", "corrupt", ""]


def test_old_names_are_read_in_their_encoding(tmp_path: Path) -> None:
    """Names that are neither marked as UTF-8 nor in it are told by all of them together."""
    data = zip_of({"aaaaaaaaaaaa.txt": "1"})
    name = "珊瑚のさかな"[:6].encode("shift_jis")
    data = data.replace(b"aaaaaaaaaaaa", name)
    assert [member.name for member in unpack(tmp_path, data)] == ["珊瑚のさかな.txt"]


def test_passwords_are_said(tmp_path: Path) -> None:
    """A protected archive is refused as that."""
    data = bytearray(zip_of({"a.txt": "words"}))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ParseFailed, match="password") as refused:
        unpack(tmp_path, bytes(data))
    assert refused.value.code == "encrypted"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (zip_of({"a.txt": "words " * 99})[:60], "upload.zip"),
        (b"no archive", "upload.zip"),
        (b"no archive", "upload.tgz"),
        (tar_of([(tarfile.TarInfo("a.txt"), bytes(range(256)) * 400)])[:200], "upload.tar.gz"),
    ],
)  # fmt: skip
def test_damage_is_said(tmp_path: Path, data: bytes, name: str) -> None:
    """A cut or wrong file is refused as damaged, with its name."""
    with pytest.raises(ParseFailed, match=name) as refused:
        unpack(tmp_path, data, name)
    assert refused.value.code == "corrupt"


def test_what_an_archive_is() -> None:
    """By its name, in any case of letters."""
    assert [is_archive(name) for name in ("a.ZIP", "b.tar.gz", "c.tgz", "d.docx", "e.gz")] == [True] * 3 + [False] * 2
