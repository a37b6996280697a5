from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .networks import shake
from .test_convert import convert_and_compare

pytestmark = pytest.mark.tensorflow

PADDING = st.sampled_from(["same", "valid"])
SMALL = st.integers(1, 3)
PICTURE_STEPS = st.one_of(
    st.tuples(st.just("Conv2D"), st.integers(1, 4), SMALL, SMALL, PADDING),
    st.tuples(st.just("DepthwiseConv2D"), SMALL, PADDING),
    st.tuples(st.just("SeparableConv2D"), st.integers(1, 4), SMALL, PADDING),
    st.tuples(st.sampled_from(["MaxPooling2D", "AveragePooling2D"]), SMALL, SMALL, PADDING),
    st.tuples(st.just("Rescaling"), st.sampled_from([-2.0, 0.5, 3.0]), st.sampled_from([0.0, 0.7, -9.0])),
    st.tuples(st.just("ZeroPadding2D"), st.integers(0, 2)),
    st.tuples(st.just("Permute"), st.permutations([1, 2, 3]).map(tuple)),
    st.tuples(st.just("UpSampling2D"), st.integers(1, 2)),
    st.tuples(st.sampled_from(["BatchNormalization", "ReLU", "PReLU", "LayerNormalization", "Dropout", "Residual"])),
)
FLAT_STEPS = st.one_of(
    st.tuples(st.just("Dense"), st.integers(1, 5)),
    st.tuples(st.sampled_from(["BatchNormalization", "ReLU", "PReLU", "LayerNormalization", "Residual"])),
)


def apply(layers: Any, x: Any, step: tuple[Any, ...]) -> Any:
    """Put one step behind x, or leave x where the step does not fit its size."""
    name, *arguments = step
    if name == "Residual":
        return layers.Add()([layers.Activation("tanh")(x), x])
    if name == "Dropout":
        return layers.Dropout(0.5)(x)
    if name in ("Conv2D", "MaxPooling2D", "AveragePooling2D"):
        *numbers, stride, padding = arguments
        layer = getattr(layers, name)(*numbers, strides=stride, padding=padding)
    elif name in ("DepthwiseConv2D", "SeparableConv2D"):
        layer = getattr(layers, name)(*arguments[:-1], padding=arguments[-1])
    else:
        layer = getattr(layers, name)(*arguments)
    if min(x.shape[1:]) < 3 and "padding" in vars(layer) and layer.padding == "valid":
        return x
    return layer(x)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    shape=st.tuples(st.integers(4, 9), st.integers(4, 9), st.sampled_from([1, 2, 3])),
    pictures=st.lists(PICTURE_STEPS, max_size=7),
    bridge=st.sampled_from(["Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D"]),
    flats=st.lists(FLAT_STEPS, max_size=3),
)
def test_random_networks(keras: Any, shape: Any, pictures: Any, bridge: str, flats: Any) -> None:
    """Whatever order the layers come in, folded and transposed as they will, the twins agree."""
    layers = keras.layers
    given = keras.Input(shape)
    x = layers.Rescaling(1 / 255)(given)
    for step in pictures:
        x = apply(layers, x, step)
    x = getattr(layers, bridge)()(x)
    for step in flats:
        x = apply(layers, x, step)
    model = shake(keras.Model(given, layers.Dense(3, activation="softmax")(x)))
    assert convert_and_compare(model, rows=9).converter == "topclass"
