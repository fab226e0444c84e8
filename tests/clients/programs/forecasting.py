"""pytorch-forecasting: its TimeSeriesDataSet makes its loader itself, and Lightning trains."""

from tests.clients.programs.common import FOLDER, begin, digest_of, finish, kill_once, seed

RECORDERS = begin()

import lightning.pytorch as lightning  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from pytorch_forecasting import DeepAR, TimeSeriesDataSet  # noqa: E402


class Series(TimeSeriesDataSet):
    def __getitem__(self, index):
        if index == 21:
            kill_once()
        return super().__getitem__(index)


def main() -> None:
    seed()
    values = np.random.default_rng(0).random(120).cumsum().astype(np.float32)
    table = pd.DataFrame({"at": list(range(60)) * 2, "group": ["a"] * 60 + ["b"] * 60, "value": values})
    data = Series(
        table, time_idx="at", target="value", group_ids=["group"], max_encoder_length=8, max_prediction_length=2,
        time_varying_unknown_reals=["value"], randomize_length=True,
    )  # fmt: skip
    loader = data.to_dataloader(train=True, batch_size=8, num_workers=2)
    model = DeepAR.from_dataset(data, hidden_size=4, rnn_layers=1, optimizer="sgd")
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=FOLDER,
    )  # fmt: skip
    trainer.fit(model, loader)
    finish(digest_of(model), RECORDERS)


if __name__ == "__main__":
    main()
