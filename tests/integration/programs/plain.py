import os
import signal
import sys

import torch
from torch.utils.data import DataLoader, Dataset


class Squares(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        if index == 9 and not os.path.exists(sys.argv[1]):
            open(sys.argv[1], "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(index**2)


for batch in DataLoader(Squares(), 4, num_workers=2):
    print(batch.tolist())
print(__name__, sys.argv[1:], os.path.basename(__file__))
sys.exit(int(sys.argv[2]))
