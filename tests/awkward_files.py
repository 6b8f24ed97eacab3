"""More than sixty awkward files, made when a test asks for them: each with what must become of it.

`CASES` is the whole corpus. Office documents and mails are in awkward_documents.py.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec

Make = Callable[[Path], None]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One awkward file. With a `code` it must be refused with it, otherwise its words must be found."""

    name: str
    make: Make
    words: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    pages: dict[str, int] = {}
    """On which page a word must be."""
    headings: tuple[str, ...] = ()
    code: str = ""
    says: str = ""
    """Part of the refusal, or of a warning."""
    encoding: str = ""
    language: str = ""


def put(data: bytes | str) -> Make:
    """A file with this content."""
    content = data.encode() if isinstance(data, str) else data
    return lambda path: path.write_bytes(content) and None


def zip_of(members: dict[str, bytes | str], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip with these members."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return memory.getvalue()


def tar_of(members: dict[str, bytes]) -> bytes:
    """A .tar.gz with these members."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return memory.getvalue()


def png(width: int = 8, height: int = 8) -> bytes:
    """A white picture."""

    def part(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    rows = zlib.compress((b"\0" + b"\xff" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", rows) + part(b"IEND", b"")


def _zeros(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1_000_000_000)


def _link(path: Path) -> None:
    target = path.with_name("target-of-the-link.txt")
    target.write_text("secret words")
    path.symlink_to(target)


LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol">'
    + "".join(f'<!ENTITY lol{n} "{f"&lol{n - 1 or str()};" * 10}">' for n in range(1, 10))
    + "]><lolz>beginning &lol9;</lolz>"
)
OUTSIDE = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg"><text>shown &e;</text></svg>'
ENGLISH = "The reef is a ridge of rock and coral that lies close to the surface of the sea. "
JAPANESE = "珊瑚礁は海の生き物のすみかです。魚がたくさん泳いでいます。"
ARABIC = "الشعاب المرجانية موطن لكثير من الأسماك في البحر. وهي جميلة جدا."
HEBREW = "שונית האלמוגים היא ביתם של דגים רבים בים. היא יפה מאוד."
CHINESE = "珊瑚礁是海洋生物的家园。许多鱼类生活在那里,我们应该保护它们。"
KOREAN = "산호초는 바다 생물의 서식지입니다. 많은 물고기가 그곳에 삽니다."
RUSSIAN = "Коралловый риф является домом для многих рыб. Он очень красив и нуждается в защите."
BOMB_LAYER = zip_of({f"{n}.bin": b"\0" * 1_000_000 for n in range(16)})

TEXTS = [
    Case(name="empty.txt", make=put(b""), code="empty", says="empty"),
    Case(name="blank.txt", make=put(b" \n\t\r\n  \n" * 50), code="no_text"),
    Case(name="one-letter.txt", make=put("x"), words=("x",)),
    Case(name="mark-only.txt", make=put(b"\xef\xbb\xbf"), code="no_text"),
    Case(name="long.txt", make=put(ENGLISH * 20_000 + "lastword"), words=("lastword",), language="en"),
    Case(name="too-long.txt", make=put("word " * 4_100_000), code="too_large", says="characters"),
    Case(name="long-line.txt", make=put("fish" * 500_000), words=("fishfish",)),
    Case(name="base64.txt", make=put("QUJD" * 20_000 + " tailword"), words=("tailword",)),
    Case(name="zeros.txt", make=put(b"\0" * 100_000), code="unsupported", says="nor text"),
    Case(name="gigabyte-of-zeros.txt", make=_zeros, code="too_large", says="1,000 MB"),
    Case(name="stray-zeros.txt", make=put(b"before\0after and some more words to read\0 here"), words=("beforeafter",)),
    Case(name="control.log", make=put("\x1b[31mred\x1b[0m alert\x07 " + ENGLISH * 3), words=("alert", "reef")),
    Case(name="bad-utf8.txt", make=put((ENGLISH + "grün über schön ").encode() * 20 + b"\xff\xfe\x80 end"), words=("grün", "end"), says="replaced", encoding="utf-8"),
    Case(name="surrogates.txt", make=put(b"lone \xed\xa0\x80 half " + "schön grün weiß süß ".encode() * 9), words=("lone", "half", "schön")),
    Case(name="latin1.txt", make=put(("Der Bär läuft über die grüne Wiese und frißt süße Äpfel. " * 20).encode("latin-1")), words=("Bär", "süße"), language="de"),
    Case(name="shift-jis.txt", make=put((JAPANESE * 20).encode("shift_jis")), words=("珊瑚礁", "泳いで"), language="ja"),
    Case(name="utf16-mark.txt", make=put((ENGLISH * 3).encode("utf-16")), words=("coral",), encoding="utf-16"),
    Case(name="utf16-le.txt", make=put((ENGLISH * 3).encode("utf-16-le")), words=("coral",), encoding="utf-16-le"),
    Case(name="utf16-be.txt", make=put((ENGLISH * 3).encode("utf-16-be")), words=("coral",), encoding="utf-16-be"),
    Case(name="utf32.txt", make=put((ENGLISH * 3).encode("utf-32")), words=("coral",), encoding="utf-32"),
    Case(name="mac-ends.txt", make=put("first line\rsecond line\rthird line"), words=("first line\nsecond line\nthird",)),
    Case(name="windows-ends.txt", make=put("first line\r\nsecond line\r\n"), words=("first line\nsecond",)),
    Case(name="decomposed.txt", make=put("cafe\u0301 cre\u0300me"), words=("café", "crème")),
    Case(name="arabic.txt", make=put(ARABIC * 5), words=("المرجانية",), language="ar"),
    Case(name="hebrew.txt", make=put(HEBREW * 5), words=("האלמוגים",), language="he"),
    Case(name="mixed-direction.txt", make=put("\u202bשלום\u202c world " + ENGLISH), words=("שלום", "world")),
    Case(name="chinese.txt", make=put(CHINESE * 5), words=("海洋生物",), language="zh"),
    Case(name="korean.txt", make=put(KOREAN * 5), words=("산호초는",), language="ko"),
    Case(name="cyrillic.txt", make=put((RUSSIAN * 10).encode("koi8-r")), words=("риф",), language="ru"),
    Case(name="emoji.txt", make=put("family 👨‍👩‍👧‍👦 and flag 🏳️‍🌈 and tone 👍🏽 " * 30), words=("👨‍👩‍👧‍👦", "🏳️‍🌈")),
    Case(name="zalgo.txt", make=put("".join(c + "\u0300\u0316\u0347" * 5 for c in "deep water") * 20), words=("d",)),
    Case(name="no-extension", make=put(ENGLISH), words=("coral",)),
    Case(name="Makefile", make=put("all:\n\techo coral\n"), words=("echo coral",)),
    Case(name="strange.xyz", make=put("whatever"), code="unsupported", says=".xyz"),
    Case(name="Ünïcode näme 珊瑚.md", make=put("# Top\n\ntext\n\n## Below\n\nmore"), words=("more",), headings=("# Top", "## Below")),
    Case(name="only-fence.md", make=put("```python\nnever = closed\n"), words=("never = closed",)),
    Case(name="hello.py", make=put('def greet():\n    """Say it."""\n    return "fish"\n'), words=("    return",)),
    Case(name="hello.rs", make=put('fn main() {\n    println!("fish");\n}\n'), words=("println!",)),
    Case(name="hello.tsx", make=put("export const Fish = () => <p>fin</p>;\n"), words=("<p>fin</p>",)),
    Case(name="minified.js", make=put("var a=1;function b(){return a+a};" * 9_000), words=("function b",)),
    Case(name="hello.sql", make=put("SELECT depth\nFROM fish;\n"), words=("FROM fish",)),
    Case(name="deep.json", make=put("[" * 100_000 + "1" + "]" * 100_000), words=("[[[",)),
    Case(name="data.json", make=put(json.dumps({"reef": {"fish": ["clown", "shark"]}}, indent=1)), words=('"shark"',)),
    Case(name="bomb.yaml", make=put("a: &a [x,x]\n" + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)},*{chr(97 + n)}]\n" for n in range(20))), words=("&a [x,x]",)),
    Case(name="laughs.xml", make=put(LAUGHS), words=("beginning",)),
    Case(name="outside.svg", make=put(OUTSIDE), words=("shown",), absent=("root:",)),
    Case(name="ragged.csv", make=put('name,depth\nclown,12,extra\nshark\n"two\nlines",3\n\n'), words=("clown | 12 | extra", "two lines | 3")),
    Case(name="semicolons.csv", make=put("name;depth\nclown;12\nshark;300\n"), words=("shark | 300",)),
    Case(name="unclosed.csv", make=put('a,b\n"never closed,1\n' + "2,3\n" * 100), words=("never closed",)),
    Case(name="tabs.tsv", make=put("name\tdepth\nclown\t12\n"), words=("clown | 12",)),
    Case(name="film.srt", make=put("1\n00:00:01,000 --> 00:00:02,500\nHello <i>fish</i>\n\n2\n00:01:03,000 --> 00:01:04,000\nBye\n"), words=("[0:00:01] Hello fish", "[0:01:03] Bye"), absent=("-->",)),
    Case(name="film.vtt", make=put("WEBVTT\n\nNOTE quiet\n\n00:01.000 --> 00:02.000\nHello reef\n"), words=("Hello reef",), absent=("quiet",)),
]  # fmt: skip

TRICKS = [
    Case(name="pdf-inside.txt", make=put(b"\x89PNG\r\n\x1a\n" + b"\0" * 40), code="corrupt|no_text"),
    Case(name="text-inside.pdf", make=put(ENGLISH), code="corrupt", says="plain text"),
    Case(name="web-page.doc", make=put("<html><body><h1>Reef</h1><p>saved as Word</p></body></html>"), words=("saved as Word",), says="is .html"),
    Case(name="program.pdf", make=put(b"\x7fELF" + bytes(range(256)) * 40), code="unsupported", says="program"),
    Case(name="noise.docx", make=put(os.urandom(1000).replace(b"\0", b"\1") + b"\0\1\2\3" * 400), code="corrupt"),
    Case(name="archive.gz", make=put(gzip.compress(b"words")), code="unsupported"),
    Case(name="bomb.json", make=put(gzip.compress(b"\0" * 50_000_000)), code="unsupported", says="gzip"),
    Case(name="flat-bomb.docx", make=put(zip_of({"word/document.xml": b"<w>" + b" " * 200_000_000})), code="too_large", says="bomb"),
    Case(name="nested-bomb.docx", make=put(zip_of({f"lib {n}.zip": BOMB_LAYER for n in range(16)})), code="unsupported", says="zip archive"),
    Case(name="many-parts.docx", make=put(zip_of({"word/document.xml": "<w/>"} | {f"p{n}": "" for n in range(10_001)})), code="too_large", says="parts"),
    Case(name="truncated.zip.docx", make=put(zip_of({"word/document.xml": "<w/>" * 9000})[:-40]), code="corrupt"),
    Case(name="zip-called.pdf", make=put(zip_of({"a.txt": "words"})), code="unsupported", says="zip archive"),
    Case(name="truncated.png", make=put(png(64, 64)[:40]), code="corrupt|no_text"),
    Case(name="blank.png", make=put(png(200, 100)), code="no_text"),
    Case(name="huge-claim.png", make=put(png(4, 4).replace((4).to_bytes(4, "big") * 2, (60_000).to_bytes(4, "big") * 2, 1)), code="corrupt|no_text"),
    Case(name="link.txt", make=_link, code="unsupported", says="regular file"),
    Case(name="pipe.txt", make=os.mkfifo, code="unsupported", says="regular file"),
    Case(name="directory.pdf", make=lambda path: path.mkdir(), code="unsupported", says="regular file"),
    Case(name="gone.txt", make=lambda path: None, code="lost", says="gone"),
]  # fmt: skip
