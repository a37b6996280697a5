"""What can go wrong on the way from a run folder to a published file. Each message is one line for people."""


class ExportError(Exception):
    """Any fault that ends an export; its text names what was given and what was expected."""


class RunError(ExportError):
    """The run folder is missing, incomplete, or contradicts itself."""


class NotAClassifierError(ExportError):
    """The network does not turn one input into one vector of class probabilities."""


class UnsupportedLayerError(ExportError):
    """Our converter does not know this layer, or not with these settings; tf2onnx takes over."""


class ParityError(ExportError):
    """Keras and the ONNX file answer differently; nothing may be published."""


class FileFormatError(ExportError):
    """The file is not a topclass model: no ONNX, no card, or a card that does not fit."""


class PublishError(ExportError):
    """The repository refused the file."""
