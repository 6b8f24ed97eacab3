"""Encodings are told from the bytes alone."""

from __future__ import annotations

import pytest

from reef.knowledge.parsing.decode import decode

FRENCH = "L'élève à côté de la fenêtre où l'hôtel français était déjà ouvert, ça va être très agréable. "
SPANISH = "El niño soñó que mañana comía piñas; ¿qué más podría pedir el pequeño? ¡Qué ilusión! "
GERMAN = "Der Bär läuft über die grüne Wiese und frißt süße Äpfel. "
PORTUGUESE = "Não há razão para a população não ter informação e educação. Você está aí também? "
POLISH = "Zażółć gęślą jaźń, proszę państwa, w październiku i świętej. "
CZECH = "Příliš žluťoučký kůň úpěl ďábelské ódy v sobotu večer. "
RUSSIAN = "Коралловый риф является домом для многих рыб. "
JAPANESE = "珊瑚礁は海の生き物のすみかです。魚がたくさん泳いでいます。"
CHINESE = "珊瑚礁是海洋生物的家园。许多鱼类生活在那里,我们应该保护它们。"
TRADITIONAL = "珊瑚礁是海洋生物的家園。許多魚類生活在那裡,我們應該保護它們。"
KOREAN = "산호초는 바다 생물의 서식지입니다. 많은 물고기가 그곳에 삽니다."
GREEK = "Ο κοραλλιογενής ύφαλος είναι σπίτι για πολλά ψάρια. "
TURKISH = "Hızlı kahverengi tilki tembel köpeğin üzerinden atlar, şimdi ığdır. "
ENCODED = [
    (FRENCH, "latin-1"), (FRENCH, "utf-8"), (SPANISH, "cp1252"), (GERMAN, "latin-1"), (PORTUGUESE, "latin-1"),
    (POLISH, "cp1250"), (CZECH, "cp1250"), (RUSSIAN, "cp1251"), (RUSSIAN, "koi8-r"), (JAPANESE, "shift_jis"),
    (JAPANESE, "euc_jp"), (CHINESE, "gb18030"), (TRADITIONAL, "big5"), (KOREAN, "euc_kr"), (GREEK, "cp1253"),
    (TURKISH, "cp1254"), (RUSSIAN, "utf-16-le"), (JAPANESE, "utf-16"), (ARABIC := "الشعاب المرجانية موطن ", "cp1256"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "encoding"), ENCODED)
def test_text_comes_back_as_it_was(text: str, encoding: str) -> None:
    """A few sentences are enough to tell their encoding."""
    assert decode((text * 10).encode(encoding))[0] == text * 10


def test_a_few_broken_bytes_do_not_make_another_encoding_of_utf8() -> None:
    """Damaged UTF-8 stays UTF-8; what was replaced is counted."""
    text, encoding, warning = decode((FRENCH * 5).encode() + b"\xff\xc3")
    assert text.startswith(FRENCH)
    assert encoding == "utf-8"
    assert warning.startswith("2 characters")
