# Everything that is done here begins with `make`; `make help` says what there is.
# A fresh machine needs Python 3.11 or later, Go and make. What else is needed is fetched on the way.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
LOCAL_CLUSTER := $(PYTHON) -m local_cluster
LOCAL_KUBECONFIG := $(CURDIR)/.cluster/kubeconfig
# `make install` goes where kubectl would go; without a KUBECONFIG, to the cluster of this checkout.
export KUBECONFIG ?= $(LOCAL_KUBECONFIG)

OPERATOR_IMAGE := localhost/muster:dev
WORKER_IMAGE := localhost/muster-worker:dev
WORKER_TEST_IMAGE := localhost/muster-worker:test
TORCHSERVE_IMAGE := localhost/muster-torchserve:dev
TORCHSERVE_TEST_IMAGE := localhost/muster-torchserve:test
SERVING_IMAGE := localhost/muster-bench-serving:dev
STRATEGIES_IMAGE := localhost/muster-bench-strategies:dev
KSERVE_IMAGE := localhost/muster-kserve:test
NAMESPACE := muster-system
# Of the tests, beside those on the cluster: two run side by side, and in this order they end about together.
PARTS := serving unit training torchserve kserve
RELEASE := muster
# By which hypothesis knows that it is to try the same cases each time, inside of images too.
TELL_CI := $(if $(CI),--env CI=$(CI))
# More for `helm upgrade`, for instance HELM_ARGS='--set replicas=1'.
HELM_ARGS ?=

KUBERNETES_MODULE := local_cluster/modules/kubernetes

# Puts the real kubectl, helm and kubeconform first on PATH; they are built once into the user's cache.
WITH_TOOLS := tools=$$($(LOCAL_CLUSTER) tools); export PATH="$$tools:$$PATH"

##@ See it

.PHONY: demo
demo: export KUBECONFIG := $(LOCAL_KUBECONFIG)
demo: ## A cluster, the operator, and a model that you see trained, served and restarted under load
	@$(MAKE) cluster
	$(MAKE) install
	$(WITH_TOOLS)
	$(PYTHON) -m demo

.PHONY: env
env: ## For your shell: eval $(make env) gives it kubectl, helm and the cluster of this checkout
	@$(WITH_TOOLS)
	echo "export KUBECONFIG=$(LOCAL_KUBECONFIG) PATH=$$tools:\$$PATH"

##@ Check it

.PHONY: verify
verify: verify-style verify-types verify-layers verify-generated verify-chart ## Style, types, layers, generated files, chart

.PHONY: verify-style
verify-style: .venv/ready
	@$(BIN)/ruff check
	$(BIN)/ruff format --check

.PHONY: verify-types
verify-types: .venv/ready
	@$(BIN)/mypy
	$(BIN)/mypy demo helm/kubeconform_schemas.py

.PHONY: verify-layers
verify-layers: .venv/ready
	@PYTHONPATH=worker_image $(BIN)/lint-imports

.PHONY: verify-generated
verify-generated: .venv/ready
	@rm -rf build/crds
	$(BIN)/muster crds --output build/crds
	diff -ru crds build/crds && diff -ru crds helm/muster/files/crds || {
	  echo "The generated files are not those of the models: run 'make generate' and commit what changed." >&2
	  exit 1
	}
	echo "The generated files are fresh."

