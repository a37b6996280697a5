from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest

from export.verify import Row, compare, probes

from .conftest import make_inputs
from .networks import NETWORKS, shake

pytestmark = pytest.mark.tensorflow


def convert_and_compare(model: Any, rows: int = 40) -> Any:
    """Convert, and demand that Keras and ONNX Runtime agree at every batch size."""
    from export.convert import convert, reference

    shape = tuple(model.inputs[0].shape[1:])
    inputs = make_inputs(shape, rows)
    conversion = convert(model, "table" if len(shape) == 1 else "image", inputs)
    onnx.checker.check_model(conversion.model, full_check=True)
    rows_ = [*(Row(f"sample {i}", each) for i, each in enumerate(inputs)), *probes(inputs)]
    expected = reference(model, conversion.head, np.stack([row.values for row in rows_]))
    assert np.allclose(expected.sum(axis=1), 1, atol=1e-5)
    proof = compare(conversion.model.SerializeToString(), rows_, expected)
    assert proof["max_abs_difference"] <= 1e-5
    return conversion


def operators(conversion: Any) -> Counter[str]:
    """Count the nodes of each kind."""
    return Counter(node.op_type for node in conversion.model.graph.node)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, keras: Any) -> None:
    """Every kind of network answers in ONNX Runtime as in Keras, by our own converter."""
    assert convert_and_compare(shake(NETWORKS[name](keras))).converter == "topclass"


def test_contract(keras: Any) -> None:
    """The file has opset 17, IR 8, one uint8 input with a symbolic N, and the output probabilities."""
    proto = convert_and_compare(shake(NETWORKS["residual"](keras))).model
    assert (proto.ir_version, [(each.domain, each.version) for each in proto.opset_import]) == (8, [("", 17)])
    (given,), (out,) = proto.graph.input, proto.graph.output
    assert (given.name, given.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim] == ["N", 12, 12, 3]
    assert (out.name, [d.dim_param or d.dim_value for d in out.type.tensor_type.shape.dim]) == (
        "probabilities",
        ["N", 4],
    )


def test_mlp_is_minimal(keras: Any) -> None:
    """The MLP's Rescaling costs nothing: it is in the first weights."""
    found = operators(convert_and_compare(shake(NETWORKS["mlp"](keras))))
    assert found == {"Cast": 1, "Reshape": 1, "Gemm": 2, "Relu": 1, "Softmax": 1}


def test_lenet_is_minimal(keras: Any) -> None:
    """LeNet on grey pictures has no Transpose, no Mul and one Reshape at either end of its convolutions."""
    found = operators(convert_and_compare(shake(NETWORKS["lenet"](keras))))
    assert found == {"Cast": 1, "Reshape": 2, "Conv": 2, "MaxPool": 2, "Relu": 3, "Gemm": 2, "Softmax": 1}


def test_residual_is_folded(keras: Any) -> None:
    """Colour pictures are transposed once, and batch norms behind convolutions are gone."""
    found = operators(convert_and_compare(shake(NETWORKS["residual"](keras))))
    assert found["Transpose"] == 1
    assert found["BatchNormalization"] == 0
    assert found["Mul"] == 2  # the two batch norms that follow an Add have no weights to melt into


def test_padded_offset_stays(keras: Any) -> None:
    """A scale with offset before padding="same" leaves one Add: zeros outside the picture are zeros after scaling."""
    found = operators(convert_and_compare(shake(NETWORKS["colour_cnn"](keras))))
    assert (found["Add"], found["Mul"]) == (1, 0)


