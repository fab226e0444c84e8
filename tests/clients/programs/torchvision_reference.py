"""torchvision's references' way: a folder of images, presets of transforms, MixUp and CutMix in the collate function."""

from tests.clients.programs.common import FOLDER, begin, digest_of, finish, kill_once, seed

RECORDERS = begin()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.utils.data  # noqa: E402
from PIL import Image  # noqa: E402
from torch.utils.data.dataloader import default_collate  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402
from torchvision.transforms import v2  # noqa: E402


class Images(ImageFolder):
    def __getitem__(self, index: int):
        if index == 9:
            kill_once()
        return super().__getitem__(index)


def preset(train: bool):
    augment = [v2.RandomResizedCrop(24), v2.RandomHorizontalFlip(), v2.TrivialAugmentWide()] if train else []
    erase = [v2.RandomErasing(0.3)] if train else []
    ending = [v2.PILToTensor(), v2.ToDtype(torch.float, scale=True), v2.Normalize((0.5,) * 3, (0.3,) * 3)]
    return v2.Compose([v2.Resize(32), *augment, *ending, *erase])


def main() -> None:
    for n in range(24):
        (FOLDER / "images" / f"class{n % 2}").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(n).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(FOLDER / "images" / f"class{n % 2}" / f"{n}.png")
    seed()
    train, test = (Images(str(FOLDER / "images"), preset(train)) for train in (True, False))
    mix = v2.RandomChoice([v2.MixUp(num_classes=2), v2.CutMix(num_classes=2)])
    loader = torch.utils.data.DataLoader(
        train, batch_size=4, sampler=torch.utils.data.RandomSampler(train), num_workers=2, pin_memory=True,
        collate_fn=lambda batch: mix(*default_collate(batch)),
    )  # fmt: skip
    loader_test = torch.utils.data.DataLoader(
        test, batch_size=4, sampler=torch.utils.data.SequentialSampler(test), num_workers=2, pin_memory=True
    )
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    model = model.extend([torch.nn.Flatten(), torch.nn.Linear(4, 2)])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for _ in range(2):
        for images, targets in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), targets).backward()
            optimizer.step()
        with torch.inference_mode():
            losses += [float(torch.nn.functional.cross_entropy(model(x), y)) for x, y in loader_test]
    finish([digest_of(model), losses], RECORDERS)


if __name__ == "__main__":
    main()
