import argparse
from dataclasses import dataclass
from typing import Literal

import pytest

from napari_2dmamba.cli.options import add_options, given_options, settings_from
from napari_2dmamba.settings import setting


@dataclass(frozen=True)
class Example:
    size: int = setting(4, "A size.", unit="px", minimum=1)
    target_mpp: float | None = setting(None, "A resolution.")
    mode: Literal["a", "b"] = setting("a", "100 % a mode.", choices=("a", "b"))
    fast: bool = setting(False, "Be fast.")


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="example")
    add_options(made, Example, "example")
    return made


def test_only_given_options_replace_values(parser: argparse.ArgumentParser) -> None:
    options = parser.parse_args(["--target-mpp", "0.25", "--fast"])
    assert given_options(options, Example) == {"target_mpp": 0.25, "fast": True}
    assert settings_from(options, Example, parser) == Example(target_mpp=0.25, fast=True)


def test_help_states_default_and_unit(parser: argparse.ArgumentParser) -> None:
    text = " ".join(parser.format_help().split())
    assert "A size. Default: 4 [px]" in text
    assert "Default: None" not in text
    assert "100 % a mode. Default: a" in text


def test_a_value_out_of_range_is_a_usage_error(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        settings_from(parser.parse_args(["--size", "0"]), Example, parser)
    assert end.value.code == 2
    assert "size is 0, but must be at least 1" in capsys.readouterr().err


def test_a_field_without_help_is_no_option() -> None:
    @dataclass
    class Hidden:
        internal: int = 3

    parser = argparse.ArgumentParser()
    add_options(parser, Hidden, "hidden")
    with pytest.raises(SystemExit):
        parser.parse_args(["--internal", "4"])
