"""timm: its dataset of a folder, its augmentations, its ``create_loader`` and one of its models."""

from tests.clients.programs.common import FOLDER, begin, digest_of, finish, kill_once, seed

RECORDERS = begin()

import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from timm.data import ImageDataset, create_loader  # noqa: E402
from timm.optim import create_optimizer_v2  # noqa: E402


class Images(ImageDataset):
    def __getitem__(self, index: int):
        if index == 9:
            kill_once()
        return super().__getitem__(index)


def main() -> None:
    for n in range(16):
        (FOLDER / "images" / f"class{n % 2}").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(n).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(FOLDER / "images" / f"class{n % 2}" / f"{n}.png")
    seed()
    model = timm.create_model("test_convnext.r160_in1k", pretrained=False, num_classes=2)
    loader = create_loader(
        Images(str(FOLDER / "images")), (3, 32, 32), 4, is_training=True, use_prefetcher=False, num_workers=2,
        auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25, color_jitter=0.4, persistent_workers=True,
    )  # fmt: skip
    optimizer = create_optimizer_v2(model, "sgd", lr=0.01)
    model.train()
    for _ in range(2):
        for images, targets in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), targets).backward()
            optimizer.step()
    finish(digest_of(model), RECORDERS)


if __name__ == "__main__":
    main()
