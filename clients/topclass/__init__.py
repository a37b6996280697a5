"""Client of the topclass server: batches of pictures or table rows in, labels and probabilities out."""

from importlib.metadata import PackageNotFoundError, version

from topclass.aio import AsyncClient
from topclass.client import Client
from topclass.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelChanged,
    NotFound,
    Overloaded,
    ServerFault,
    TopclassError,
    Unauthenticated,
    Unavailable,
)
from topclass.results import InputSpec, ModelDetails, ModelInfo, Prediction, Ranked, Result, Timing

try:
    __version__ = version("topclass")
except PackageNotFoundError:  # the folder is on the path, but the distribution is not installed
    __version__ = "0+unknown"

__all__ = [
    "AsyncClient",
    "Client",
    "DeadlineExceeded",
    "InputSpec",
    "InvalidInput",
    "ModelChanged",
    "ModelDetails",
    "ModelInfo",
    "NotFound",
    "Overloaded",
    "Prediction",
    "Ranked",
    "Result",
    "ServerFault",
    "Timing",
    "TopclassError",
    "Unauthenticated",
    "Unavailable",
    "__version__",
]
