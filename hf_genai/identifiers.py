"""Licences and languages by the names that the Hub takes in a card's metadata, and the nearest one to any other.

References: Hugging Face, "Licenses" (list of identifiers, 2026); ISO 639-1, 639-2 and 639-3.
"""

import difflib
import re
from collections.abc import Iterable

LICENSES = {
    *("afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m"),
    *("bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause"),
    *("bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0"),
    *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0"),
    *("cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0"),
    *("cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "creativeml-openrail-m"),
    *("deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2"),
    *("fair-noncommercial-research-license", "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "grok2-community"),
    *("h-research", "intel-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2", "llama3"),
    *("llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl"),
    *("odc-by", "ofl-1.1", "openmdw-1.0", "openmdw-1.1", "openrail", "openrail++", "osl-3.0", "other", "pddl"),
    *("postgresql", "unknown", "unlicense", "wtfpl", "zlib"),
}


def check_license(name: str, argument: str = "license") -> str:
    """Return a licence as the Hub writes it.

    Raises:
        ValueError: The Hub does not know it; names the argument and the nearest one that it knows.
    """
    if name.strip().lower() in LICENSES:
        return name.strip().lower()
    words = re.sub(r"[^a-z0-9.+]+", "-", name.lower())
    words = re.sub(r"\b(licen[cs]e|the|gnu|public|general|international|unported|version)\b", "", words)
    # a version as the identifiers have it: gplv3, apache2
    words = re.sub(r"-?\bv?(\d)$", r"-\1.0", re.sub(r"(?<=[a-z])v?(?=\d(\.\d)?$)|\bv(?=\d)", "-", words.strip("-")))
    near = difflib.get_close_matches(re.sub("-+", "-", words).strip("-"), sorted(LICENSES), n=1)
    hint = f"did you mean {near[0]!r}?" if near else "any licence that the Hub has no identifier for is 'other'"
    raise ValueError(f"{argument} must be an identifier of the Hub, such as 'apache-2.0', not {name!r}; {hint}")


def check_languages(codes: Iterable[str], argument: str = "languages") -> list[str]:
    """Return languages as the Hub writes them, each once: without script and country.

    Raises:
        ValueError: One is no code of ISO 639; names the argument and the nearest language.
    """
    found = []
    for code in codes:
        language = re.split("[-_]", code.strip())[0].lower()
        if not _is_language(language):
            near = _nearest_language(code.strip())
            raise ValueError(
                f"{argument} must be codes of ISO 639, such as 'en' or 'yue', 'multilingual' or 'code', not {code!r}"
                + (f"; did you mean {near!r}?" if near else "")
            )
        found.append(language)
    return list(dict.fromkeys(found))


def _is_language(code: str) -> bool:
    from iso639 import Language, LanguageNotFoundError

    if code in ("multilingual", "code"):
        return True
    try:
        language = Language.match(code)
    except LanguageNotFoundError:
        return False
    return code in (language.part1, language.part2b, language.part2t, language.part3)


def _nearest_language(text: str) -> str | None:
    """Return the code of the language that has this name or one like it, or that a country of this code speaks."""
    from babel import Locale
    from babel.languages import get_official_languages
    from iso639 import ALL_LANGUAGES

    if len(text) == 2:
        return next((re.split("[-_]", spoken)[0] for spoken in get_official_languages(text.upper())), None)
    names = {language.name.lower(): language.part1 or language.part3 for language in ALL_LANGUAGES}
    names |= {name.lower(): code for code, name in Locale("en").languages.items() if _is_language(code)}  # the usual
    near = difflib.get_close_matches(text.lower(), names, n=1, cutoff=0.75)
    return names[near[0]] if near else None
