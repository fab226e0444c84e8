"""Hugging Face's Trainer, which makes its loaders itself: over a map-style dataset, and over a stream."""

from tests.clients.programs.common import FOLDER, begin, digest_of, finish, kill_once, seed

RECORDERS = begin()

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import Trainer, TrainingArguments  # noqa: E402


class Line(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.layer(x).squeeze(1) - labels).pow(2).mean()}


def _row(row, which: str):
    if row["n"] == 29:
        kill_once(which)
    x = torch.full((3,), row["n"] / 50) + torch.rand(3)
    return {"x": x, "labels": x.sum()}


def main() -> None:
    table = Dataset.from_dict({"n": list(range(48))})
    data = {
        "map-style": table.with_transform(lambda rows: _columns([_row({"n": n}, "map-style") for n in rows["n"]])),
        "stream": table.to_iterable_dataset(4).map(lambda row: _row(row, "stream"), remove_columns=["n"]),
    }
    weights = []
    for name, dataset in data.items():
        seed()
        model = Line()
        arguments = TrainingArguments(
            output_dir=str(FOLDER / name), use_cpu=True, per_device_train_batch_size=4, max_steps=20, report_to=[],
            dataloader_num_workers=2, save_strategy="no", disable_tqdm=True, learning_rate=1e-3,
            remove_unused_columns=False,
        )  # fmt: skip
        Trainer(model=model, args=arguments, train_dataset=dataset).train()
        weights.append(digest_of(model))
    finish(weights, RECORDERS)


def _columns(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


if __name__ == "__main__":
    main()
