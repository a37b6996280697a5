"""Rows in batches, every epoch in an order of its own that depends on seed and epoch alone.

So a fit that is continued after an interruption sees the same batches, varied in the same way, as one that was not.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.augment import Augmentation
from training.data import Dataset, Part
from training.knobs import ALL


def batch_size(options: Namespace, dataset: Dataset) -> int:
    """Rows in a step."""
    rows = len(dataset.train)
    return rows if options.batch_size == ALL else min(rows, int(options.batch_size))


def steps(options: Namespace, dataset: Dataset) -> int:
    """Steps in an epoch."""
    return -(-len(dataset.train) // batch_size(options, dataset))


def targets(labels: NDArray[np.int64], loss: str, neurons: int) -> NDArray[Any]:
    """What the loss compares answers with: labels [N], one-hot rows [N,C], or for one neuron 0 and 1 [N,1]."""
    if neurons == 1:
        return labels[:, None].astype(np.float32)
    if loss == "sparse_categorical_crossentropy":
        return labels
    return np.eye(neurons, dtype=np.float32)[labels]


def class_weights(labels: NDArray[np.int64], classes: int, how: str) -> NDArray[np.float32]:
    """The weight of each class [C]: 1, or, balanced, rows / (classes * rows of the class), as scikit-learn has it."""
    if how == "none":
        return np.ones(classes, np.float32)
    counts = np.bincount(labels, minlength=classes)
    return (len(labels) / (classes * np.maximum(counts, 1))).astype(np.float32)


class Feed:
    """The training rows as a tf.data.Dataset; `epoch` is set before each epoch."""

    def __init__(self, dataset: Dataset, options: Namespace, neurons: int, varied: Augmentation | None) -> None:
        part = dataset.train
        self.epoch = 0
        self._rows = len(part)
        self._seed = options.seed
        self._steps = steps(options, dataset)
        self._batch = batch_size(options, dataset)
        self._targets = targets(part.labels, options.loss, neurons)
        self._weights = class_weights(part.labels, len(dataset.labels), options.class_weights)[part.labels]
        self._part, self._varied = part, varied

    def order(self) -> NDArray[np.int64]:
        """The rows of this epoch in their order [N]."""
        return np.random.default_rng([self._seed, self.epoch]).permutation(self._rows)

    def dataset(self) -> Any:
        """Batches of (inputs, targets, weights)."""
        import tensorflow as tf

        with tf.device("CPU"):
            inputs, wanted, weights = map(tf.constant, (self._part.inputs, self._targets, self._weights))
        vary = self._varied.build(self._part.inputs.shape[1:]) if self._varied else None

        def epoch() -> Iterator[tuple[int, NDArray[np.int64]]]:
            yield self.epoch, self.order()

        def cut(number: Any, order: Any) -> Any:
            slices = tf.data.Dataset.from_tensor_slices(order).batch(self._batch).enumerate()
            return slices.map(lambda step, rows: (number, step, rows))

        def take(number: Any, step: Any, rows: Any) -> tuple[Any, Any, Any]:
            taken = tf.gather(inputs, rows)
            if vary is not None:
                taken = vary(taken, tf.stack([self._seed, number * self._steps + step]))
            return taken, tf.gather(wanted, rows), tf.gather(weights, rows)

        signature = (tf.TensorSpec([], tf.int64), tf.TensorSpec([None], tf.int64))
        batches = tf.data.Dataset.from_generator(epoch, output_signature=signature).flat_map(cut)
        batches = batches.map(take, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return batches.apply(tf.data.experimental.assert_cardinality(self._steps)).with_options(options)


def validation(part: Part, loss: str, neurons: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """What Keras validates with."""
    return part.inputs, targets(part.labels, loss, neurons)