def test_large_offsets_are_subtracted_first(keras: Any) -> None:
    """A column of mean 2000 and deviation 3 keeps its digits: it is centred before the weights, not in the bias."""
    from export.convert import convert, reference

    model = shake(NETWORKS["table"](keras))
    inputs = np.random.default_rng(0).normal([40, 2000, 0.5], [10, 3, 0.5], (100, 3)).astype(np.float32)
    conversion = convert(model, "table", inputs)
    rows = [Row(f"sample {i}", row) for i, row in enumerate(inputs)]
    proof = compare(conversion.model.SerializeToString(), rows, reference(model, conversion.head, inputs))
    assert proof["max_abs_difference"] < 1e-6
    assert operators(conversion)["Add"] == 1
    assert operators(convert_and_compare(shake(NETWORKS["table_of_small_offsets"](keras))))["Add"] == 0


def test_names_are_keras_names(keras: Any) -> None:
    """Nodes are called as the Keras layers are, nested ones by their path."""
    proto = convert_and_compare(shake(NETWORKS["nested"](keras))).model
    names = [node.name for node in proto.graph.node]
    assert any(name.startswith("deeper/inner/conv2d") for name in names)


ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "swish", "mish", "softplus", "softsign"),
    *("sigmoid", "hard_sigmoid", "hard_silu", "tanh", "hard_tanh", "softmax", "linear"),
)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str, keras: Any) -> None:
    """Every activation agrees inside a layer and as a layer of its own, without the fallback."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(7, activation=name),
            layers.Dense(7),
            layers.Activation(name),
            layers.Dense(3, activation="softmax"),
        ]
    )
    assert convert_and_compare(shake(model)).converter == "topclass"


def test_activation_layers(keras: Any) -> None:
    """Layers that carry an activation's numbers pass them on."""
    layers = keras.layers
    stack = [
        layers.ReLU(),
        layers.ReLU(max_value=0.7),
        layers.ReLU(negative_slope=0.3),
        layers.ReLU(max_value=0.7, negative_slope=0.3),
        layers.LeakyReLU(negative_slope=0.4),
        layers.ELU(alpha=0.6),
        layers.PReLU(),
        layers.Softmax(),
    ]
    for layer in stack:
        model = keras.Sequential([keras.Input((6,)), layers.Dense(7), layer, layers.Dense(3, activation="softmax")])
        assert convert_and_compare(shake(model)).converter == "topclass"


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "stride", "dilation"), [(3, 1, 1), (2, 2, 1), (3, 2, 1), ((2, 3), 1, (3, 2)), (5, 3, 1)]
)
def test_convolutions(padding: str, channels: int, size: Any, stride: int, dilation: Any, keras: Any) -> None:
    """Convolutions agree for each padding, stride and dilation, on even and odd sides."""
    layers = keras.layers
    stack = [
        layers.Rescaling(1 / 255, offset=0.2),
        layers.Conv2D(4, size, strides=stride, padding=padding, dilation_rate=dilation, activation="relu"),
        layers.Flatten(),
        layers.Dense(3, activation="softmax"),
    ]
    assert (
        convert_and_compare(shake(keras.Sequential([keras.Input((14, 11, channels)), *stack]))).converter == "topclass"
    )


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kind", ["MaxPooling2D", "AveragePooling2D"])
@pytest.mark.parametrize(("size", "stride"), [(2, None), (3, 2), (3, 1), ((2, 4), (3, 1))])
def test_pooling(padding: str, kind: str, size: Any, stride: Any, keras: Any) -> None:
    """Pools agree for each padding and stride; an average with padding="same" leaves the padding out."""
    layers = keras.layers
    stack = [
        layers.Rescaling(-1 / 255, offset=0.2),
        getattr(layers, kind)(size, strides=stride, padding=padding),
        layers.Flatten(),
        layers.Dense(3, activation="softmax"),
    ]
    assert convert_and_compare(shake(keras.Sequential([keras.Input((11, 10, 2)), *stack]))).converter == "topclass"


