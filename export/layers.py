"""What each Keras layer computes, as steps of a Network. A layer or a setting not found here is refused."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from . import network as nw
from .head import SIGN
from .reading import Read, activate, demand, float64, output_shape
from .windows import conv2d, depthwise, global_pool, pool, separable

_TRAINING_ONLY = ("Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "AlphaDropout")
_AUGMENTATION = (
    *("RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomShear", "RandomPerspective"),
    *("RandomContrast", "RandomBrightness", "RandomSaturation", "RandomHue", "RandomGrayscale", "RandomColorJitter"),
    *("RandomColorDegeneration", "RandomGaussianBlur", "RandomInvert", "RandomPosterization", "RandomSharpness"),
    *("RandomErasing", "RandomElasticTransform"),
)
IDENTITIES = (*_TRAINING_ONLY, *_AUGMENTATION, "ActivityRegularization", "Identity")
"""Layers that do nothing when a model answers. RandomCrop is none of them: it crops the middle then."""


def read_layer(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    """Append the steps of one layer and name the last; UnsupportedLayerError for what we do not know.

    The type must match exactly: a subclass may compute anything.
    """
    read = READERS.get(type(layer))
    demand(read is not None, layer, f"{type(layer).__name__} is not known")
    demand(getattr(layer, "compute_dtype", "float32") == "float32", layer, "it does not compute in float32")
    demand(getattr(layer, "data_format", None) != "channels_first", layer, "data_format is channels_first")
    assert read is not None
    return read(net, layer, inputs, name)


def _identity(_: nw.Network, __: Any, inputs: list[str], ___: str) -> str:
    return inputs[0]


def _rescaling(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    scale, offset = np.asarray(layer.scale, np.float64), np.asarray(layer.offset, np.float64)
    shape = net.find(inputs[0]).shape
    fits = all(each.ndim <= 1 and each.size in (1, shape[-1]) for each in (scale, offset))
    demand(fits, layer, "scale or offset is neither a number nor one for each channel")
    return net.add(nw.Affine(name, inputs, shape, scale, offset))


def _normalization(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    shape = net.find(inputs[0]).shape
    mean = float64(layer.mean)
    deviation = np.maximum(np.sqrt(float64(layer.variance)), keras.config.epsilon())
    demand(mean.size == 1 or mean.size == mean.shape[-1] == shape[-1], layer, "it normalizes over other axes than last")
    mean, deviation = mean.reshape(-1), deviation.reshape(-1)
    scale, offset = (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)
    return net.add(nw.Affine(name, inputs, shape, scale, offset))


def _batch_normalization(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    shape = net.find(inputs[0]).shape
    axis = layer.axis[0] if isinstance(layer.axis, list | tuple) else layer.axis
    demand(axis in (-1, len(shape)), layer, "its axis is not the last")
    scale = 1 / np.sqrt(float64(layer.moving_variance) + layer.epsilon)
    if layer.scale:
        scale = scale * float64(layer.gamma)
    offset = -float64(layer.moving_mean) * scale
    if layer.center:
        offset = offset + float64(layer.beta)
    return net.add(nw.Affine(name, inputs, shape, scale, offset))


def _layer_normalization(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    shape = net.find(inputs[0]).shape
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    demand(list(axes) in ([-1], [len(shape)]), layer, "its axis is not the last")
    demand(not layer.rms_scaling, layer, "rms_scaling is set")
    scale = float64(layer.gamma) if layer.scale else np.ones(shape[-1])
    offset = float64(layer.beta) if layer.center else np.zeros(shape[-1])
    return net.add(nw.LayerNorm(name, inputs, shape, scale, offset, layer.epsilon))


def _reshape(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    return net.add(nw.Reshape(name, inputs, output_shape(net, layer, inputs)))


def _permute(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    axes = tuple(axis - 1 for axis in layer.dims)
    return net.add(nw.Permute(name, inputs, output_shape(net, layer, inputs), axes))


def _dense(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    kernel = float64(layer.kernel)
    bias = float64(layer.bias) if layer.use_bias else np.zeros(kernel.shape[-1])
    shape = (*net.find(inputs[0]).shape[:-1], kernel.shape[-1])
    return activate(net, layer, net.add(nw.Dense(name, inputs, shape, kernel, bias)), name, "/")


def _merge(kind: str) -> Read:
    def read(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
        demand(len({len(net.find(each).shape) for each in inputs}) == 1, layer, "its inputs differ in rank")
        return net.add(nw.Merge(name, inputs, output_shape(net, layer, inputs), kind))

    return read


def _concatenate(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    shape = output_shape(net, layer, inputs)
    axis = layer.axis if layer.axis < 0 else layer.axis - 1 - len(shape)
    demand(-len(shape) <= axis < 0, layer, "its axis is the batch")
    return net.add(nw.Concat(name, inputs, shape, axis + len(shape)))


def _borders(cls: type[nw.Pad] | type[nw.Crop], field: str) -> Read:
    def read(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
        (top, bottom), (left, right) = getattr(layer, field)
        return net.add(cls(name, inputs, output_shape(net, layer, inputs), (top, left, bottom, right)))

    return read


def _up_sampling(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    demand(layer.interpolation == "nearest", layer, f"interpolation {layer.interpolation!r} is not known")
    return net.add(nw.UpSample(name, inputs, output_shape(net, layer, inputs), tuple(layer.size)))


def _activation(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    return activate(net, layer, inputs[0], name)


def _relu(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    demand(not layer.threshold, layer, "threshold is set")
    slope, top = float(layer.negative_slope or 0.0), layer.max_value
    function, numbers = {
        (False, False): ("relu", ()),
        (True, False): ("leaky_relu", (slope,)),
        (False, True): ("clip", (0.0, float(top or 0.0))),
        (True, True): ("capped_leaky_relu", (slope, float(top or 0.0))),
    }[bool(slope), top is not None]
    return net.add(nw.Activation(name, inputs, net.find(inputs[0]).shape, function, numbers))


def _leaky_relu(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    slope = (float(layer.negative_slope),)
    return net.add(nw.Activation(name, inputs, net.find(inputs[0]).shape, "leaky_relu", slope))


def _elu(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    return net.add(nw.Activation(name, inputs, net.find(inputs[0]).shape, "elu", (float(layer.alpha),)))


def _prelu(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    return net.add(nw.PRelu(name, inputs, net.find(inputs[0]).shape, float64(layer.alpha)))


def _softmax(net: nw.Network, layer: Any, inputs: list[str], name: str) -> str:
    shape = net.find(inputs[0]).shape
    demand(isinstance(layer.axis, int) and layer.axis != 0, layer, f"axis {layer.axis!r} is not one axis of the row")
    axis = layer.axis + len(shape) if layer.axis < 0 else layer.axis - 1
    return net.add(nw.Softmax(name, inputs, shape, axis))


def _sign(net: nw.Network, _: Any, inputs: list[str], name: str) -> str:
    return net.add(nw.Activation(name, inputs, net.find(inputs[0]).shape, "sign"))


READERS: dict[type, Read] = {
    SIGN: _sign,
    **{getattr(layers, name): _identity for name in IDENTITIES if hasattr(layers, name)},
    layers.Rescaling: _rescaling,
    layers.Normalization: _normalization,
    layers.BatchNormalization: _batch_normalization,
    layers.LayerNormalization: _layer_normalization,
    layers.Reshape: _reshape,
    layers.Flatten: _reshape,
    layers.Permute: _permute,
    layers.Dense: _dense,
    layers.Conv2D: conv2d,
    layers.DepthwiseConv2D: depthwise,
    layers.SeparableConv2D: separable,
    layers.MaxPooling2D: pool("max"),
    layers.AveragePooling2D: pool("average"),
    layers.GlobalMaxPooling2D: global_pool("max"),
    layers.GlobalAveragePooling2D: global_pool("average"),
    layers.Add: _merge("Add"),
    layers.Subtract: _merge("Sub"),
    layers.Multiply: _merge("Mul"),
    layers.Average: _merge("Mean"),
    layers.Maximum: _merge("Max"),
    layers.Concatenate: _concatenate,
    layers.ZeroPadding2D: _borders(nw.Pad, "padding"),
    layers.Cropping2D: _borders(nw.Crop, "cropping"),
    layers.UpSampling2D: _up_sampling,
    layers.Activation: _activation,
    layers.ReLU: _relu,
    layers.LeakyReLU: _leaky_relu,
    layers.ELU: _elu,
    layers.PReLU: _prelu,
    layers.Softmax: _softmax,
}
