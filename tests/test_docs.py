"""What the documents tell a reader to type is there: commands, options, names, links."""

import ast
import re
import runpy
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from safetensors.torch import save_file

from napari_2dmamba.cli.main import COMMANDS, command_parser
from napari_2dmamba.features.encoder import load_encoder
from napari_2dmamba.features.encoder_catalog import BY_FILE, CATALOG
from tests.features.networks import require_timm

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the code blocks of a page as ``(language, text)``, fenced and indented ones."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    indented = re.findall(r"(?:^\n)((?:^ {4}\S.*\n(?:^ {4}.*\n|^\n(?= {4}))*))", rest, re.M)
    return [*fenced, *(("", re.sub("^ {4}", "", block, flags=re.M)) for block in indented)]


def commands(page: Path) -> list[str]:
    """Return what a page tells to type after ``napari-2dmamba``, comments and pipes cut off."""
    found = []
    for language, text in blocks(page):
        if language in ("", "bash", "sh", "console"):
            joined = re.sub(r"\\\n\s*", "", text)
            for line in joined.splitlines():
                match = re.match(r"(?:\$ )?(?:srun .*)?napari-2dmamba( .*)$", line.strip())
                if match:
                    found.append(match[1].strip())
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_documents_are_understood(page: Path) -> None:
    parser = command_parser()
    for command in commands(page):
        words = shlex.split(command, comments=True)
        words = words[: next((i for i, w in enumerate(words) if w in "|&&>2>"), len(words))]
        if words and words[0] not in COMMANDS and not words[0].startswith("-"):
            words.insert(0, "view")
        if words and "--help" not in words and "--version" not in words:
            try:
                options = parser.parse_args(words)
            except SystemExit:
                pytest.fail(f"{page.name}: napari-2dmamba {command} is not understood")
            assert options.action


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_of_the_documents_names_what_there_is(page: Path) -> None:
    for language, text in blocks(page):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(text)):
            name = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            if isinstance(node, ast.ImportFrom) and name.startswith("napari_2dmamba"):
                module = import_module(name)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page.name}: {name}.{alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_of_the_documents_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_there_are_commands_to_look_at() -> None:
    assert len(commands(ROOT / "README.md")) >= 8


def test_the_page_of_encoders_is_the_catalogue() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "encoder_table.py"))
    text = made["PAGE"].read_text(encoding="utf-8")
    assert made["page_with_tables"](text) == text, "run: python docs/encoder_table.py"
    for name in (*CATALOG, *BY_FILE):
        assert f"| `{name}` |" in text


def test_the_yaml_of_the_page_of_encoders_is_understood(tmp_path: Path) -> None:
    require_timm()
    import timm

    ((_, text),) = [b for b in blocks(ROOT / "docs" / "encoders.md") if b[0] == "yaml"]
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    network = timm.create_model("vit_small_patch16_224", num_classes=0)
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    encoder = load_encoder(str(tmp_path / "mine.yaml"), device="cpu", offline=True)
    assert (encoder.name, encoder.feature_size, encoder.mpp) == ("my-encoder", 384, 0.5)
