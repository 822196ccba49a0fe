"""Encoders that are programs: none runs before the user said so, and no file says it for them."""

import os
from pathlib import Path

import pytest
import torch

from napari_2dmamba.checkpoints.fit import InputFacts, State, fits
from napari_2dmamba.checkpoints.summary import summarise
from napari_2dmamba.cli.main import main
from napari_2dmamba.errors import CheckpointError, FeatureError, UntrustedEncoderError
from napari_2dmamba.features import FeatureSettings, trust
from napari_2dmamba.features.encoder import load_encoder
from napari_2dmamba.features.encoder_names import is_known, not_taken
from napari_2dmamba.models import load_checkpoint
from napari_2dmamba.pipeline import RunSettings, run
from tests import warm
from tests.features.networks import require_timm
from tests.models.test_checkpoint import rewritten
from tests.tiny import write_slide


class Writer(torch.nn.Module):
    """Makes a file when it runs, as any TorchScript program could."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = torch.from_file(self.target, True, 4, dtype=torch.float32)
        return x.mean((2, 3)) + made.sum() * 0


@pytest.fixture
def owned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file the program would write; consents are kept apart from the user's own."""
    monkeypatch.setattr(trust, "consent_file", lambda: tmp_path / "config" / "trusted.json")
    return tmp_path / "owned"


@pytest.fixture
def program(tmp_path: Path, owned: Path) -> Path:
    path = tmp_path / "evil.ts"
    torch.jit.save(torch.jit.script(Writer(str(owned))), path)
    return path


def test_a_program_runs_only_after_consent(program: Path, owned: Path) -> None:
    with pytest.raises(
        UntrustedEncoderError, match=r"evil\.ts was not run.*--trust-encoder"
    ) as why:
        load_encoder(str(program), device="cpu")
    assert why.value.path == program
    assert trust.untrusted_program(str(program)) == program
    assert not owned.exists()
    trust.trust(program)
    assert trust.untrusted_program(str(program)) is None
    assert load_encoder(str(program), device="cpu").feature_size == 3
    assert owned.exists()  # it was a program
    assert str(program.parent) not in trust.consent_file().read_text()


def test_another_program_under_the_name_is_asked_about_again(program: Path, owned: Path) -> None:
    trust.trust(program)
    torch.jit.save(torch.jit.script(Writer(str(owned) + "2")), program)
    with pytest.raises(UntrustedEncoderError):
        load_encoder(str(program), device="cpu")


@pytest.mark.parametrize("name", ["evil.yaml", "EVIL.TS"])
def test_other_ways_to_the_program(name: str, program: Path, owned: Path) -> None:
    way = program.with_name(name)
    if name.endswith(".yaml"):
        way.write_text("network: evil.ts\n")
    else:
        way.write_bytes(program.read_bytes())
    assert trust.untrusted_program(str(way)) is not None
    with pytest.raises(UntrustedEncoderError):
        load_encoder(str(way), device="cpu")
    assert not owned.exists()


def test_a_damaged_list_of_consents_consents_to_nothing(program: Path) -> None:
    trust.trust(program)
    trust.consent_file().write_text("{")
    with pytest.raises(UntrustedEncoderError):
        load_encoder(str(program), device="cpu")
    trust.trust(program)
    load_encoder(str(program), device="cpu")


