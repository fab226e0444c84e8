"""docs/examples/elastic.py, with a note of every sample that was used, and ranks that are killed in the middle.

    torchrun ... elastic_killed.py FOLDER KILLS

KILLS: ``start:rank:step`` with commas between; that rank of that start of the group ends itself by SIGKILL before it
comes to its next step; with ``:host`` behind it, torchrun's agent before itself.
"""

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "elastic.py"


def main() -> None:
    folder, kills = Path(sys.argv[1]), sys.argv[2].split(",") if sys.argv[2] else []
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    start, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), dist.get_rank()
    run = torch.tensor(len(list(folder.glob("used.*"))))  # more than at any start before
    dist.broadcast(run, 0)
    with open(folder / f"used.{os.getpid()}.jsonl", "a", buffering=1) as notes:

        def used(epoch: int, step: int, samples: list[int]) -> None:
            line = {
                "run": run.item(),
                "start": start,
                "world": dist.get_world_size(),
                "rank": rank,
                "epoch": epoch,
                "step": step,
                "samples": samples,
            }
            print(json.dumps(line), file=notes)
            me = f"{start}:{rank}:{step}"
            if f"{me}:host" in kills:
                os.kill(os.getppid(), signal.SIGKILL)
            if me in kills or f"{me}:host" in kills:
                os.kill(os.getpid(), signal.SIGKILL)

        elastic.train(folder / "checkpoints", epochs=2, every=5, used=used)
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # threads of gloo that are still there abort a normal exit now and then


spec = importlib.util.spec_from_file_location("elastic", EXAMPLE)
elastic = importlib.util.module_from_spec(spec)
sys.modules["elastic"] = elastic  # processes of the loader find it by its path
spec.loader.exec_module(elastic)

if __name__ == "__main__":
    main()
