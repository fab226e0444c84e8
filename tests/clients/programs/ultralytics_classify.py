"""Ultralytics: the real package trains a small classifier, two epochs, on images that are made here."""

from tests.clients.programs.common import FOLDER, begin, digest_of, finish, kill_once, seed

RECORDERS = begin()

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from ultralytics import YOLO  # noqa: E402
from ultralytics.data import ClassificationDataset  # noqa: E402
from ultralytics.models.yolo.classify import ClassificationTrainer  # noqa: E402

MODEL = """
nc: 2
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [-1, 1, Classify, [nc]]
"""


class Killing(ClassificationDataset):
    """Ultralytics' own, whose sample 5 kills its worker, once."""

    def __getitem__(self, index):
        if index == 5:
            kill_once()
        return super().__getitem__(index)


class Trainer(ClassificationTrainer):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.args.workers = 2  # on a CPU it takes none

    def build_dataset(self, *args, **options):
        dataset = super().build_dataset(*args, **options)
        dataset.__class__ = Killing
        return dataset


def main() -> None:
    for part in ("train", "val"):
        for n in range(16):
            folder = FOLDER / "data" / part / f"class{n % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(n).integers(0, 255, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{n}.png")
    (FOLDER / "model-cls.yaml").write_text(MODEL)
    seed()
    model = YOLO(FOLDER / "model-cls.yaml", task="classify")
    model.train(
        trainer=Trainer, data=FOLDER / "data", epochs=2, imgsz=64, batch=4, workers=2, device="cpu", plots=False,
        save=False, amp=False, seed=0, project=FOLDER, verbose=False, warmup_epochs=0, optimizer="SGD",
    )  # fmt: skip
    finish(digest_of(model.trainer.model.float()), RECORDERS)


if __name__ == "__main__":
    main()
