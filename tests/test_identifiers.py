"""Licences and languages: what the Hub takes, and what is proposed for what it does not."""

import pytest

from hf_genai.cards import CardData, render_card
from hf_genai.identifiers import LICENSES, check_languages, check_license


def test_identifiers_of_the_hub_are_taken_in_any_case():
    assert [check_license(name) for name in ("Apache-2.0", "mit", " CC-BY-SA-4.0", "openrail++")] == [
        *("apache-2.0", "mit", "cc-by-sa-4.0", "openrail++")
    ]
    assert all(check_license(name) == name for name in LICENSES)
    codes = ["en", "fr-CA", "eng", "zh_Hant", "yue", "ger", "Multilingual", "code", "en-GB"]
    assert check_languages(codes) == ["en", "fr", "eng", "zh", "yue", "ger", "multilingual", "code"]
    assert check_languages(()) == []


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("Apache 2.0", "apache-2.0"),
        ("Apache License 2.0", "apache-2.0"),
        ("apache2", "apache-2.0"),
        ("GPLv3", "gpl-3.0"),
        ("GNU General Public License v2.0", None),
        ("MIT License", "mit"),
        ("CC BY 4.0", "cc-by-4.0"),
        ("CC-BY-NC-SA 4.0 International", "cc-by-nc-sa-4.0"),
        ("cc-by-5.0", "cc-by-"),
        ("BSD 3 clause", "bsd-3-clause"),
        ("LGPL-3", "lgpl-3.0"),
        ("my own", "other"),
        ("", "other"),
    ],
)
def test_a_licence_that_the_hub_refuses_is_refused_with_the_nearest(name, near):
    with pytest.raises(ValueError, match="model_license must be an identifier of the Hub") as caught:
        check_license(name, "model_license")
    assert near is None or f"{near}" in str(caught.value).split(";")[1]


@pytest.mark.parametrize(
    ("code", "near"),
    [
        ("English", "en"),
        ("german", "de"),
        ("Englsh", "en"),
        ("Greek", "el"),
        ("jp", "ja"),
        ("cz", "cs"),
        ("Swiss German", "gsw"),
        ("qq", None),
        ("", None),
    ],
)
def test_a_language_that_is_none_is_refused_with_the_nearest(code, near):
    with pytest.raises(ValueError, match="languages must be codes of ISO 639") as caught:
        check_languages(["fr", code])
    assert str(caught.value).endswith(f"did you mean '{near}'?" if near else f"not {code!r}")


def test_no_card_has_a_licence_or_language_that_the_hub_refuses():
    for wrong in ({"license": "Apache 2.0"}, {"languages": ["English"]}):
        with pytest.raises(ValueError, match="did you mean"):
            render_card(CardData(title="A", summary="B", model_type="t5", **wrong))
