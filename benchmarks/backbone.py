"""Images per second and memory of 2DVMamba and VMamba, forward and training step.

    python benchmarks/backbone.py [--model tiny] [--side 224] [--batch 1] [--rounds 3] [--threads 2]

Random weights and pixels, float32. Every cell runs in a process of its own, the cells in turn
over the rounds; memory is the growth of its peak resident size (on a GPU, torch's peak) over
what it held with the network loaded. Named alternatives in the same run: the same network on
the scan's torch definition, plain VMamba, and with --others timm's ConvNeXt-T and Swin-T.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

NETWORKS = {
    "2DVMamba, kernels": ("vmamba2d", ""),
    "2DVMamba, definition": ("vmamba2d", "definition"),
    "2DVMamba, four corners": ("vmamba2d_corners", ""),
    "VMamba, kernels": ("vmamba", ""),
    "VMamba, definition": ("vmamba", "definition"),
}
OTHERS = {
    "ConvNeXt-T": ("convnext_tiny", ""),
    "Swin-T": ("swin_tiny_patch4_window7_224", ""),
}
AGAINST = "2DVMamba, kernels"


def one(job: dict) -> dict:
    """Measure one cell in this process."""
    import contextlib

    import torch

    from napari_2dmamba.features.timm_encoder import require_timm
    from napari_2dmamba.scan import use_backend

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    device = torch.device(job["device"])
    name, more = job["name"], {}
    if name.startswith("vmamba"):
        more = {"scan": "2d-four-corners"} if name.endswith("_corners") else {}
        name = f"{name.removesuffix('_corners')}_{job['model']}"
    elif name.startswith("swin"):
        more = {"img_size": job["side"]}  # it takes no other size than it was made for
    network = require_timm().create_model(name, **more).to(device)
    image = torch.randn(job["batch"], 3, job["side"], job["side"], device=device)
    forced = use_backend(job["backend"]) if job["backend"] else contextlib.nullcontext()

    def peak() -> float:
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    before = peak()
    seconds = []
    optimizer = torch.optim.AdamW(network.parameters()) if job["train"] else None
    network.train(job["train"])
    with forced:
        for _ in range(2):  # the first also warms up
            wait()
            started = time.perf_counter()
            if optimizer is None:
                with torch.inference_mode():
                    network(image)
            else:
                optimizer.zero_grad()
                network(image).square().mean().backward()
                optimizer.step()
            wait()
            seconds.append(time.perf_counter() - started)
    return {"rate": job["batch"] / seconds[-1], "growth": peak() - before}


def measure(job: dict) -> dict:
    """Run `one` in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps(job)], capture_output=True, text=True
    )
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", choices=("tiny", "small"))
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--others", action="store_true", help="timm's ConvNeXt-T and Swin-T too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(json.loads(options.one))))
        return
    import torch

    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    where = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    print(
        f"{where}, {os.cpu_count()} cores{load}, {options.threads} threads, torch "
        f"{torch.__version__}, {options.model}, {options.batch} x {options.side} x {options.side} "
        f"pixels, {options.rounds} rounds; median images/s, ratio to {AGAINST}, memory growth"
    )
    networks = NETWORKS | (OTHERS if options.others else {})
    results: dict[tuple[str, bool], list[dict]] = {}
    for _ in range(options.rounds):
        for label, (name, backend) in networks.items():
            for train in (False, True):
                job = {
                    "name": name, "backend": backend, "train": train, "model": options.model,
                    "side": options.side, "batch": options.batch, "threads": options.threads,
                    "device": options.device,
                }  # fmt: skip
                results.setdefault((label, train), []).append(measure(job))

    print("\n| | forward | training step |\n|---|---|---|")
    for label in networks:
        shown = []
        for train in (False, True):
            found = results[label, train]
            failed = [r["failed"] for r in found if "failed" in r]
            if failed:
                shown.append(failed[0])
                continue
            rate = statistics.median(r["rate"] for r in found)
            base = [r["rate"] for r in results[AGAINST, train] if "rate" in r]
            ratio = f"x{rate / statistics.median(base):.2g}" if base else "-"
            growth = statistics.median(r["growth"] for r in found)
            shown.append(f"{rate:.3g}/s, {ratio}, +{growth:.0f} MB")
        print(f"| {label} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
