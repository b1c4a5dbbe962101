"""Artifacts: written whole or not at all, read with the file and line of each fault, hashed by content."""

import os

import pytest

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError


def endless():
    yield {"a": 1}
    raise RuntimeError("no more rows")


@pytest.mark.parametrize(
    ("write", "value", "error"),
    [
        (files.write_text, "begins well \ud800", UnicodeEncodeError),
        (files.write_json, {"a": float("nan")}, ValueError),
        (files.write_json, {"a": object()}, TypeError),
        (files.write_jsonl, [{"a": 1}, {"a": float("inf")}], ValueError),
        (files.write_jsonl, endless(), RuntimeError),
    ],
    ids=["text that is no UTF-8", "NaN", "no JSON", "infinity in a row", "rows that fail"],
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, write, value, error):
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(error):
        write(path, value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_write_over_a_folder_fails_and_leaves_no_temporary_file(tmp_path):
    (tmp_path / "x" / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        files.write_text(tmp_path / "x", "text")
    assert os.listdir(tmp_path) == ["x"]


def test_what_is_written_is_readable_by_others_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "deep" / "er" / "x", "a\nβ\n")
    finally:
        os.umask(before)
    path = tmp_path / "deep" / "er" / "x"
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.read_bytes() == b"a\n\xce\xb2\n"


def test_json_and_rows_read_back_as_written(tmp_path):
    rows = [{"id": "a", "text": "β\u2028\n\r \\"}, {"id": "b", "n": [1, 2.5, None, True]}]
    files.write_jsonl(tmp_path / "x.jsonl", iter(rows))
    files.write_json(tmp_path / "x.json", {"rows": rows})
    assert files.read_jsonl(tmp_path / "x.jsonl", keys=("id",)) == rows
    assert files.read_json(tmp_path / "x.json") == {"rows": rows}
    assert (tmp_path / "x.jsonl").read_bytes().count(b"\n") == 2


def test_the_mark_and_line_ends_of_windows_and_empty_lines_are_read(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}')
    assert files.read_jsonl(path) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"a": 1}\n{"a": "\xe9"}\n', "{path}, line 2: byte 0xe9 is not UTF-8"),
        (b'{"a": 1}\n{"a": 2}\n{"a": "cut sho', "{path}, line 3: not valid JSON (Unterminated string"),
        (b'{"a": 1}\n\n{"b": 2, "c": 3}\n', "{path}, line 3: no key 'a' (found b, c); each row needs a"),
        (b'{"a": 1}\n[1, 2]\n', "{path}, line 2: expected a JSON object, found list"),
        (b"{}\n", "{path}, line 1: no key 'a' (found none); each row needs a"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}\n', "{path}, line 1: an object has the key 'c' twice; remove one"),
        (b"[" * 100_000, "{path}, line 1: not valid JSON (nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "{path}, line 1: not valid JSON (nested too deeply, or too long a number)"),
        (b"version https://example.org/spec\n", "{path}, line 1: not valid JSON"),
        (b"\n  \n", "{path}: no rows; expected one JSON object a line"),
        (b"", "{path}: no rows; expected one JSON object a line"),
    ],
    ids=[
        "no UTF-8",
        "cut short",
        "key missing",
        "no object",
        "empty object",
        "a key twice",
        "nested too deeply",
        "number too long",
        "pointer instead of data",
        "empty lines",
        "empty file",
    ],
)
def test_a_fault_in_rows_is_named_by_file_and_line(tmp_path, content, fault):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(PipelineError) as refused:
        files.read_jsonl(path, keys=("a",))
    assert str(refused.value).startswith(fault.format(path=path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("missing", "no such file"),
        ("folder", "is a folder, expected a file"),
        ("torn/x", "cannot be read (Not a directory)"),
        ("torn", "line 1: not valid JSON"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, fault):
    (tmp_path / "folder").mkdir()
    (tmp_path / "torn").write_text('{"a": ')
    with pytest.raises(PipelineError) as refused:
        files.read_json(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value) and fault in str(refused.value)


def test_hashes_are_sha256(tmp_path):
    published = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", FIPS 180-4
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256_text("abc") == files.sha256_file(tmp_path / "x") == published


def test_published_gsm8k_has_its_published_hash(published):
    expected = "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14"
    assert files.sha256_file(published / "test.jsonl") == expected


def tree(folder, **contents):
    for name, content in contents.items():
        path = folder.joinpath(*name.split("__"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return files.sha256_tree(folder)


def test_the_hash_of_a_folder_is_of_names_and_contents_alone(tmp_path):
    first = tree(tmp_path / "first", a="1", b__c="2")
    assert tree(tmp_path / "copy", b__c="2", a="1") == first
    others = {
        "renamed": {"x": "1", "b__c": "2"},
        "moved": {"a": "1", "c": "2"},
        "swapped": {"a": "2", "b__c": "1"},
        "edited": {"a": "1", "b__c": "3"},
        "more": {"a": "1", "b__c": "2", "d": ""},
        "less": {"a": "1"},
    }
    hashes = {first, *(tree(tmp_path / name, **contents) for name, contents in others.items())}
    assert len(hashes) == 7


def test_equal_settings_have_the_same_canonical_text():
    assert files.canonical_json({"b": [1, 2], "a": {"d": "β", "c": None}}) == '{"a":{"c":null,"d":"β"},"b":[1,2]}'
    assert files.canonical_json({"a": [2, 1]}) != files.canonical_json({"a": [1, 2]})
