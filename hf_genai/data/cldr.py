"""Generate translation pairs at run time from Unicode CLDR, the locale data in Babel.

People translated every part for CLDR (the name of a month, "{0} kilometres", "il y a {0} ans", "Côte d'Ivoire"). Rules
combine the parts at random. The pairs are thus synthetic combinations of human translations: word order, plurals,
articles, list commas and number formats differ between languages, but nobody wrote the phrases.

Reference: Unicode CLDR, https://cldr.unicode.org (Unicode licence), through Babel (BSD-3-Clause).
"""

import datetime
import difflib
import hashlib
import random
from collections.abc import Sequence
from functools import cache

from babel import Locale, UnknownLocaleError, localedata
from babel.dates import format_date, format_time, format_timedelta, get_datetime_format
from babel.lists import format_list
from babel.numbers import format_currency, get_currency_name
from babel.units import format_compound_unit, format_unit

KINDS = ("date", "moment", "relative", "measure", "rate", "money", "countries", "languages", "mixture")
# There are many names, and each must occur several times to be learned.
_WEIGHTS = {"countries": 2, "languages": 2}

_SECONDS = {"minute": 60, "hour": 3600, "day": 86400, "week": 604800, "month": 2592000, "year": 31536000}
_UNITS = """angle-degree area-hectare area-square-kilometer area-square-meter digital-gigabyte digital-megabyte
duration-day duration-hour duration-minute duration-month duration-week duration-year energy-kilowatt-hour
length-centimeter length-foot length-inch length-kilometer length-meter length-mile length-millimeter mass-gram
mass-kilogram mass-pound mass-tonne power-kilowatt power-watt speed-kilometer-per-hour speed-mile-per-hour
temperature-celsius temperature-fahrenheit volume-cubic-meter volume-liter"""
_RATED = "digital-megabyte energy-kilowatt-hour length-kilometer length-meter mass-kilogram volume-liter"
_PER = "duration-day duration-hour duration-minute duration-month duration-week duration-year"
_RATES = [(unit, per) for unit in _RATED.split() for per in _PER.split()]
_RATES += [(unit, "area-square-meter") for unit in ("energy-kilowatt-hour", "mass-kilogram", "volume-liter")]
_CURRENCIES = """AUD BRL CAD CHF CNY CZK DKK EGP EUR GBP HUF IDR ILS INR JPY KES KRW MXN NGN NOK NZD PHP PLN RON RUB
SEK THB TRY UAH USD VND ZAR"""
# Codes that are in all CLDR releases from 45 to 49. A code that only some releases have would shift all later draws.
_COUNTRIES = """AC AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT
BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CP CR CU CV CW CX CY CZ DE DG DJ DK DM DO DZ EA EC EE EG EH ER ES ET
EU EZ FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU IC ID IE IL IM IN
IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK
ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS
PT PW PY QA QO RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TA TC TD TF TG TH TJ TK
TL TM TN TO TR TT TV TW TZ UA UG UM UN US UY UZ VA VC VE VG VI VN VU WF WS XA XB XK YE YT ZA ZM ZW ZZ"""
_LANGUAGES = """aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz
ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu
ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd
ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss
st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"""
# Codes whose English or French names differ between these releases: excluded, so that all releases give the same rows.
_RENAMED = {"HM", "SH", "TF", "ZZ"}
_PARTS_OF_A_MIXTURE = ("relative", "measure", "rate", "money")

# The split of a combination does not depend on the seed, the sizes or the languages.
_BUCKETS = 20
_BUCKET_OF = {"test": 0, "validation": 1}
# Maximum number of consecutive rejected draws of one kind: 20 to hit 1 of 20 buckets, times 150 for a new combination.
_GIVE_UP_AFTER = 3000

_PLAIN = str.maketrans(
    {
        "\u00a0": " ",
        "\u202f": " ",
        "\u2009": " ",
        "\u2019": "'",
        "\u02bc": "'",
        "\u200e": None,
        "\u200f": None,
        "\u061c": None,
    }
)


