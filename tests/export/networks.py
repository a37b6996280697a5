"""Small Keras models of every kind, with random weights. Each is a function of the keras module: nothing here
imports TensorFlow, so that the tests without it start at once."""

from collections.abc import Callable
from typing import Any

import numpy as np

Keras = Any
Build = Callable[[Keras], Any]
NETWORKS: dict[str, Build] = {}


def network(build: Build) -> Build:
    """Enter a model under its function's name."""
    NETWORKS[build.__name__] = build
    return build


def shake(model: Any, seed: int = 7) -> Any:
    """Give every weight a random value: fresh batch norms have mean 0 and variance 1, which would hide mistakes."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        values = rng.normal(0.0, 1.0 / max(1.0, np.prod(weight.shape[:-1])) ** 0.5, weight.shape)
        if "variance" in weight.path or "gamma" in weight.path:
            values = rng.uniform(0.3, 2.0, weight.shape)
        elif len(weight.shape) == 1:
            values = rng.normal(0.0, 0.3, weight.shape)
        if np.issubdtype(np.dtype(weight.dtype), np.floating):
            weight.assign(values)
    return model


@network
def mlp(k: Keras) -> Any:
    """Grey pictures, flattened."""
    layers = k.layers
    return k.Sequential(
        [
            k.Input((8, 8)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(5, activation="softmax"),
        ]
    )


@network
def lenet(k: Keras) -> Any:
    """Grey pictures given a channel axis inside."""
    layers = k.layers
    return k.Sequential(
        [
            k.Input((28, 28)),
            layers.Reshape((28, 28, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(6, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


@network
def colour_cnn(k: Keras) -> Any:
    """An offset before a padded convolution, and a batch norm before and behind activations."""
    layers = k.layers
    return k.Sequential(
        [
            k.Input((16, 16, 3)),
            layers.Rescaling(1 / 127.5, offset=-1.0),
            layers.Conv2D(8, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.SpatialDropout2D(0.2),
            layers.MaxPooling2D(padding="same"),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(6),
            layers.Activation("softmax"),
        ]
    )


@network
def residual(k: Keras) -> Any:
    """Pre-activation blocks and a strided shortcut; its input is declared uint8."""
    layers = k.layers
    given = k.Input((12, 12, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(given)
    x = layers.Conv2D(4, 3, padding="same")(x)
    for _ in range(2):
        y = layers.BatchNormalization()(x)
        y = layers.Activation("relu")(y)
        y = layers.Conv2D(4, 3, padding="same", use_bias=False)(y)
        y = layers.BatchNormalization()(y)
        x = layers.Add()([x, y])
    shortcut = layers.Conv2D(8, 1, strides=2)(x)
    y = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.ReLU()(layers.Add()([shortcut, y]))
    return k.Model(given, layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling2D()(x)))


@network
def mobile(k: Keras) -> Any:
    """Explicit padding, depthwise, separable and grouped convolutions."""
    layers = k.layers
    return k.Sequential(
        [
            k.Input((15, 13, 3)),
            layers.Rescaling(1 / 255),
            layers.ZeroPadding2D(((0, 1), (1, 0))),
            layers.Conv2D(4, 3, strides=2, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False),
            layers.BatchNormalization(scale=False),
            layers.Activation("relu6"),
            layers.SeparableConv2D(6, 3, padding="same", depth_multiplier=2, activation="silu"),
            layers.BatchNormalization(center=False),
            layers.Conv2D(8, 3, groups=2, padding="same", activation="hard_silu"),
            layers.GlobalMaxPooling2D(keepdims=True),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )


@network
def sigmoid_neuron(k: Keras) -> Any:
    """Two classes by one probability."""
    layers = k.layers
    return k.Sequential([k.Input((3,)), layers.Dense(4, activation="tanh"), layers.Dense(1, activation="sigmoid")])


@network
def logit_neuron(k: Keras) -> Any:
    """Two classes by one logit."""
    layers = k.layers
    return k.Sequential([k.Input((3,)), layers.Dense(4, activation="tanh"), layers.Dense(1)])


@network
def logits(k: Keras) -> Any:
    """Trained with from_logits: no softmax of its own."""
    layers = k.layers
    return k.Sequential([k.Input((8, 8)), layers.Flatten(), layers.Rescaling(1 / 255), layers.Dense(5)])


@network
def table(k: Keras) -> Any:
    """A column far from zero."""
    layers = k.layers
    normalization = layers.Normalization(mean=[40.0, 2000.0, 0.5], variance=[100.0, 9.0, 0.25])
    return k.Sequential(
        [k.Input((3,)), normalization, layers.Dense(8, activation="relu"), layers.Dense(3, activation="softmax")]
    )


@network
def table_of_small_offsets(k: Keras) -> Any:
    """Columns near zero."""
    layers = k.layers
    normalization = layers.Normalization(mean=[1.0, -2.0, 0.5], variance=[4.0, 9.0, 0.25])
    return k.Sequential(
        [k.Input((3,)), normalization, layers.Dense(8, activation="relu"), layers.Dense(3, activation="softmax")]
    )


@network
def perceptron(k: Keras) -> Any:
    """One layer, nothing else."""
    return k.Sequential([k.Input((3,)), k.layers.Dense(3, activation="softmax")])


@network
def nested(k: Keras) -> Any:
    """Models inside models."""
    layers = k.layers
    inner = k.Sequential(
        [k.Input((10, 10, 3)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()], name="inner"
    )
    given = k.Input((10, 10, 3))
    deeper = k.Model(given, layers.MaxPooling2D()(inner(given)), name="deeper")
    return k.Sequential(
        [
            k.Input((10, 10, 3)),
            layers.Rescaling(1 / 255),
            deeper,
            layers.Flatten(),
            layers.Dense(4, activation="softmax"),
        ]
    )


@network
def shared_layer(k: Keras) -> Any:
    """One layer called twice."""
    layers = k.layers
    given = k.Input((6,))
    dense = layers.Dense(6, activation="relu", name="twice")
    return k.Model(given, layers.Dense(3, activation="softmax")(dense(dense(given))))


@network
def augmented(k: Keras) -> Any:
    """Every sort of layer that only training needs."""
    layers = k.layers
    return k.Sequential(
        [
            k.Input((8, 8, 3)),
            layers.RandomFlip(),
            layers.RandomRotation(0.2),
            layers.RandomContrast(0.3),
            layers.GaussianNoise(0.9),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, activation="relu"),
            layers.AlphaDropout(0.2),
            layers.GaussianDropout(0.2),
            layers.Flatten(),
            layers.ActivityRegularization(l2=0.1),
            layers.Dense(3, activation="softmax"),
        ]
    )


@network
def merges(k: Keras) -> Any:
    """All merging layers, and a broadcast gate."""
    layers = k.layers
    given = k.Input((9, 7, 3))
    x = layers.Rescaling(1 / 255)(given)
    a, b = layers.Conv2D(4, 3, padding="same")(x), layers.Conv2D(4, 3, padding="same", activation="tanh")(x)
    x = layers.Concatenate()(
        [layers.Add()([a, b]), layers.Subtract()([a, b]), layers.Maximum()([a, b]), layers.Average()([a, b, a]), x]
    )
    gate = layers.Dense(19, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Multiply()([x, gate])
    x = layers.Concatenate(axis=1)([x, layers.UpSampling2D((1, 1))(x)])
    flat = layers.Concatenate()([layers.Flatten()(x), layers.GlobalMaxPooling2D()(x)])
    return k.Model(given, layers.Softmax()(layers.Dense(4)(flat)))


@network
def shapes(k: Keras) -> Any:
    """Layers that move and cut, in an order nobody would choose."""
    layers = k.layers
    given = k.Input((8, 6))
    x = layers.Rescaling(0.01, offset=0.5)(given)
    x = layers.Permute((2, 1))(x)
    x = layers.Reshape((6, 4, 2))(x)
    x = layers.Cropping2D(((1, 0), (0, 1)))(x)
    x = layers.Conv2D(3, 2, activation="elu")(x)
    x = layers.UpSampling2D((2, 3))(x)
    x = layers.LayerNormalization()(x)
    x = layers.ZeroPadding2D(1)(x)
    x = layers.AveragePooling2D(2, padding="same")(x)
    x = layers.Permute((3, 1, 2))(x)
    x = layers.Dense(5, activation="relu")(x)
    x = layers.PReLU(shared_axes=[1])(x)
    x = layers.Flatten()(x)
    return k.Model(given, layers.Dense(4, activation="softmax")(layers.LayerNormalization(center=False)(x)))


@network
def behind_flatten(k: Keras) -> Any:
    """Parameters on a flattened picture, whose order is turned."""
    layers = k.layers
    given = k.Input((8, 8, 2))
    x = layers.Conv2D(3, 3, activation="relu")(layers.Rescaling([0.01, 0.02], offset=[0.1, -0.2])(given))
    x = layers.Flatten()(layers.PReLU()(x))
    x = layers.PReLU()(layers.LeakyReLU(0.1)(x))
    y = layers.BatchNormalization()(x)
    x = layers.Add()([x, y])
    return k.Model(given, layers.Dense(4, activation="softmax")(x))


@network
def ensemble(k: Keras) -> Any:
    """Probabilities without a last activation: an average of softmaxes."""
    layers = k.layers
    given = k.Input((5,))
    return k.Model(given, layers.Average()([layers.Dense(3, activation="softmax")(given) for _ in range(3)]))


@network
def fully_convolutional(k: Keras) -> Any:
    """A written-out channel axis of one, and no Dense."""
    layers = k.layers
    return k.Sequential(
        [
            k.Input((9, 9, 1)),
            layers.Rescaling(1 / 255),
            layers.BatchNormalization(),
            layers.AveragePooling2D(2),
            layers.Conv2D(4, 2, activation="relu"),
            layers.Conv2D(3, 1),
            layers.GlobalAveragePooling2D(),
            layers.Softmax(),
        ]
    )


@network
def pixel_softmax(k: Keras) -> Any:
    """Softmax over other axes than the classes'."""
    layers = k.layers
    given = k.Input((6, 6, 2))
    x = layers.Conv2D(3, 3)(layers.Rescaling(1 / 255)(given))
    x = layers.Softmax()(x)
    x = layers.Conv2D(3, 1, activation="softmax")(x)
    x = layers.Reshape((16, 3))(x)
    x = layers.Softmax(axis=1)(x)
    return k.Model(given, layers.Dense(2, activation="softmax")(layers.Flatten()(x)))
