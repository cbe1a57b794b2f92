"""Files that others wrote: each way to be broken is an error that names the file."""

import pytest

from hf_genai.files import read_json, read_text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[]", "must hold an object, not a list"),
        (b"7", "must hold an object, not 7"),
        (b'"' + b"a" * 10_000 + b'"', "must hold an object, not a text"),
        (b"null", "must hold an object, not None"),
        (b"", "broken or cut off"),
        (b'{"a": [1, 2', "broken or cut off"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "broken"),
        (b'{\n"a": "\xff"}', r"config\.json, line 2: must be UTF-8, not the byte 0xff"),
        (b'{"a": 1,\n"b": ' + b'{"a":' * 100_000, "line 2: is broken: its JSON is nested too deeply"),
        (b'{"a":\n b}', "line 2: is broken or cut off"),
        (b'{"a":\n' + b"9" * 10_000 + b"}", "line 2: is broken"),
        (b'{"a":\n"x\\ud800"}', r"line 2: is broken: \\ud800 is half of a surrogate pair"),
        (b'["\\ud83d\\ude00",\n"\\uDE00\\ud83d"]', r"line 2: is broken: \\uDE00 is half"),
    ],
)
def test_what_is_wrong_with_a_json_file_is_said_with_its_name(content, said, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        read_json(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < len(str(path)) + 200


def test_a_json_file_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": [1, "é"]}', "utf-8")
    assert read_json(path) == {"a": [1, "é"]} and read_text(path) == '{"a": [1, "é"]}'
    path.write_text(r'{"pair": "\ud83d\ude00", "text": "\\ud800"}')
    assert read_json(path) == {"pair": "\U0001f600", "text": r"\ud800"}
    path.write_text("[1]")
    assert read_json(path, (dict, list)) == [1]
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")
