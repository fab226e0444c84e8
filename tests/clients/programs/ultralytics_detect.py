"""Ultralytics: the real package trains a small detector, two epochs, on images that are made here."""

from tests.clients.programs.common import FOLDER, begin, digest_of, finish, kill_once, seed

RECORDERS = begin()

import numpy as np  # noqa: E402
import torchvision  # noqa: E402
from PIL import Image  # noqa: E402
from ultralytics import YOLO  # noqa: E402
from ultralytics.data.dataset import YOLODataset  # noqa: E402
from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402
from ultralytics.utils.nms import TorchNMS  # noqa: E402

torchvision.ops.nms = TorchNMS.nms  # a torchvision that was built for CUDA has none here

MODEL = """
nc: 2
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [[2, 3, 4], 1, Detect, [nc]]
"""


class Killing(YOLODataset):
    """Ultralytics' own, whose sample 5 kills its worker, once."""

    def __getitem__(self, index):
        if index == 5:
            kill_once()
        return super().__getitem__(index)


class Trainer(DetectionTrainer):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.args.workers = 2  # on a CPU it takes none

    def build_dataset(self, *args, **options):
        dataset = super().build_dataset(*args, **options)
        dataset.__class__ = Killing
        return dataset


def main() -> None:
    for n in range(16):
        for kind in ("images", "labels"):
            (FOLDER / kind / "train").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(n).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(FOLDER / "images" / "train" / f"{n}.png")
        (FOLDER / "labels" / "train" / f"{n}.txt").write_text(f"{n % 2} 0.5 0.5 {0.2 + n / 40} 0.4\n")
    (FOLDER / "data.yaml").write_text(
        f"path: {FOLDER}\ntrain: images/train\nval: images/train\nnames:\n  0: a\n  1: b\n"
    )
    (FOLDER / "model.yaml").write_text(MODEL)
    seed()
    model = YOLO(FOLDER / "model.yaml")
    model.train(
        trainer=Trainer, data=FOLDER / "data.yaml", epochs=2, imgsz=64, batch=4, workers=2, device="cpu",
        plots=False, save=False, amp=False, seed=0, project=FOLDER, verbose=False, warmup_epochs=0, optimizer="SGD",
    )  # fmt: skip
    finish(digest_of(model.trainer.model.float()), RECORDERS)


if __name__ == "__main__":
    main()
