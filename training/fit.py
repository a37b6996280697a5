"""What every fit has in common: TensorFlow without its noise, seeds, the falling rate, and when to stop."""

import os
import signal
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from training.command import say
from training.errors import INTERRUPTED, DivergedError, UsageError
from training.feed import Feed
from training.progress import Progress


def repeatable(seed: int) -> None:
    """Import TensorFlow, and make the same command give the same weights on the same machine (it costs no time)."""
    os.environ["KERAS_BACKEND"] = "tensorflow"  # the recipes are measured on it; the others train slower here
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _stderr_held_back():
        import keras
        import tensorflow as tf
    tf.get_logger().setLevel("ERROR")  # else it counts networks trained one after another as a mistake
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def optimizer(options: Namespace, steps_per_epoch: int) -> Any:
    """The optimizer of the flags, its learning rate on the schedule of the flags over all the steps of the fit."""
    import keras

    rate = _rate(options, steps_per_epoch)
    match options.optimizer:
        case "sgd":
            return keras.optimizers.SGD(rate, momentum=options.momentum or 0.0)
        case "adamw":
            decay = 0.004 if options.weight_decay is None else options.weight_decay
            adamw = keras.optimizers.AdamW(rate, weight_decay=decay)
            adamw.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
            return adamw
    return keras.optimizers.Adam(rate)


def _rate(options: Namespace, steps_per_epoch: int) -> Any:
    """cosine: to 0 along half a cosine; exponential: to a hundredth; steps: a tenth from half-way, then a hundredth."""
    from keras.optimizers import schedules

    rate, steps = options.learning_rate, options.epochs * steps_per_epoch
    match options.schedule:
        case "cosine":
            rising = options.warmup * steps_per_epoch
            if not rising:
                return schedules.CosineDecay(rate, steps)
            return schedules.CosineDecay(0.0, steps - rising, warmup_target=rate, warmup_steps=rising)
        case "exponential":
            return schedules.ExponentialDecay(rate, steps, 0.01)
        case "steps":
            return schedules.PiecewiseConstantDecay([steps // 2, steps * 3 // 4], [rate, rate / 10, rate / 100])
    return rate


def loss(options: Namespace, neurons: int) -> str:
    """The name of the loss for Keras; UsageError where it cannot judge so many output neurons."""
    if neurons == 1 and "categorical" in options.loss:
        raise UsageError(
            f"--loss {options.loss} compares several classes, and this network has one output neuron; "
            "expected binary_crossentropy, mse or mae"
        )
    return str(options.loss)


def set_precision(policy: str) -> None:
    """Compute in this precision from here on."""
    import keras

    keras.config.set_dtype_policy(policy)


def strategy(options: Namespace, batch: int) -> tuple[Any, int]:
    """The context in which the model is made, and how many devices share a batch: all GPUs for --strategy mirrored.

    UsageError for batches that cannot be shared evenly, which Keras 3.15 fails on.
    """
    if options.strategy == "none":
        return nullcontext(), 1
    import tensorflow as tf

    mirrored = tf.distribute.MirroredStrategy(None if tf.config.list_physical_devices("GPU") else _processors())
    devices: int = mirrored.num_replicas_in_sync
    if batch % devices:
        raise UsageError(f"batches of {batch} rows cannot be shared evenly by {devices} devices; give a --batch-size")
    say(f"note: the batch is shared by {devices} device(s)")
    return mirrored.scope(), devices


def even(rows: int, devices: int) -> int:
    """The batch size of the validation: 1024 or as many as there are, shared evenly by the devices."""
    return max(devices, min(rows, 1024) // devices * devices)


def _processors() -> list[str]:
    import tensorflow as tf

    return [device.name for device in tf.config.list_logical_devices("CPU")]


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


def follow(rows: Feed, followed: Progress) -> list[Any]:
    """Callbacks that tell the rows which epoch begins, and the progress what each gave, and stop at once on NaN."""
    import keras

    def begin(epoch: int, _logs: object) -> None:
        rows.epoch = epoch

    def end(epoch: int, logs: Mapping[str, float]) -> None:
        followed.epoch_ended(epoch, logs)

    follower = keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)
    return [follower, keras.callbacks.TerminateOnNaN()]


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
