"""PyTorch Ignite: an engine over a loader, with validation after each epoch."""

from tests.clients.programs.common import Samples, begin, digest_of, finish, net, seed


def main() -> None:
    recorders = begin()
    import torch
    from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
    from ignite.metrics import MeanSquaredError
    from torch.utils.data import DataLoader

    seed()
    model = net()
    trainer = create_supervised_trainer(model, torch.optim.SGD(model.parameters(), 0.1), torch.nn.functional.mse_loss)
    evaluator = create_supervised_evaluator(model, {"mse": MeanSquaredError()})
    val = DataLoader(Samples(16, kill_at=-1), 4, num_workers=2, persistent_workers=True)
    losses = []

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate() -> None:
        losses.append(evaluator.run(val).metrics["mse"])

    trainer.run(DataLoader(Samples(), 4, shuffle=True, num_workers=2, persistent_workers=True), max_epochs=3)
    finish([digest_of(model), losses], recorders)


if __name__ == "__main__":
    main()
