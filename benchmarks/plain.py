"""What one writes first: a grpcio server with a pool of threads, one ONNX Runtime call for each request."""

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime

from server.open_inference.stubs import grpc_service_pb2 as v2
from server.ready import write_ready
from topclass.v1 import inference_pb2 as pb
from topclass.v1 import inference_pb2_grpc as rpc

options = onnxruntime.SessionOptions()
if sys.argv[3:] == ["tuned"]:  # what one learns later: the pool is the parallelism; see docs/decisions/0015
    options.intra_op_num_threads = 1
files = Path(sys.argv[1]).glob("*/1/*.onnx")
models = {file.parents[1].name: onnxruntime.InferenceSession(file, options) for file in files}


class Service(rpc.InferenceServiceServicer):  # noqa: D101
    def Predict(self, request: Any, _: Any) -> pb.PredictResponse:  # noqa: D102, N802
        rows = np.frombuffer(request.tensor.data, np.uint8).reshape(request.tensor.shape)
        response = pb.PredictResponse(model=request.model)
        for row in models[request.model].run(None, {"image": rows})[0]:
            best = int(row.argmax())
            response.predictions.add(top_class=best, probability=row[best], probabilities=row)
        return response

    def PredictStream(self, requests: Any, context: Any) -> Any:  # noqa: D102, N802
        for each in requests:
            yield pb.PredictStreamResponse(id=each.id, response=self.Predict(each.request, context))


def model_infer(request: Any, _: Any) -> Any:  # noqa: D103
    rows = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(request.inputs[0].shape)
    found = models[request.model_name].run(None, {"image": rows})[0]
    output = v2.ModelInferResponse.InferOutputTensor(name="probabilities", datatype="FP32", shape=found.shape)
    return v2.ModelInferResponse(outputs=[output], raw_output_contents=[found.tobytes()])


server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
rpc.add_InferenceServiceServicer_to_server(Service(), server)  # type: ignore[abstract]
read, write = v2.ModelInferRequest.FromString, v2.ModelInferResponse.SerializeToString
infer = {"ModelInfer": grpc.unary_unary_rpc_method_handler(model_infer, read, write)}
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("inference.GRPCInferenceService", infer)])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
write_ready(Path(sys.argv[2]), f"127.0.0.1:{port}")
server.wait_for_termination()