@pytest.mark.parametrize("kind", ["MaxPooling2D", "AveragePooling2D"])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_zero_padding_before_a_pool(kind: str, size: int, activation: str, keras: Any) -> None:
    """Zeros around a picture count in a pool: ONNX Runtime alone would take them for -inf, or refuse the graph."""
    layers = keras.layers
    stack = [
        layers.Conv2D(3, 1, activation=activation),
        layers.ZeroPadding2D(1),
        getattr(layers, kind)(size, strides=2),
        layers.Flatten(),
        layers.Dense(3, activation="softmax"),
    ]
    model = shake(keras.Sequential([keras.Input((6, 7, 2)), layers.Rescaling(1 / 255, offset=-0.5), *stack]))
    conversion = convert_and_compare(model)
    assert operators(conversion)["Pad"] == (0 if (kind, activation) == ("MaxPooling2D", "relu") and size > 1 else 1)


def test_exponential(keras: Any) -> None:
    """The exponential agrees where it does not overflow."""
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, activation="tanh"), layers.Activation("exponential"), layers.Dense(3)]
    )
    assert convert_and_compare(shake(model)).converter == "topclass"


def test_fixed_training_is_overruled(keras: Any) -> None:
    """A Dropout called with training=True drops nothing in the file, as in Keras called with training=False."""
    layers = keras.layers
    given = keras.Input((6,))
    x = layers.Dropout(0.9)(layers.Dense(8)(given), training=True)
    convert_and_compare(shake(keras.Model(given, layers.Dense(3, activation="softmax")(x))))


def test_identities_change_nothing(keras: Any) -> None:
    """Every layer that is dropped gives in Keras, outside of training, what it was given."""
    from export.layers import IDENTITIES

    numbers = {"RandomTranslation": (0.2, 0.2), "GaussianNoise": (0.2,), "RandomPosterization": (4,)}
    without = ("ActivityRegularization", "Identity")
    optional = {"RandomFlip", "RandomShear", "RandomPerspective", "RandomGrayscale", "RandomColorJitter"}
    optional |= {"RandomGaussianBlur", "RandomInvert", "RandomErasing", "RandomElasticTransform", *without}
    pictures = make_inputs((8, 8, 3), 2).astype(np.float32)
    for name in IDENTITIES:
        layer = getattr(keras.layers, name)(*numbers.get(name, () if name in optional else (0.2,)))
        given = layer(pictures) if name in without else layer(pictures, training=False)
        assert np.array_equal(given, pictures), name


