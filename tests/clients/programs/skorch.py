"""skorch: ``fit`` and ``predict``, which make their loaders themselves."""

from tests.clients.programs.common import Samples, begin, digest_of, finish, net, seed


def main() -> None:
    recorders = begin()
    import torch
    from skorch import NeuralNetRegressor

    seed()
    regressor = NeuralNetRegressor(
        net(), max_epochs=3, lr=0.1, batch_size=4, train_split=None, verbose=0, optimizer=torch.optim.SGD,
        iterator_train__shuffle=True, iterator_train__num_workers=2, iterator_valid__num_workers=2,
    )  # fmt: skip
    regressor.fit(Samples(), y=None)
    finish([digest_of(regressor.module_), regressor.predict(Samples(8, kill_at=-1)).tolist()], recorders)


if __name__ == "__main__":
    main()
