"""Command lines made from functions."""

from pathlib import Path

import pytest

from gsm8k_grpo.common.command_line import OutputFile, Settings, make_app

GIVEN = []


def stage(
    *, settings: Settings, metrics: list[Path], tags: tuple[str, str] = ("<a>", "</a>"), output: OutputFile
) -> None:
    """Runs the stage.

    Args:
      metrics: metrics.json of all, base first
    """
    GIVEN.append((settings, metrics, tags, output))


def test_options_are_keywords_with_their_types():
    make_app(stage)(["--settings", '{"seed": 0}', "--metrics", "a", "b", "--tags", "<x>", "</x>", "--output", "c"])
    assert GIVEN.pop() == ('{"seed": 0}', [Path("a"), Path("b")], ("<x>", "</x>"), Path("c"))
    make_app(stage)(["--output", "c", "--settings", "s", "--metrics", "a"])
    assert GIVEN.pop() == ("s", [Path("a")], ("<a>", "</a>"), Path("c"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--settings", "s", "--output", "c"], "Parameter --metrics requires an argument"),
        (["--settings", "s", "--output", "c", "--metrics", "a", "--sede", "0"], "Unknown option: --sede"),
        (["--settings", "s", "--output", "c", "--metrics", "a", "--tags", "<x>"], "Parameter --tags requires 2"),
    ],
)
def test_a_wrong_command_line_is_named(capsys, arguments, says):
    with pytest.raises(SystemExit) as ended:
        make_app(stage)(arguments)
    assert ended.value.code == 2 and says in capsys.readouterr().err


def test_help_is_the_modules_text_and_each_options(capsys):
    make_app(stage)(["--help"])
    out = capsys.readouterr().out
    assert "Command lines made from functions." in out and "metrics.json of all, base first" in out
    assert "file to write" in out