.PHONY: verify-chart
verify-chart: .venv/ready build/schemas/ready
	@$(WITH_TOOLS)
	check() { kubeconform -strict -summary -schema-location \
	  'build/schemas/{{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json' "$$@"; }
	for values in helm/muster/values.yaml helm/muster/ci/*.yaml; do
	  echo "chart with $$values"
	  arguments=(helm/muster --namespace $(NAMESPACE) --values "$$values")
	  helm lint --strict --quiet "$${arguments[@]}"
	  helm template $(RELEASE) "$${arguments[@]}" | check
	done
	echo "examples"
	check examples/*.yaml

.PHONY: test
test: export BUT := and not long
test: ## Unit, worker and cluster tests, but those marked long: about a quarter of an hour
	@$(MAKE) test-all

.PHONY: test-all
test-all: ## Every test, in about an hour; a part that fails does not keep the others from running
	@rm -rf build/test && mkdir -p build/test
	echo "== unit and worker tests, side by side: each is shown once it is done (meanwhile: build/test)"
	$(MAKE) --jobs=2 --output-sync=target $(addprefix logged-,$(PARTS))
	echo "== cluster tests"
	$(MAKE) logged-cluster
	echo
	for part in $(PARTS) cluster; do
	  grep -E '^=+ .* in [0-9.]+s.* =+$$' build/test/$$part.log | tail -n 1 || echo "$$part: pytest did not get to its end"
	done
	failed=$$(cd build/test && find . -name '*.failed' -printf ' %f')
	if [[ -n $$failed ]]; then
	  echo "FAILED:$${failed//.failed/} (each in full: build/test/PART.log, and again: make test-PART)" >&2
	  exit 1
	fi

logged-%:
	@$(MAKE) test-$* 2>&1 | tee build/test/$*.log || touch build/test/$*.failed

.PHONY: test-unit
test-unit: .venv/ready ## Planner, control layer, API, chart: no cluster, no torch
	@$(WITH_TOOLS)
	$(BIN)/pytest tests/unit tests/local_cluster -m "not cluster and not gpu $(BUT)"

.PHONY: test-training
test-training: ## What trains in the pods, inside of the worker image with pytest added
	@$(LOCAL_CLUSTER) build-image $(WORKER_TEST_IMAGE) worker_image --base torch-test
	$(LOCAL_CLUSTER) run-in-image $(WORKER_TEST_IMAGE) $(TELL_CI) -- python3 -m pytest tests/worker -m "not gpu $(BUT)" \
	  --ignore tests/worker/serve

.PHONY: test-serving
test-serving: ## The same for what serves
	@$(LOCAL_CLUSTER) build-image $(WORKER_TEST_IMAGE) worker_image --base torch-test
	$(LOCAL_CLUSTER) run-in-image $(WORKER_TEST_IMAGE) $(TELL_CI) -- python3 -m pytest tests/worker/serve -m "not gpu $(BUT)" \
	  --ignore tests/worker/serve/torchserve --ignore tests/worker/serve/kserve

.PHONY: test-torchserve
test-torchserve: ## The same for what TorchServe computes, inside of an image that has it
	@$(LOCAL_CLUSTER) build-image $(TORCHSERVE_TEST_IMAGE) worker_image/torchserve --base torch-test
	$(LOCAL_CLUSTER) run-in-image $(TORCHSERVE_TEST_IMAGE) $(TELL_CI) --env PYTHONPATH=$(CURDIR)/worker_image:$(CURDIR) -- \
	  python3 -m pytest tests/worker/serve/torchserve -m "not gpu $(BUT)"

.PHONY: test-kserve
test-kserve: ## Muster's server, asked by kserve's clients
	@$(LOCAL_CLUSTER) build-image $(KSERVE_IMAGE) tests/worker/serve/kserve --base torch-test
	$(LOCAL_CLUSTER) run-in-image $(KSERVE_IMAGE) $(TELL_CI) --env PYTHONPATH=$(CURDIR)/worker_image:$(CURDIR) -- \
	  python3 -m pytest tests/worker/serve/kserve

.PHONY: test-xla
test-xla: build/xla/ready ## Training by torch_xla, on the CPU; not part of test: it downloads 3 GB of torch and torch_xla
	@PJRT_DEVICE=CPU build/xla/venv/bin/python -m pytest --config-file tests/worker/pytest.ini tests/worker/train/test_xla.py

.PHONY: test-cluster
test-cluster: export KUBECONFIG := $(LOCAL_KUBECONFIG)
test-cluster: .venv/ready ## On the real cluster; one that had to be brought up for it is taken down again
	@$(LOCAL_CLUSTER) status >/dev/null 2>&1 || trap '$(MAKE) cluster-down' EXIT
	$(MAKE) cluster
	$(MAKE) install
	$(WITH_TOOLS)
	helm test $(RELEASE) --namespace $(NAMESPACE) --hide-notes
	$(BIN)/pytest tests/cluster tests/unit tests/local_cluster -m "cluster $(BUT)"

.PHONY: chaos
chaos: .venv/ready ## A random history of 120 jobs on simulated nodes, with operators that are killed; SEED=2
	@exec $(BIN)/python -m tests.faults $(if $(SEED),--seed $(SEED))

.PHONY: bench
bench: .venv/ready ## Muster beside a floor on 200 simulated nodes; JOBS=50 for a quick run, PEERS=jobset,pytorchjob, RECORD=1
	@exec $(BIN)/python -m tests.bench --jobs $(or $(JOBS),1000) \
	  $(if $(PEERS),--peers $(PEERS)) $(if $(RECORD),--record docs/benchmarks.md)

.PHONY: bench-throughput
bench-throughput: .venv/ready ## Training in a Muster pod beside bare torchrun, in turn; RECORD=1 for docs/benchmarks.md
	@$(LOCAL_CLUSTER) build-image $(WORKER_IMAGE) worker_image --base torch
	exec $(BIN)/python -m tests.bench.throughput --image $(WORKER_IMAGE) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(RECORD),--record docs/benchmarks.md)

.PHONY: bench-strategies
bench-strategies: .venv/ready ## Every strategy beside torchrun and Lightning, servers, checkpoints; ROUNDS=1 is quick, RECORD=1
	@$(LOCAL_CLUSTER) build-image $(WORKER_IMAGE) worker_image --base torch
	$(LOCAL_CLUSTER) build-image $(STRATEGIES_IMAGE) tests/bench/strategies/image --base $(WORKER_IMAGE)
	exec $(BIN)/python -m tests.bench.strategies --image $(STRATEGIES_IMAGE) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(RECORD),--record docs/benchmarks.md)

.PHONY: bench-deployments
bench-deployments: .venv/ready ## Muster beside a floor with 500 ModelDeployments; DEPLOYMENTS=50 for a quick run, RECORD=1
	@exec $(BIN)/python -m tests.bench.deployments $(if $(DEPLOYMENTS),--deployments $(DEPLOYMENTS)) \
	  $(if $(RECORD),--record docs/benchmarks.md)

.PHONY: bench-serving
bench-serving: .venv/ready ## Muster's runtime beside torch alone, TorchServe and kserve; SECONDS=3 for a quick run, RECORD=1
	@$(LOCAL_CLUSTER) build-image $(KSERVE_IMAGE) tests/worker/serve/kserve --base torch-test
	$(LOCAL_CLUSTER) build-image $(SERVING_IMAGE) tests/bench/serving/image --base $(KSERVE_IMAGE)
	exec $(BIN)/python -m tests.bench.serving --image $(SERVING_IMAGE) $(if $(SECONDS),--seconds $(SECONDS)) \
	  $(if $(RECORD),--record docs/benchmarks.md)

.PHONY: bench-generation
bench-generation: .venv/ready ## Text with and without a key-value cache, alone and together; RECORD=1 for docs/benchmarks.md
	@$(LOCAL_CLUSTER) build-image $(WORKER_IMAGE) worker_image --base torch
	exec $(BIN)/python -m tests.bench.generation --image $(WORKER_IMAGE) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(RECORD),--record docs/benchmarks.md)

##@ Run it

.PHONY: cluster
cluster: ## A real Kubernetes of three nodes on this machine; nothing to do when it runs
	@$(LOCAL_CLUSTER) up

.PHONY: cluster-down
cluster-down: ## Take it away; nothing of it is left
	@$(LOCAL_CLUSTER) down

.PHONY: images
images: ## Build the operator's and the worker's image
	@$(LOCAL_CLUSTER) build-image $(OPERATOR_IMAGE) . --file operator/Dockerfile --base python
	$(LOCAL_CLUSTER) build-image $(WORKER_IMAGE) worker_image --base torch

.PHONY: torchserve-image
torchserve-image: ## Build the image of runtime: torchserve, on the worker's
	@$(LOCAL_CLUSTER) build-image $(WORKER_IMAGE) worker_image --base torch
	$(LOCAL_CLUSTER) build-image $(TORCHSERVE_IMAGE) worker_image/torchserve --base $(WORKER_IMAGE)

.PHONY: install
install: ## Build the images and install the chart into the cluster of $KUBECONFIG, else of this checkout
	@$(WITH_TOOLS)
	if [[ $$KUBECONFIG == $(LOCAL_KUBECONFIG) ]]; then
	  $(MAKE) images
	  $(LOCAL_CLUSTER) load-image $(OPERATOR_IMAGE) $(WORKER_IMAGE)
	else
	  echo "$$KUBECONFIG is not the cluster of this checkout: its nodes must be able to pull the images." >&2
	  echo "Name them: make install HELM_ARGS='--set image.repository=… --set workerImage.repository=…'" >&2
	fi
	# The tag stays the same: without this the pods would stay too, with what they were built from before.
	sources=$$(find operator pyproject.toml -name '*.py' -o -name Dockerfile -o -name pyproject.toml | sort | xargs cat | sha256sum)
	helm upgrade --install $(RELEASE) helm/muster --namespace $(NAMESPACE) --create-namespace --wait --timeout 3m \
	  --set-string "podAnnotations.muster\.dev/sources=$${sources:0:16}" $(HELM_ARGS)

##@ Work on it

.PHONY: generate
generate: .venv/ready ## Write again what is generated: the resource definitions, and the chart's copy of them
	@rm -rf crds helm/muster/files/crds
	$(BIN)/muster crds --output crds
	cp -r crds helm/muster/files/crds

.PHONY: clean
clean: ## Remove all that make made in this checkout, the cluster excepted
	@rm -rf .venv build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

.PHONY: help
help: ## This
	@awk 'BEGIN { FS = ":.*## " }
	  /^##@/ { printf "\n%s\n", substr($$0, 5) }
	  /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(
	  f"Python {sys.version.split()[0]} is too old: Muster needs 3.11 or later. make PYTHON=python3.x names another.")'
	if ! $(PYTHON) -c 'import ensurepip' 2>/dev/null; then
	  if [[ $$(id -u) == 0 ]] && command -v apt-get >/dev/null; then
	    apt-get update -qq
	    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y python3-venv
	  else
	    echo "$(PYTHON) cannot make virtual environments. On Debian: sudo apt-get install python3-venv" >&2
	    exit 1
	  fi
	fi
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# The two are made for each other: a torch_xla takes no other torch.
build/xla/ready: worker_image/pyproject.toml constraints.txt | .venv/ready
	@$(PYTHON) -m venv --clear build/xla/venv
	build/xla/venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  torch==2.9.0 torch-xla==2.9.0 pytest hypothesis --editable worker_image
	touch $@

# kubeconform would fetch its schemas from the network; they are made from the source of Kubernetes instead.
build/schemas/ready: $(KUBERNETES_MODULE)/go.mod helm/kubeconform_schemas.py $(wildcard crds/*.yaml) | .venv/ready
	@rm -rf build/schemas
	cd $(KUBERNETES_MODULE)
	go mod download k8s.io/kubernetes
	source=$$(go list -m -f '{{.Dir}}' k8s.io/kubernetes)
	cd $(CURDIR)
	$(BIN)/python helm/kubeconform_schemas.py "$$source/api/openapi-spec/v3" crds build/schemas
	touch $@
