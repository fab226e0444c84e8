"""fastai: DataLoaders of its own over a dataset, and a Learner."""

from tests.clients.programs.common import Samples, begin, digest_of, finish, net, seed

RECORDERS = begin()

import torch  # noqa: E402
from fastai.data.core import DataLoaders  # noqa: E402
from fastai.learner import Learner  # noqa: E402
from fastai.optimizer import SGD  # noqa: E402


def main() -> None:
    seed()
    loaders = DataLoaders.from_dsets(
        Samples(), Samples(16, kill_at=-1), bs=4, num_workers=2, device=torch.device("cpu"), shuffle=True
    )
    model = net()
    learner = Learner(loaders, model, loss_func=torch.nn.functional.mse_loss, opt_func=SGD, lr=0.1)
    learner.fit(2)
    finish(digest_of(model), RECORDERS)


if __name__ == "__main__":
    main()
