"""Train and validate: with more than one worker, loading a sample stands still, once a run. Knows no safeloader."""

import os
import sys
import time

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info


class Rows(Dataset):
    def __init__(self, once):
        self.once = once

    def __len__(self):
        return 16

    def __getitem__(self, index):
        info = get_worker_info()
        in_several = info is not None and info.num_workers > 1
        if index == 9 and (in_several or "--in-main" in sys.argv) and not os.path.exists(self.once):
            open(self.once, "w").close()
            time.sleep(1000)
        return torch.tensor(index)


if __name__ == "__main__":
    rows = Rows(os.path.join(sys.argv[1], f"hung-{os.getpid()}"))
    assert len(list(DataLoader(rows, 4, num_workers=0 if "--in-main" in sys.argv else 2))) == 4
    if os.environ.get("SKIP_VALIDATION") != "1":
        assert len(list(DataLoader(rows, 4))) == 4
