"""MONAI: a CacheDataset with random transforms behind cached ones, and MONAI's own DataLoader."""

from tests.clients.programs.common import begin, digest_of, finish, kill_once, seed

RECORDERS = begin()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from monai.data import CacheDataset, DataLoader  # noqa: E402
from monai.transforms import Compose, RandFlip, RandGaussianNoise, RandSpatialCrop, ScaleIntensity  # noqa: E402


class Volumes(CacheDataset):
    def __getitem__(self, index):
        if index == 9:
            kill_once()
        return super().__getitem__(index)


def main() -> None:
    seed()
    volumes = [np.random.default_rng(n).random((1, 8, 8, 8), np.float32) for n in range(24)]
    transform = Compose([ScaleIntensity(), RandFlip(0.5, 0), RandGaussianNoise(0.7), RandSpatialCrop((6, 6, 6))])
    dataset = Volumes(volumes, transform.set_random_state(3), progress=False)
    loader = DataLoader(dataset, batch_size=4, shuffle=True, num_workers=2, collate_fn=_crops)
    model = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.AdaptiveAvgPool3d(1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        for batch in loader:
            optimizer.zero_grad()
            sum(model(volume[None]).square().mean() for volume in batch).backward()
            optimizer.step()
    finish(digest_of(model), RECORDERS)


def _crops(batch):
    return [torch.as_tensor(np.asarray(volume)) for volume in batch]  # of different sizes


if __name__ == "__main__":
    main()