def test_the_command_line_asks(
    program: Path, owned: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    slide = write_slide(tmp_path / "slide.tif")
    given = ["extract", str(slide), "--out", str(tmp_path / "runs"), "--patch-size", "64",
             "--encoder", str(program), "--device", "cpu"]  # fmt: skip
    assert main(given) == 1
    assert "--trust-encoder" in "".join(capsys.readouterr())
    assert not owned.exists()
    assert main([*given, "--trust-encoder"]) == 0
    assert owned.exists()


NAMES = [
    "evil.ts", "~/evil.ts", "/tmp/evil.yaml", "../evil.yml", "evil.onnx", "timm:local-dir:/tmp/x",
    "timm:hf-hub:some/one", "some/one", "C:\\evil.ts", "timm:resnet50", "", "stain-texture-v1 ",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_header_chooses_no_encoder_of_others(name: str, tmp_path: Path) -> None:
    """A checkpoint may state any encoder; what it states is shown, and not taken."""
    assert not is_known(name)
    path = rewritten(tmp_path / "m.safetensors", encoder=name)
    assert load_checkpoint(path).header.encoder == name
    if name.strip():
        assert name.strip()[-6:].replace("\\", "\\\\") in not_taken(name)
    fit = fits(summarise(path), InputFacts("s", encoders=("stain-texture-v1",)))
    assert fit.state is not State.EXTRACT


def test_known_encoders_are_taken() -> None:
    assert all(map(is_known, ("stain-texture-v1", "uni", "resnet50-clam")))


def test_a_run_loads_no_encoder_that_its_checkpoint_states(
    program: Path, owned: Path, tmp_path: Path
) -> None:
    trust.trust(program)  # even then
    path = rewritten(tmp_path / "m.safetensors", encoder=str(program))
    settings = RunSettings(features=FeatureSettings(device="cpu"))
    with pytest.raises(CheckpointError, match="expects"):
        run(write_slide(tmp_path / "slide.tif"), path, settings)
    assert not owned.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("network: &a x.ts\nname: *a\n", "aliases"),
        ("network: x.ts\nmpp: .nan\n", "mpp"),
        ("network: x.ts\nmpp: -.inf\n", "mpp"),
        ("network: x.ts\ninput_size: .inf\n", "must be numbers"),
        ("network: x.ts\ninput_size: 1000000\n", "4096"),
        ("network: x.ts\nmean: [.nan, 0, 0]\n", "three numbers"),
        ("network: x.ts\npooling: [a]\n", "must be text"),
        ("network: x.ts\nprefix_tokens: -1\n", "prefix_tokens"),
        ("network: x.ts\nfeature_size: lots\n", "feature_size"),
        ("network: !!python/object/apply:os.system [id]\n", "no YAML"),
        ("[" * 5000, "no YAML: it nests deeper than 16 levels"),
        ("network: x.ts\nmean: " + "{a: " * 17, "deeper than 16"),
        ("# " + "x" * 70_000, "bytes"),
    ],
)
def test_yaml_that_says_nonsense(text: str, says: str, program: Path) -> None:
    trust.trust(program)
    program.with_name("x.ts").write_bytes(program.read_bytes())
    path = program.with_name("e.yaml")
    path.write_text(text)
    with pytest.raises(FeatureError, match=says):
        load_encoder(str(path), device="cpu")


def test_a_config_cannot_make_timm_load_other_files(tmp_path: Path) -> None:
    require_timm()
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"")
    for text in (
        '{"architecture": "test_vit", "model_args": {"checkpoint_path": "/tmp/evil.pth"}}',
        '{"architecture": "local-dir:/tmp"}',
        '{"architecture": "hf-hub:some/one"}',
        '{"architecture": ["test_vit"]}',
        '{"architecture": "test_vit", "model_args": 3}',
        "[" * 100_000,
    ):
        (folder / "config.json").write_text(text)
        with pytest.raises(FeatureError):
            load_encoder(f"timm:local-dir:{folder}", device="cpu", offline=True)


OFFLINE = """
import socket
asked = []
def refused(*given, **named):
    asked.append(given)
    raise OSError("no network")
socket.socket.connect = socket.socket.connect_ex = refused
socket.getaddrinfo = socket.create_connection = refused
from napari_2dmamba.features.encoder import load_encoder
from napari_2dmamba.errors import FeatureError
for name in ("uni", "phikon", "timm:hf-hub:some/one", "timm:resnet18.a1_in1k"):
    try:
        load_encoder(name, offline=True, device="cpu")
    except FeatureError as error:
        assert "offline" in str(error), error
    else:
        raise AssertionError(name)
assert not asked, asked
"""


def test_offline_asks_nobody(tmp_path: Path) -> None:
    require_timm()
    surroundings = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": ""}
    surroundings.pop("TRANSFORMERS_OFFLINE", None)
    done = warm.python("-c", OFFLINE, env=surroundings)
    assert done.returncode == 0, done.stderr
