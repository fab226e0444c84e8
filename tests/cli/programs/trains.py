"""A program to be looked at: two loaders; worker 1 stands at sample 5 until the file named first appears."""

import os
import sys
import time

import torch
from torch.utils.data import Dataset

from safeloader import DataLoader, Policy


class Rows(Dataset):
    def __init__(self, go):
        self.go = go

    def __len__(self):
        return 16

    def __getitem__(self, index):
        while index == 5 and not os.path.exists(self.go):
            time.sleep(0.02)
        return torch.tensor(index)


if __name__ == "__main__":
    val = DataLoader(Rows(sys.argv[1]), 4, sampler=[0, 1, 2], name="val")
    assert len(list(val)) == 1
    train = DataLoader(Rows(sys.argv[1]), 4, num_workers=2, name="train", policy=Policy(batch_timeout=300))
    for number, _ in enumerate(train):
        if number == 0:
            print("ready", flush=True)
    print("done", flush=True)
