"""Real photographs as JPEG files: crops of pictures that are shipped inside installed packages.

The pictures are found as files; none of the packages' code runs. A crop's label is the picture it was cut
from. Crops for training come from one side of a picture and those for validation from the other, so that they
share no pixel.
"""

from __future__ import annotations

import importlib.util
import json
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

SIZE = 160
TRAIN, VAL = 24, 8  # crops of each picture
TRAIN_SHARE = 0.62  # of a picture's longer side

PICTURES = {
    "skimage/data": [
        "astronaut.png",
        "brick.png",
        "camera.png",
        "chelsea.png",
        "coffee.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "moon.png",
        "motorcycle_left.png",
        "retina.jpg",
        "rocket.jpg",
    ],
    "sklearn/datasets/images": ["china.jpg", "flower.jpg"],
    "matplotlib/mpl-data/sample_data": ["grace_hopper.jpg"],
}


@dataclass(frozen=True)
class Collection:
    """The files that were cut.

    Attributes:
        folder: Has the folders ``train`` and ``val``.
        labels: The name of each picture, by label.
        train: Number of files for training.
        val: Number of files for validation.
        size: Bytes of all files together.
    """

    folder: Path
    labels: list[str]
    train: int
    val: int
    size: int


def find() -> list[Path]:
    """The pictures, sorted by name.

    Raises:
        FileNotFoundError: A package or a picture is missing.
    """
    found = []
    for place, names in PICTURES.items():
        package, _, inside = place.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError(f"package {package} is not installed: pip install -c constraints.txt -e '.[bench]'")
        folder = Path(spec.submodule_search_locations[0]) / inside
        found += [folder / name for name in names]
    for path in found:
        if not path.is_file():
            raise FileNotFoundError(f"picture {path.name} is not in the installed package")
    return sorted(found, key=lambda path: path.stem)


def prepare(folder: Path) -> Collection:
    """Cut all crops into a folder, once: a folder that is complete is used again.

    Args:
        folder: Where the files are, or are to be.

    Returns:
        What is there.
    """
    pictures = find()
    content = {"size": SIZE, "train": TRAIN, "val": VAL, "pictures": [path.name for path in pictures]}
    stamp = folder / "complete.json"
    if not stamp.is_file() or json.loads(stamp.read_text(encoding="utf-8")) != content:
        for label, path in enumerate(pictures):
            _cut(path, label, folder)
        stamp.write_text(json.dumps(content), encoding="utf-8")
    files = {split: list((folder / split).glob("*.jpg")) for split in ("train", "val")}
    size = sum(path.stat().st_size for paths in files.values() for path in paths)
    return Collection(folder, [path.stem for path in pictures], len(files["train"]), len(files["val"]), size)


def _cut(path: Path, label: int, folder: Path) -> None:
    """Write the crops of one picture as ``<split>/<label>-<name>-<number>.jpg``."""
    places = random.Random(path.stem)
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    if picture.width < picture.height:
        picture = picture.transpose(Image.Transpose.ROTATE_90)
    border = int(picture.width * TRAIN_SHARE)
    sides = {"train": (0, border, TRAIN), "val": (border, picture.width, VAL)}
    for split, (left, right, count) in sides.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            x = places.randint(left, right - SIZE)
            y = places.randint(0, picture.height - SIZE)
            crop = picture.crop((x, y, x + SIZE, y + SIZE))
            crop.save(folder / split / f"{label:02d}-{path.stem}-{number:02d}.jpg", quality=90)
