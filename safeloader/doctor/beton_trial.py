"""FFCV on images of a dataset: they are written to a small .beton file, and read, decoded and resized by one thread.

In a process of its own: FFCV may crash, and compiles its pipeline for some ten seconds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from safeloader.doctor.images import FFCV, Trial

__all__ = ["ffcv_trial"]

_SECONDS = 120.0
_ROOM = 1.15  # stored images are so much larger than what becomes of them: the rest is for crops
_PROGRAM = """
import sys, time
from pathlib import Path
import numpy
from PIL import Image
from ffcv.fields import RGBImageField
from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.writer import DatasetWriter

class Images:
    files = sorted(Path(sys.argv[1]).glob("*.jpg"))
    def __len__(self): return 64
    def __getitem__(self, i):
        return (numpy.array(Image.open(self.files[i % len(self.files)]).convert("RGB")),)

if __name__ == "__main__":
    width, height, most = map(int, sys.argv[2:])
    path = sys.argv[1] + "/images.beton"
    field = RGBImageField(write_mode="jpg", max_resolution=most)
    DatasetWriter(path, {"image": field}, num_workers=1).from_indexed_dataset(Images())
    loader = Loader(path, batch_size=32, num_workers=1, order=OrderOption.SEQUENTIAL, drop_last=False,
                    pipelines={"image": [CenterCropRGBImageDecoder((height, width), ratio=1)]})
    times = []
    for _ in range(4):  # the first compiles
        begun = time.perf_counter()
        count = sum(len(batch[0]) for batch in loader)
        times.append((time.perf_counter() - begun) / count)
    print("seconds", min(times[1:]))
"""


def ffcv_trial(contents: list[bytes], target: tuple[int, int], seconds: float = _SECONDS) -> Trial | None:
    """What FFCV takes for one of these images; None if it cannot be told.

    Args:
        contents: JPEG images, encoded.
        target: the size that each is resized to.
        seconds: that it may take in all.
    """
    most = round(max(target) * _ROOM)
    with tempfile.TemporaryDirectory(prefix="safeloader-doctor-", ignore_cleanup_errors=True) as folder:
        for number, content in enumerate(contents):
            (Path(folder) / f"{number}.jpg").write_bytes(content)
        try:
            ran = subprocess.run(
                [sys.executable, "-c", _PROGRAM, folder, *map(str, (*target, most))],
                capture_output=True, text=True, timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None
    word, _, value = (ran.stdout.strip().splitlines() or [""])[-1].partition(" ")
    return Trial(f"{FFCV} (kept as JPEG of at most {most} pixels)", float(value)) if word == "seconds" else None
