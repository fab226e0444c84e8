"""Train with two workers, one of which is killed, then validate without any; ends without closing its loaders."""

import os
import signal
import sys

import torch
from torch.utils.data import Dataset

from safeloader import DataLoader


class Rows(Dataset):
    def __init__(self, once):
        self.once = once

    def __len__(self):
        return 24

    def __getitem__(self, index):
        if index == 13 and not os.path.exists(self.once):
            open(self.once, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.full((1000,), float(index))


if __name__ == "__main__":
    train = DataLoader(Rows(sys.argv[1]), 4, num_workers=2, name="train <1>")
    val = DataLoader(Rows(sys.argv[1]), 4, name="val")
    assert len(list(train)) == 6
    for number, _ in enumerate(val):
        if number == 2:
            break
    sys.exit(0)
