"""What every fit has in common: TensorFlow without its noise, seeds, the falling rate, and when to stop."""

import os
import signal
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from training.data import Dataset
from training.errors import INTERRUPTED, DivergedError


def repeatable(seed: int) -> None:
    """Import TensorFlow, and make the same command give the same weights on the same machine (it costs no time)."""
    os.environ["KERAS_BACKEND"] = "tensorflow"  # the recipes are measured on it; the others train slower here
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _stderr_held_back():
        import keras
        import tensorflow as tf
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def adam(arguments: Namespace, dataset: Dataset) -> Any:
    """Adam, from --learning-rate down to 0 along half a cosine over all the steps of the fit."""
    import keras

    steps_per_epoch = -(-len(dataset.train) // arguments.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(arguments.learning_rate, arguments.epochs * steps_per_epoch)
    return keras.optimizers.Adam(rate)


def callbacks(patience: int) -> list[Any]:
    """Stop `patience` epochs after the best one by validation loss, and go back to its weights; stop at once on NaN."""
    import keras

    return [
        keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True),
        keras.callbacks.TerminateOnNaN(),
    ]


@contextmanager
def interruptible() -> Iterator[Any]:
    """A callback for the fit inside the block, through which Ctrl-C ends it between two steps; a second one at once.

    In the middle of a step KeyboardInterrupt now and then breaks the heap of TensorFlow 2.21 and aborts (1 try of 21).
    """
    import keras

    asked: list[int] = []

    def ask(number: int, _frame: object) -> None:
        if asked:
            os._exit(INTERRUPTED)
        asked.append(number)

    def obey(*_: object, **__: object) -> None:
        if asked:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield keras.callbacks.LambdaCallback(on_train_batch_end=obey, on_epoch_end=obey)
        obey()
    finally:
        signal.signal(signal.SIGINT, before)


def verbosity() -> int:
    """Keras' progress bar for a terminal; for a log file one line per epoch, and no bar."""
    return 1 if sys.stderr.isatty() else 2


def checked(history: Mapping[str, Sequence[float]]) -> Mapping[str, Sequence[float]]:
    """The history of a fit, if it ended with numbers; DivergedError if it ran away."""
    if "val_loss" not in history or not np.isfinite([*history["loss"], *history["val_loss"]]).all():
        raise DivergedError("the loss is not finite: the fit ran away; try a lower --learning-rate")
    return history


@contextmanager
def _stderr_held_back() -> Iterator[None]:
    """Hold back what C++ writes while TensorFlow is imported, which no setting silences; show it if that fails."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        real = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(real, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(real, 2)
            os.close(real)