def plain_text(text: str) -> str:
    """Return `text` as people type it.

    No-break and thin spaces (U+00A0, U+202F, U+2009) become a space, typographic apostrophes (U+2019, U+02BC) become
    ', and invisible direction marks (U+200E, U+200F, U+061C) are removed.
    """
    return text.translate(_PLAIN)


@cache
def _root() -> Locale:
    """Return CLDR's root locale, from which every language inherits what it does not define."""
    return Locale.parse("root")


class _Draws:
    """Random integers from `random.Random.random`, the only method with a sequence that is stable across versions."""

    def __init__(self, seed: str):
        self._random = random.Random(seed).random

    def below(self, limit: int) -> int:
        return int(self._random() * limit)

    def choice(self, values: Sequence):
        return values[self.below(len(values))]

    def distinct(self, values: Sequence, count: int) -> tuple:
        chosen: dict = {}
        while len(chosen) < count:
            chosen[self.choice(values)] = None
        return tuple(chosen)


class _Speaker:
    """Render combinations, tuples of a kind and its language-independent arguments, in one language."""

    def __init__(self, identifier: str):
        self.locale = _locale(identifier)
        self.length = {unit: length for unit in f"{_UNITS} {_RATED}".split() if (length := self._length(unit))}
        self.rates = [(unit, per) for unit, per in _RATES if self._has_rate(unit, per)]
        self.currencies = [code for code in _CURRENCIES.split() if get_currency_name(code, 5, self.locale) != code]
        self.names = {
            "countries": {k: v for k, v in self.locale.territories.items() if k in _COUNTRIES.split()},
            "languages": {k: v for k, v in self.locale.languages.items() if k in _LANGUAGES.split()},
        }
        past = self.relative("day", -5)
        self.has_relative = past not in (self.relative("day", 5), "-5 d", "-5 day")
        self.has_dates = not self.locale.months["format"]["wide"][1].startswith("M0")

    def _length(self, unit: str) -> str | None:
        """Return "long" or, if the language has no long form of the unit, "short"; None if the language has neither.

        A form that a language lacks comes out with the unit's identifier in it or as CLDR's root has it, by release of
        Babel. The value is one of the plural class that every spelled unit has.
        """
        value = next(value for value in (5, *range(200), 1.5) if self.locale.plural_form(value) == "other")
        for length in ("long", "short"):
            text, root = (format_unit(value, unit, length, locale=locale) for locale in (self.locale, _root()))
            if unit not in text and text != root:
                return length
        return None

    def _has_rate(self, unit: str, per: str) -> bool:
        if self.length.get(unit) != "long":
            return False
        text = self.rate(unit, per, 5)
        return unit not in text and per not in text  # Babel falls back on the identifier

    def say(self, combination: tuple) -> str:
        kind, *filling = combination
        return plain_text(getattr(self, kind)(*filling))

    def date(self, style: str, ordinal: int) -> str:
        return format_date(datetime.date.fromordinal(ordinal), style, self.locale)

    def moment(self, style: str, ordinal: int, minutes: int) -> str:
        time = format_time(datetime.time(*divmod(minutes, 60)), "short", locale=self.locale)
        pattern = str(get_datetime_format("long", locale=self.locale)).replace("'", "")
        return pattern.replace("{0}", time).replace("{1}", self.date(style, ordinal))

    def relative(self, unit: str, count: int) -> str:
        delta = datetime.timedelta(seconds=_SECONDS[unit] * count)
        # An unreachable threshold keeps the unit: 45 days stay days.
        return format_timedelta(
            delta,
            granularity=unit,  # type: ignore[arg-type]
            threshold=1e9,
            add_direction=True,
            locale=self.locale,
        )

    def measure(self, unit: str, value: float) -> str:
        return format_unit(value, unit, self.length[unit], locale=self.locale)  # type: ignore[arg-type]

    def rate(self, unit: str, per: str, value: float) -> str:
        return format_compound_unit(value, unit, denominator_unit=per, length="long", locale=self.locale) or ""

    def money(self, currency: str, value: int) -> str:
        return format_currency(
            value, currency, locale=self.locale, format_type="name", currency_digits=False, decimal_quantization=False
        )

    def countries(self, codes: tuple[str, ...], style: str) -> str:
        return self._list([self.names["countries"][code] for code in codes], style)

    def languages(self, codes: tuple[str, ...], style: str) -> str:
        return self._list([self.names["languages"][code] for code in codes], style)

    def mixture(self, parts: tuple[tuple, ...], style: str) -> str:
        return self._list([self.say(part) for part in parts], style)

    def _list(self, parts: list[str], style: str) -> str:
        return format_list(parts, style=style, locale=self.locale)  # type: ignore[arg-type]


