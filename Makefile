# Every target works from a fresh clone: it makes the environment .venv first where that is missing or stale.
.DEFAULT_GOAL := help
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
export PYTHONNOUSERSITE := 1
PY := .venv/bin/python

.PHONY: $(shell grep -oE '^[a-z-]+:' $(firstword $(MAKEFILE_LIST)) | tr -d ':')

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

env:
	@scripts/environment

demo: env  ## train on real digits, export, serve, predict: the whole path in under three minutes
	@$(PY) -m examples.demo

test: env  ## the tests
	$(PY) -m pytest $(TESTS)

fuzz: env  ## fuzz one of pictures, cards, requests, open_inference, http: make fuzz TARGET=cards SECONDS=600
	$(PY) -m pip install --quiet --upgrade --target .fuzz --constraint constraints.txt atheris
	PYTHONPATH=.:clients:.fuzz $(PY) -m tests.fuzz $(or $(TARGET),requests) $(or $(SECONDS),60)

check: env  ## lint, types, the proto files, and that the generated stubs are fresh
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	cd proto && ../.venv/bin/buf lint
	scripts/stubs
	git diff --exit-code --stat -- clients/topclass/v1 server/open_inference/stubs

format: env  ## let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

proto: env  ## regenerate the stubs from proto/
	scripts/stubs

serve: env  ## serve ./models on port 8001
	$(PY) -m server --models models

retrain: env  ## train, verify, compare, publish: make retrain MODEL=digits
	$(PY) retrain.py $(or $(MODEL),digits) $(ARGS)

soak: env  ## 200,000 mixed requests; memory must stay flat (some minutes)
	$(PY) -m benchmarks.soak $(ARGS)

fairness: env  ## a lone caller beside bulk callers: who waits how long
	$(PY) -m benchmarks.fairness

overhead: env  ## what metrics and logs cost: under 3 % (needs h2load; some minutes)
	$(PY) -m benchmarks.overhead $(ARGS)

bench-client: env  ## the Python client beside plain stubs: calls, its processor time, messages (some minutes)
	$(PY) -m benchmarks.client $(ARGS)

bench-batch: env  ## topclass predict beside the load generator on the same server: rows/s, processor time (a minute)
	$(PY) -m benchmarks.batch $(ARGS)

bench-wire: env  ## what the server pays to read a request and write an answer, beside the protobuf library
	@$(PY) -m benchmarks.wire

bench: env  ## the speed beside a plain grpcio server, as ratios; needs h2load: make bench ARGS=--quick
	@$(PY) -m benchmarks.bench $(ARGS)

test-gpu: env  ## the tests of --device cuda, with the real onnxruntime-gpu
	scripts/test-gpu

test-clients: env  ## the field's own clients, each in an environment of its own, against a real server
	scripts/test-clients

test-containers: env  ## build the images and run the compose file with podman (root; ten minutes the first time)
	scripts/test-containers

clean:  ## remove environments and caches; runs/ and models/ stay
	rm -rf .venv .venv-proto .venv-clients .venv-containers .mypy_cache .ruff_cache .pytest_cache demo