def test_fallback_for_an_unknown_setting(keras: Any) -> None:
    """Bilinear upsampling, which we do not know, goes through tf2onnx and keeps the contract."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Rescaling(1 / 255),
            layers.UpSampling2D(2, interpolation="bilinear"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    conversion = convert_and_compare(shake(model))
    assert (conversion.converter, "bilinear" in conversion.reason) == ("tf2onnx", True)
    proto = conversion.model
    assert (proto.ir_version, proto.opset_import[0].version) == (8, 17)
    (given,), (out,) = proto.graph.input, proto.graph.output
    assert (given.name, given.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert (out.name, out.type.tensor_type.shape.dim[1].dim_value) == ("probabilities", 2)
    assert {end.type.tensor_type.shape.dim[0].dim_param for end in (given, out)} == {"N"}


def test_fallback_for_unknown_layers(keras: Any) -> None:
    """Built-in layers that we do not know, and operators between tensors, go through tf2onnx."""
    layers = keras.layers
    given = keras.Input((8, 4))
    x = layers.Conv1D(6, 3, activation="relu")(layers.Rescaling(1 / 255)(given))
    x = layers.GlobalAveragePooling1D()(x)
    conversion = convert_and_compare(shake(keras.Model(given, layers.Dense(3)(x * 2.0 + 1.0))))
    assert (conversion.converter, "Conv1D is not known" in conversion.reason) == ("tf2onnx", True)


def test_fallback_for_a_subclass(keras: Any) -> None:
    """A layer derived from one that we know may compute anything, and is not taken for its parent."""

    class Doubled(keras.layers.Dense):  # type: ignore[name-defined,misc]
        def call(self, inputs: Any, training: bool | None = None) -> Any:
            return 2.0 * super().call(inputs, training=training)

    model = keras.Sequential([keras.Input((4,)), Doubled(3), keras.layers.Softmax()])
    assert convert_and_compare(shake(model)).converter == "tf2onnx"


def test_no_classifier(keras: Any) -> None:
    """What is no classifier of one input is refused by a named error that says what was expected."""
    from export.convert import convert
    from export.errors import NotAClassifierError

    layers = keras.layers
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    two = layers.Dense(2, activation="softmax")
    cases = [
        (keras.Model([a, b], two(layers.Add()([a, b]))), r"2 inputs \(a, b\)"),
        (keras.Model(a, [two(a), layers.Dense(3)(a)]), "2 outputs"),
        (keras.Sequential([keras.Input((4, 4)), layers.Dense(2, activation="softmax")]), r"output is \[N, 4, 2\]"),
        (
            keras.Sequential([keras.Input((None, None, 3)), layers.GlobalMaxPooling2D(), layers.Dense(2)]),
            "of fixed size",
        ),
        (keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="tanh")]), "3 values of tanh"),
        (
            keras.Sequential([keras.Input((4,)), layers.Dense(1, activation="tanh")]),
            "expected a sigmoid, a logit or a step",
        ),
        (keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.ReLU()]), "an unknown kind"),
    ]
    for model, words in cases:
        with pytest.raises(NotAClassifierError, match=words):
            convert(model, "table", make_inputs((4,)))


def test_sigmoids_are_given_as_they_are(keras: Any) -> None:
    """A sigmoid for each class stays what it is: nothing is appended, and a row need not add up to 1."""
    from export.convert import convert, reference
    from export.head import Head

    layers = keras.layers
    model = shake(keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="sigmoid")]))
    inputs = make_inputs((4,))
    conversion = convert(model, "table", inputs)
    assert conversion.head is Head.SIGMOIDS
    assert operators(conversion) == {"Gemm": 1, "Sigmoid": 1}
    rows = [Row(f"sample {i}", each) for i, each in enumerate(inputs)]
    expected = reference(model, conversion.head, inputs)
    assert np.array_equal(expected, np.asarray(model(inputs, training=False)))
    assert np.abs(expected.sum(axis=1) - 1).max() > 0.1
    assert compare(conversion.model.SerializeToString(), rows, expected)["max_abs_difference"] <= 1e-6


def test_a_step_gives_two_columns(keras: Any) -> None:
    """ReLU of the sign is 1 above 0, and 0 at 0 and below; the graph gives both sides of it by our own converter."""
    from export.convert import convert
    from export.head import Head
    from export.verify import open_session, run

    given = keras.Input((2,))
    model = keras.Model(given, keras.layers.ReLU()(keras.ops.sign(keras.layers.Dense(1)(given))))
    model.set_weights([np.array([[2.0], [1.0]]), np.array([-2.0])])
    rows = np.array([[0, 0], [1, 0], [1, 1], [0, 2.5]], np.float32)
    conversion = convert(model, "table", rows)
    assert (conversion.head, conversion.converter) == (Head.STEP, "topclass")
    answers = run(open_session(conversion.model.SerializeToString()), rows)
    assert answers.tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]


def test_a_relu_of_something_else_is_no_step(keras: Any) -> None:
    """A lone ReLU, one with a slope behind a sign, and a sign alone are refused: they are no probabilities."""
    from export.convert import convert
    from export.errors import NotAClassifierError

    given = keras.Input((2,))
    neuron = keras.layers.Dense(1)(given)
    for output in (
        keras.layers.ReLU()(neuron),
        keras.layers.ReLU(negative_slope=0.1)(keras.ops.sign(neuron)),
        keras.ops.sign(neuron),
    ):
        with pytest.raises(NotAClassifierError, match="a sigmoid, a logit or a step"):
            convert(keras.Model(given, output), "table", make_inputs((2,)))
