"""Loading sample 9 never ends in a worker. Knows no safeloader, and has no main guard."""

import time

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info


class Rows(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        if index == 9 and get_worker_info() is not None:
            time.sleep(1000)
        return torch.tensor(index)


for _ in DataLoader(Rows(), 4, num_workers=2):
    pass
