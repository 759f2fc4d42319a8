"""Sentiment of reviews by an LSTM, against a bag-of-words logistic regression on the same split.

Reviews come from a CSV file with the columns ``text`` and ``label``.
"""

import argparse
import csv
import dataclasses
import json
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import flaxzoo as fz

TEST_SHARE = 0.1
UNKNOWN = 1  # the id that TextVectorizer gives to words outside its vocabulary


class Encoder(nn.Module):
    """Word vectors with dropout, an LSTM in both directions, and the maximum over its outputs.

    Attributes:
      vocab_size: number of token ids; id 0 is padding and is masked.
      embedding_dim: size of a word's vector.
      hidden_size: units of the LSTM, per direction.
      dropout: rate on the word vectors.
    """

    vocab_size: int
    embedding_dim: int = 100
    hidden_size: int = 48
    dropout: float = 0.5

    @nn.compact
    def __call__(self, ids: jax.Array, *, train: bool = False) -> jax.Array:
        """Features ``[B, 2 * hidden_size]`` of token ids, int32 ``[B, T]``."""
        embed = nn.Embed(
            self.vocab_size,
            self.embedding_dim,
            embedding_init=nn.initializers.normal(0.1),
            name="embedding",
        )
        x = nn.Dropout(self.dropout)(embed(ids), deterministic=not train)
        lstm = fz.models.LSTM(self.hidden_size, bidirectional=True, pooling="max", name="lstm")
        return lstm(x, mask=ids > 0, train=train)


@dataclasses.dataclass(frozen=True)
class WordDropout:
    """Replaces words of a training batch by the unknown word, each with probability ``rate``.

    The network then cannot lean on a few rare words, and learns a vector for the unknown one.
    """

    rate: float

    def __call__(self, key: jax.Array, batch):
        """A batch with other ``inputs``; ``Trainer(augment=...)`` calls it inside the step."""
        ids = batch.inputs
        gone = jax.random.bernoulli(key, self.rate, ids.shape) & (ids > 0)
        return batch._replace(inputs=jnp.where(gone, UNKNOWN, ids))


def read_reviews(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Texts, labels int32 and the two class names, sorted.

    Raises:
      DataError: the file has other columns, an empty text, or not two classes.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = {"text", "label"} - set(reader.fieldnames or ())
            if missing:
                raise fz.errors.DataError(
                    f"{path}: no column {sorted(missing)[0]!r}; it has {reader.fieldnames}"
                )
            rows = [(row["text"] or "", row["label"] or "") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise fz.errors.DataError(f"{path}: not readable as a CSV file ({error})") from error
    empty = [number for number, (text, _) in enumerate(rows, 2) if not text.strip()]
    if empty:
        raise fz.errors.DataError(f"{path}: the text of record {empty[0]} is empty")
    names = sorted({label for _, label in rows})
    if len(names) != 2:
        raise fz.errors.DataError(f"{path}: needs two labels, has {len(names)}: {names[:5]}")
    labels = np.array([names.index(label) for _, label in rows], np.int32)
    return np.array([text for text, _ in rows], dtype=object), labels, names


def bag_of_words(train, test) -> tuple[float, str]:
    """Test accuracy of logistic regression on word counts or tf-idf, and what was chosen.

    The kind of counts and the penalty are those of the best five-fold cross-validation.
    """
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline

    pipeline = Pipeline(
        [("words", CountVectorizer()), ("classifier", LogisticRegression(solver="liblinear"))]
    )
    grid = {
        "words": [CountVectorizer(), TfidfVectorizer()],
        "classifier__C": [0.1, 0.3, 1.0, 3.0, 10.0],
    }
    search = GridSearchCV(pipeline, grid, cv=5).fit(*train)
    chosen = search.best_params_
    kind = "tf-idf" if isinstance(chosen["words"], TfidfVectorizer) else "counts"
    return float(search.score(*test)), f"{kind}, C={chosen['classifier__C']:g}"


def train_lstm(train, test, seed: int, options: argparse.Namespace):
    """The trained ``Trainer``, the vectorizer, and the accuracy on ``test``."""
    vectorizer = fz.data.TextVectorizer(options.max_tokens, options.sequence_length)
    train_ids = vectorizer.adapt(train[0])(train[0])
    test_ids = vectorizer(test[0])
    module = fz.Classifier(Encoder(vectorizer.vocabulary_size), fz.models.Head(2, dropout=0.5))
    trainer = fz.Trainer(
        fz.Model(module),
        optimizer="adamw",
        learning_rate=2e-3,
        weight_decay=0.1,
        # Evaluated at a moving average of the weights, which is worth more here than a schedule.
        ema_decay=0.995,
        augment=WordDropout(0.3),
        metrics=["accuracy"],
        seed=seed,
    )
    trainer.fit(
        (train_ids, train[1]),
        epochs=options.epochs,
        batch_size=64,
        validation_data=(test_ids, test[1]) if options.tune else None,
        progress=False,
    )
    return trainer, vectorizer, trainer.evaluate((test_ids, test[1]), batch_size=64)["accuracy"]


def run(options: argparse.Namespace) -> list[dict]:
    """One row of results per seed, which selects the split and everything random in training."""
    texts, labels, names = read_reviews(options.data)
    print(f"{len(texts)} texts, labels {', '.join(names)}")
    options.run_dir.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(options.seeds):
        start = time.perf_counter()
        train, test = fz.data.train_test_split(
            (np.arange(len(texts)), labels), TEST_SHARE, seed=seed, stratify=labels
        )
        if options.tune:
            train, test = fz.data.train_test_split(train, 0.15, seed=seed + 1, stratify=train[1])
        train, test = ((texts[index], target) for index, target in (train, test))
        trainer, vectorizer, lstm = train_lstm(train, test, seed, options)
        seconds = time.perf_counter() - start
        words, chosen = bag_of_words(train, test)
        rows.append({"seed": seed, "lstm": lstm, "bag_of_words": words, "chosen": chosen})
        print(
            f"seed {seed}: LSTM {lstm:.2%} ({seconds:.0f} s), bag of words {words:.2%} ({chosen})",
            flush=True,
        )
        if options.tune:
            curve = " ".join(f"{value:.3f}" for value in trainer.history["val_accuracy"])
            print(f"  accuracy after each epoch: {curve}")
    trainer.model.save(options.run_dir / "model")
    vectorizer.save(options.run_dir / "vectorizer.json")
    (options.run_dir / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="CSV file, columns text,label")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/imdb"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=20_000)
    parser.add_argument("--sequence-length", type=int, default=48, help="words read of each text")
    parser.add_argument(
        "--tune",
        action="store_true",
        help="leave the test part alone: train on 85 %% of the training part, test on the rest",
    )
    options = parser.parse_args()
    try:
        rows = run(options)
    except fz.errors.DataError as error:
        parser.error(str(error))
    lstm, words = (float(np.mean([row[key] for row in rows])) for key in ("lstm", "bag_of_words"))
    gain = 100 * (lstm - words)
    print(
        f"\nmean of {len(rows)} seeds: LSTM {lstm:.2%}, bag of words {words:.2%}: the LSTM is "
        f"{abs(gain):.2f} points {'ahead' if gain >= 0 else 'behind'}. In {options.run_dir}: "
        "model/, vectorizer.json, results.json"
    )


if __name__ == "__main__":
    main()
