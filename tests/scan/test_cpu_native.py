"""The CPU kernels without Python: under sanitizers, by other compilers, on other processors."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

# a compiler takes most of a minute of a processor, which others may be using
pytestmark = pytest.mark.timeout(900)

SOURCES = Path(__file__).parents[2] / "csrc" / "cpu"
CHECK = Path(__file__).with_name("check_cpu_kernels.cpp")
OPTIONS = ["-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-pthread"]
INSTRUCTIONS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": [
        f"-m{name}" for name in ["avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl"]
    ],
}
# Calls are left calls: where every one is inlined, the same line is instrumented hundreds of times
CALLS = ["-O0", "-DSCAN2D_INLINE=inline"]
ADDRESS = [*CALLS, "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
THREAD = [*CALLS, "-fsanitize=thread"]
X86 = platform.machine() in ("x86_64", "AMD64")


def check(compiler: str, options: list[str], folder: Path, *emulator: str) -> str:
    """Build the kernels and their check, run it, and return what it printed."""
    for program in (compiler, *emulator[:1]):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    levels = INSTRUCTIONS if X86 and not emulator else {"baseline": []}
    commands = [
        [
            *(*instructions, "-c", str(SOURCES / f"{source}.cpp")),
            *(f"-DSCAN2D_KERNELS=scan2d_{name}", f"-DSCAN2D_INFLUENCE=influence_{name}"),
            *(f'-DSCAN2D_NAME="{name}"', "-o", f"{name}-{source}.o"),
        ]
        for name, instructions in levels.items()
        for source in ("kernel", "influence")
    ]
    commands.append([f"-I{SOURCES}", "-c", str(CHECK), "-o", "check.o"])
    commands.append(["-c", str(SOURCES / "scan2d.cpp"), "-o", "scan2d.o"])
    objects = [command[-1] for command in commands]
    commands.append([*objects, "-o", "check"])
    for command in commands:
        subprocess.run([compiler, *OPTIONS, *options, *command], cwd=folder, check=True)
    result = subprocess.run(
        [*emulator, str(folder / "check")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("options", [ADDRESS, THREAD], ids=["address", "thread"])
def test_sanitizers_find_nothing(options: list[str], tmp_path: Path) -> None:
    assert "baseline: largest error" in check("g++", options, tmp_path)


def test_clang_builds_the_same_scan(tmp_path: Path) -> None:
    assert "baseline: largest error" in check("clang++", ["-O3"], tmp_path)


def test_arm_computes_the_same_scan(tmp_path: Path) -> None:
    found = check("aarch64-linux-gnu-g++", ["-O3", "-static"], tmp_path, "qemu-aarch64-static")
    assert "baseline: largest error" in found
