"""Which language a text is in, told offline by the library that office.py uses. Says nothing rather than guess."""

from __future__ import annotations

import asyncio

SAMPLE_CHARACTERS = 4000
CONFIDENCE_MIN = 0.6
# ISO 639-3 as the detector says it, to 639-1
_SHORT = dict(
    pair.split(":")
    for pair in """eng:en deu:de fra:fr spa:es por:pt ita:it nld:nl rus:ru ukr:uk bel:be pol:pl ces:cs slk:sk slv:sl
    hrv:hr srp:sr bul:bg mkd:mk ron:ro hun:hu fin:fi est:et lav:lv lit:lt swe:sv dan:da nob:nb nno:nn nor:no ell:el
    tur:tr aze:az kat:ka hye:hy heb:he yid:yi ara:ar pes:fa fas:fa urd:ur hin:hi ben:bn pan:pa guj:gu mar:mr tam:ta
    tel:te kan:kn mal:ml ori:or sin:si nep:ne mya:my tha:th lao:lo khm:km vie:vi ind:id jav:jv tgl:tl cmn:zh zho:zh
    jpn:ja kor:ko uzb:uz tuk:tk kaz:kk amh:am zul:zu sna:sn afr:af aka:ak lat:la epo:eo cat:ca cym:cy""".split()  # noqa: SIM905
)


def language_of(text: str) -> str:
    """ISO 639-1, or empty where it cannot be told."""
    import xberg

    sample = text[:SAMPLE_CHARACTERS]
    config = xberg.ExtractionConfig(
        use_cache=False,
        disable_ocr=True,
        enable_quality_processing=False,
        language_detection=xberg.LanguageDetectionConfig(enabled=True, min_confidence=CONFIDENCE_MIN),
    )
    wanted = xberg.ExtractInput(kind=xberg.ExtractInputKind.BYTES, bytes=sample.encode(), mime_type="text/plain")
    found = asyncio.run(xberg.extract(wanted, config)).results
    names = (found[0].detected_languages if found else None) or []
    return _SHORT.get(names[0], "") if names else ""