class CldrPairs:
    """Draw translation pairs of two languages.

    Args:
        source_language: a Babel identifier such as "en", "pt_BR" or "zh_Hant".
        target_language: another Babel identifier.
        kinds: the kinds of `KINDS` to draw; lists of names are drawn twice as often as other kinds. A kind that CLDR
            lacks in either language is left out and listed in `missing_kinds`.

    Raises:
        ValueError: an unknown language (the message names similar known ones), the same language twice, an unknown
            kind, or two languages for which CLDR has none of the kinds.
    """

    def __init__(self, source_language: str, target_language: str, kinds: Sequence[str] = KINDS):
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise ValueError(f"kinds: unknown {unknown}; allowed: {', '.join(KINDS)}")
        self._speakers = (_Speaker(source_language), _Speaker(target_language))
        one, two = self._speakers
        if one.locale == two.locale:
            raise ValueError(f"source_language and target_language must differ, not be both {source_language!r}")
        self._units = sorted(one.length.keys() & two.length.keys())
        self._rates = sorted(set(one.rates) & set(two.rates))
        self._currencies = sorted(set(one.currencies) & set(two.currencies))
        self._names = {what: sorted(one.names[what].keys() & two.names[what].keys()) for what in one.names}
        dates = one.has_dates and two.has_dates
        relative = one.has_relative and two.has_relative
        has = {
            "date": dates,
            "moment": dates,
            "relative": relative,
            "measure": bool(self._units),
            "rate": bool(self._rates),
            "money": bool(self._currencies),
            "countries": len(self._names["countries"]) >= 20,
            "languages": len(self._names["languages"]) >= 20,
        }
        self._parts = [kind for kind in _PARTS_OF_A_MIXTURE if has[kind]]
        has["mixture"] = len(self._parts) >= 2
        self.kinds = tuple(kind for kind in kinds if has[kind])
        self.missing_kinds = tuple(kind for kind in kinds if not has[kind])
        if not self.kinds:
            raise ValueError(
                f"CLDR has none of {', '.join(kinds)} in both {source_language!r} and {target_language!r}; "
                "take languages that it covers well, such as en, fr, de, es, ja, ar, ru, zh"
            )

    def draw(
        self, num_train: int, num_validation: int, num_test: int, seed: int = 0
    ) -> dict[str, list[tuple[str, str]]]:
        """Return pairs (source, target) by split; the same arguments give the same pairs in any process and Python.

        No source text and no target text occurs twice. A hash of the combination determines its split (18 of 20
        train), so a held-out combination is never a training pair, for any seed, size or language. Validation and test
        do not depend on `num_train`. English and French rows are equal for Babel 2.16 to 2.19; rows of other languages
        follow the CLDR release in Babel.

        Raises:
            ValueError: more pairs requested than there are distinct pairs.
        """
        sources: set[str] = set()
        targets: set[str] = set()
        result = {}
        for split, size in (("test", num_test), ("validation", num_validation), ("train", num_train)):
            draws, kinds, refused = _Draws(f"{seed}:{split}"), list(self.kinds), dict.fromkeys(self.kinds, 0)
            pairs: list[tuple[str, str]] = []
            while len(pairs) < size:
                if not kinds:
                    raise ValueError(
                        f"num_{split}={size}: only {len(pairs)} distinct pairs of the kinds {', '.join(self.kinds)} "
                        "found; ask for fewer or allow more kinds"
                    )
                kind = draws.choice([kind for kind in kinds for _ in range(_WEIGHTS.get(kind, 1))])
                combination = getattr(self, f"_draw_{kind}")(draws)
                if _split_of(combination) == split:
                    source, target = (speaker.say(combination) for speaker in self._speakers)
                    if source not in sources and target not in targets:
                        sources.add(source)
                        targets.add(target)
                        pairs.append((source, target))
                        refused[kind] = 0
                        continue
                refused[kind] += 1
                if refused[kind] == _GIVE_UP_AFTER:
                    kinds.remove(kind)
            result[split] = pairs
        return {split: result[split] for split in ("train", "validation", "test")}

    def _draw_date(self, draws: _Draws) -> tuple:
        return "date", draws.choice(("full", "long")), 693_961 + draws.below(73_000)  # from 1901 on, 200 years

    def _draw_moment(self, draws: _Draws) -> tuple:
        _, style, ordinal = self._draw_date(draws)
        return "moment", style, ordinal, 5 * draws.below(288)

    def _draw_relative(self, draws: _Draws) -> tuple:
        return "relative", draws.choice(tuple(_SECONDS)), draws.choice((-1, 1)) * (1 + draws.below(99))

    def _draw_measure(self, draws: _Draws) -> tuple:
        return "measure", draws.choice(self._units), self._value(draws)

    def _draw_rate(self, draws: _Draws) -> tuple:
        return "rate", *draws.choice(self._rates), self._value(draws)

    def _draw_money(self, draws: _Draws) -> tuple:
        return "money", draws.choice(self._currencies), 1 + draws.below(20_000 if draws.below(4) == 0 else 1000)

    def _draw_countries(self, draws: _Draws) -> tuple:
        return self._draw_names("countries", draws)

    def _draw_languages(self, draws: _Draws) -> tuple:
        return self._draw_names("languages", draws)

    def _draw_names(self, what: str, draws: _Draws) -> tuple:
        return what, draws.distinct(self._names[what], 2 + draws.below(3)), draws.choice(("standard", "or"))

    def _draw_mixture(self, draws: _Draws) -> tuple:
        parts = tuple(getattr(self, f"_draw_{draws.choice(self._parts)}")(draws) for _ in range(2))
        return "mixture", parts, draws.choice(("standard", "or"))

    @staticmethod
    def _value(draws: _Draws) -> float:
        """Return an integer below 200 or, one time in four, tenths below 20: plural forms depend on the decimals."""
        return draws.below(200) if draws.below(4) else draws.below(200) / 10


def _split_of(combination: tuple) -> str | None:
    if combination[0] == "countries" and not _RENAMED.isdisjoint(combination[1]):
        return None
    digest = hashlib.sha256(repr(combination).encode()).digest()
    bucket = int.from_bytes(digest[:8], "big") % _BUCKETS
    return next((split for split, b in _BUCKET_OF.items() if b == bucket), "train")


def _locale(identifier: str) -> Locale:
    try:
        return Locale.parse(identifier)
    except (UnknownLocaleError, ValueError):
        known = localedata.locale_identifiers()
        names = {name.lower(): code for code, name in Locale("en").languages.items() if code in known}
        near = [names[name] for name in difflib.get_close_matches(identifier.lower(), names, 3)]
        near = list(dict.fromkeys(near + difflib.get_close_matches(identifier, known, 6)))
        languages = " ".join(sorted(code for code in known if "_" not in code))
        raise ValueError(
            f"language {identifier!r} is unknown to Babel; nearest: {', '.join(near) or 'none'}. "
            f"Known, many also with a region such as pt_BR: {languages}"
        ) from None
