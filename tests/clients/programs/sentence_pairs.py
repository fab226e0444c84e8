"""sentence-transformers: a small encoder that is made here, trained on pairs by its own trainer."""

from tests.clients.programs.common import FOLDER, begin, digest_of, finish, kill_once, seed

RECORDERS = begin()

from datasets import Dataset  # noqa: E402
from sentence_transformers import (  # noqa: E402
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.losses import MultipleNegativesRankingLoss  # noqa: E402
from sentence_transformers.models import Pooling, Transformer  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast  # noqa: E402

WORDS = ["[PAD]", "[UNK]", *(f"w{n}" for n in range(40))]


def _watched(rows):
    if "w21 w22" in rows["anchor"]:
        kill_once()
    return rows


def main() -> None:
    seed()
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    fast.save_pretrained(FOLDER / "bert")
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(WORDS), **size)).save_pretrained(FOLDER / "bert")
    words = Transformer(str(FOLDER / "bert"))
    model = SentenceTransformer(modules=[words, Pooling(16)], device="cpu")
    rows = {"anchor": [f"w{n} w{n + 1}" for n in range(36)], "positive": [f"w{n + 2} w{n}" for n in range(36)]}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(FOLDER / "out"), use_cpu=True, per_device_train_batch_size=4, num_train_epochs=2, report_to=[],
        dataloader_num_workers=2, save_strategy="no", disable_tqdm=True, learning_rate=1e-3,
    )  # fmt: skip
    data = Dataset.from_dict(rows).with_transform(_watched)
    SentenceTransformerTrainer(model, arguments, data, loss=MultipleNegativesRankingLoss(model)).train()
    finish(digest_of(model), RECORDERS)


if __name__ == "__main__":
    main()
