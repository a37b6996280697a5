"""What the network sees just before it decides: the inputs of its last layer with weights."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Features:
    """Where they are: behind the layer of that name, [N,F], or [N,H,W,C] if `pooled`: their mean over places is taken.

    last: a Keras model that gives what the last layer reads, whole: [N,H*W*C] or [N,F].
    """

    layer: str
    pooled: bool
    size: int
    model: Any
    last: Any

    def of(self, inputs: NDArray[Any]) -> NDArray[np.float64]:
        """The features [N,F] of inputs as the network takes them."""
        given = np.asarray(self.model.predict(inputs, batch_size=1024, verbose=0), dtype=np.float64)
        return given.mean(axis=(1, 2)) if self.pooled else given


def find(model: Any) -> Features | str:
    """The features of a Keras classifier, or why it has none: the end of a sentence.

    Layers that only rearrange or drop are passed over, so that a flattened picture is looked at as a picture.
    """
    import keras

    tensor = model.outputs[0]
    while isinstance(tensor._keras_history.operation, keras.layers.Activation | keras.layers.Softmax):
        tensor = _before(tensor)
    layer = tensor._keras_history.operation
    if not isinstance(layer, keras.layers.Dense):
        return f"its last layer, {layer.name}, is not Dense"
    tensor = whole = _before(tensor)
    while isinstance(layer := tensor._keras_history.operation, keras.layers.Flatten | keras.layers.Dropout):
        tensor = _before(tensor)
    if not _learned(model, tensor):
        return "the network has no hidden layer: nothing was learned before its last one"
    if len(tensor.shape) == 4:
        return Features(
            layer.name, True, tensor.shape[3], *(keras.Model(model.inputs[0], end) for end in (tensor, whole))
        )
    if len(tensor.shape) == 2 and tensor.shape == whole.shape:
        return Features(
            layer.name, False, tensor.shape[1], *(keras.Model(model.inputs[0], end) for end in (tensor, whole))
        )
    return f"the features before its last layer are {list(tensor.shape)}, neither a vector nor a picture"


def last_function(model: Any) -> str:
    """The name of the function that the network's answers went through, such as softmax; empty where it has none."""
    import keras

    layer = model.outputs[0]._keras_history.operation
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    function = getattr(layer, "activation", None)
    named = keras.activations.serialize(function) if function is not None else ""
    return named if isinstance(named, str) else ""


def _before(tensor: Any) -> Any:
    """What the layer that made a tensor was given."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index].arguments.keras_tensors[0]


def _learned(model: Any, tensor: Any) -> bool:
    """Whether any layer with trained weights stands between the input and the tensor."""
    import keras

    return bool(keras.Model(model.inputs[0], tensor).trainable_weights)
