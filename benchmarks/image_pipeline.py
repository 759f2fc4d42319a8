"""Image files to normalised batches: flaxzoo's ImageDataset against torch's DataLoader.

Both read the same JPEGs from the disk's cache, resize the shorter side to 256, keep the middle
224 x 224, scale to [0, 1], normalise and batch; the first batch of both is compared. Each
candidate lives in a process of its own, so that no library's threads are in another's way, and the
processes take turns, an epoch each. torch and torchvision have 0, 1 and 2 workers that stay alive
between epochs; "Pillow alone" decodes and resizes in as many threads as there are cores and keeps
nothing: the limit for all that use it. Processor time per image tells more than images per second
where other programs run beside. Without --data the JPEGs are synthetic photographs, 500 x
375, quality 90. Target: at least as fast as the best of torch's.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from _timing import environment

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def synthesize(directory: Path, count: int, width: int, height: int) -> None:
    """Gradients, blobs of several sizes and grain: about the bytes per pixel of a photograph."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for index in range(count):
        picture = np.zeros((height, width, 3), np.float32)
        for cells, strength in ((3, 70), (12, 45), (60, 25), (200, 12)):
            shape = (max(2, cells * height // width), cells, 3)
            blobs = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
            smooth = blobs.resize((width, height), Image.Resampling.BICUBIC)
            picture += (np.asarray(smooth, np.float32) - 128) * (strength / 64)
        picture += 128 + rng.normal(0, 4, picture.shape)
        image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
        image.save(directory / f"{index:05}.jpg", quality=90)


def ours(files: list[str], batch_size: int, **options):
    from flaxzoo import Preprocess
    from flaxzoo.data.image_dataset import ImageDataset

    preprocess = Preprocess((224, 224, 3), MEAN, STD, crop=0.875)
    labels = np.zeros(len(files), np.int32)
    dataset = ImageDataset(
        files,
        labels,
        ["a", "b"],
        preprocess=preprocess,
        batch_size=batch_size,
        shuffle=False,
        **options,
    )
    return lambda: (batch["image"] for batch in dataset)


def torchs(files: list[str], batch_size: int, workers: int):
    import torch

    # CUDA builds of torchvision do not load their operators beside a CPU build of torch.
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from PIL import Image
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )

    # In this process; a worker has one by itself. More are for larger arrays than one picture.
    torch.set_num_threads(1)

    class Files(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            # As torchvision's ImageFolder does.
            with open(files[index], "rb") as file:
                return transform(Image.open(file).convert("RGB")), 0

    loader = torch.utils.data.DataLoader(
        Files(), batch_size, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: (images for images, _ in loader)


def pillow(files: list[str], batch_size: int):
    from flaxzoo.images import fit, load_image

    def one(file):
        picture = load_image(file, 3)
        fit(
            picture, (224, 224), interpolation="bilinear", crop=0.875, crop_mode="center",
            fill=(0, 0, 0),
        )  # fmt: skip

    def epoch():
        with ThreadPoolExecutor(CORES) as pool:
            for _ in pool.map(one, files):
                pass
        yield from ()

    return epoch


CANDIDATES = {
    "flaxzoo, threads": ours,
    "flaxzoo, 2 processes": lambda *args: ours(*args, workers=2),
    "flaxzoo, fast_decode": lambda *args: ours(*args, fast_decode=True),
    "torch, 0 workers": lambda *args: torchs(*args, 0),
    "torch, 1 worker": lambda *args: torchs(*args, 1),
    "torch, 2 workers": lambda *args: torchs(*args, 2),
    "Pillow alone": pillow,
}


def cpu_seconds() -> float:
    """Processor time of this process, of those it has waited for and of those still running."""
    seconds = sum(os.times()[:4])
    ticks = os.sysconf("SC_CLK_TCK")
    for task in Path("/proc/self/task").glob("*/children"):
        for pid in task.read_text().split():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / ticks
    return seconds


def serve(name: str, files: list[str], batch_size: int) -> None:
    """Runs an epoch for every line of the standard input; answers with its times."""
    epoch = CANDIDATES[name](files, batch_size)
    for line in sys.stdin:
        start, used = time.perf_counter(), cpu_seconds()
        first, images = None, 0
        for batch in epoch():
            first = batch if first is None else first
            images += len(batch)
        seconds, used = time.perf_counter() - start, cpu_seconds() - used
        if line.strip() and first is not None:
            np.save(line.strip(), np.asarray(first))
        if first is not None and images != len(files):
            raise SystemExit(f"{name} gave {images} images of {len(files)}")
        print(seconds, used, flush=True)


class Child:
    """A candidate's process."""

    def __init__(self, name: str, arguments: list[str]) -> None:
        command = [sys.executable, __file__, "--serve", name, *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, first: str = "") -> tuple[float, float]:
        """Seconds of an epoch and of processors; ``first`` is a file for its first batch."""
        self.process.stdin.write(first + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit("a candidate's process ended: see its message above")
        seconds, used = map(float, answer.split())
        return seconds, used


def compare(children: dict[str, Child], directory: Path) -> None:
    """Prints how far the first batches of ours and torch's are apart."""
    batches = {}
    for name in ("flaxzoo, threads", "torch, 0 workers"):
        children[name].run(str(directory / "first.npy"))
        batches[name] = np.load(directory / "first.npy")
    ours_first, torchs_first = batches.values()
    difference = np.abs(ours_first - torchs_first.transpose(0, 2, 3, 1)).max()
    print(f"first batches: {list(ours_first.shape)}, largest difference {difference:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", metavar="DIR", help="JPEGs to read, at any depth")
    parser.add_argument("--images", type=int, default=512, help="how many an epoch has")
    parser.add_argument("--size", default="500x375", help="of synthetic pictures")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(options.data or directory)
        if not options.data:
            width, height = map(int, options.size.split("x"))
            # Large ones take long to make, and a few of them long enough to read.
            distinct = max(4, 64 * 500 * 375 // (width * height))
            synthesize(root, min(options.images, distinct, 64), width, height)
        files = sorted(str(path) for path in root.rglob("*.jpg"))
        if not files:
            raise SystemExit(f"{root} has no .jpg files")
        # Again and again until the epoch is full: all are in the disk's cache anyway.
        files = (files * -(-options.images // len(files)))[: options.images]
        if options.serve:
            serve(options.serve, files, options.batch_size)
            return
        measure(options, root, files)


def measure(options: argparse.Namespace, root: Path, files: list[str]) -> None:
    versions = environment(("jax", "grain", "pillow", "numpy", "torch", "torchvision"))
    print(platform.platform(), ", ".join(f"{k} {v}" for k, v in versions.items()))
    kind = options.data or f"synthetic JPEGs of {options.size}, quality 90"
    size = statistics.mean(os.path.getsize(file) for file in files)
    print(f"{len(files)} images an epoch, {size / 1e3:.0f} kB each: {kind}")
    names = [
        name
        for name in CANDIDATES
        if not name.startswith("torch") or "not installed" not in versions.values()
    ]
    arguments = ["--data", str(root), "--images", str(len(files))]
    children = {n: Child(n, [*arguments, "--batch-size", str(options.batch_size)]) for n in names}
    try:
        for child in children.values():
            child.run()
        if "torch, 0 workers" in children:
            with tempfile.TemporaryDirectory() as directory:
                compare(children, Path(directory))
        else:
            print("torch or torchvision is not installed: flaxzoo is measured alone")
        seconds: dict[str, list[float]] = {name: [] for name in names}
        used: dict[str, list[float]] = {name: [] for name in names}
        for run in range(options.runs):
            turn = names[run % len(names) :] + names[: run % len(names)]
            for name in turn:
                epoch, processors = children[name].run()
                seconds[name].append(epoch)
                used[name].append(processors)
    finally:
        for child in children.values():
            child.process.stdin.close()
            child.process.wait()
    base = seconds[names[0]]
    print("\n| | images/s | min - max | time relative to ours | CPU ms per image |")
    print("|---|---|---|---|---|")
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
        low, middle, high = (len(files) / f(values) for f in (max, statistics.median, min))
        cpu = 1e3 * statistics.median(used[name]) / len(files)
        print(f"| {name} | {middle:.0f} | {low:.0f} - {high:.0f} | {ratio:.2f} | {cpu:.2f} |")
    if options.json:
        figures = {"seconds": seconds, "processor_seconds": used}
        Path(options.json).write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
