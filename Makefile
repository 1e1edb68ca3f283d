# Each target makes its environment when it is missing: Python 3.11, make and git are enough.
PYTHON := $(or $(PYTHON),$(shell command -v python3.11 || echo python3))
VENV ?= .venv
# torch and its relatives live apart, so that the tests cannot come to need them.
PEERS_VENV ?= .venv-peers
# onnxruntime-gpu excludes onnxruntime.
PLACEMENT_VENV ?= .venv-placement
# What builds, checks and lists; and what an image for CPUs holds.
RELEASE_VENV ?= .venv-release
SERVED_VENV ?= .venv-served
# tritonclient and kserve, which know the server by its ports only.
INTEROP_VENV ?= .venv-interop
# Ray, 500 MB.
RAY_VENV ?= .venv-ray
# Versions to hold fast, e.g. PINS='onnxruntime==1.31.1'
PINS ?=
# As many processes as cores; PARALLEL= runs the tests one after the other.
PARALLEL ?= -n auto --dist worksteal
# Model files and expected numbers too large to commit; without them the tests that need them are skipped.
ifneq ($(wildcard ../shared),)
export ONNX_ATTRIBUTION_TEST_DATA ?= $(abspath ../shared)
endif
export PATH := $(abspath $(VENV)/bin):$(PATH)

.PHONY: demo test coverage conformance completeness fuzz peers wild placement interop scale browser node check bench soak \
	proto docs example-report image locks sbom licences release
demo: $(VENV)/stamp
	python -m onnx_attribution.client.demo
test: $(VENV)/stamp
	python -m pytest -q $(PARALLEL)
# The tests again, with the share of lines and branches that they reach; what subprocesses do is not counted.
coverage: $(VENV)/stamp
	python -m pytest -q $(PARALLEL) --cov
conformance: $(VENV)/stamp
	python -m tests.conformance
completeness: $(VENV)/stamp
	python -m tests.conformance.completeness
fuzz: $(VENV)/stamp
	python -m tests.fuzz $(FUZZ)
peers: $(PEERS_VENV)/stamp
	$(PEERS_VENV)/bin/python -m tests.peers
wild: $(VENV)/stamp
	python -m tests.wild
# Which nodes would run on CUDA; needs gcc and no device.
placement: $(PLACEMENT_VENV)/stamp
	$(PLACEMENT_VENV)/bin/python -m tests.placement $(PLACEMENT)
# The clients of others against `serve --kserve`, each in a process of its own: their messages have the same names.
interop: $(VENV)/stamp $(INTEROP_VENV)/stamp
	@for client in triton kserve; do \
		$(INTEROP_VENV)/bin/python -m pytest -q -rs --noconftest -W ignore tests/interop/test_$$client.py; \
		status=$$?; [ $$status = 0 ] || [ $$status = 5 ] || exit $$status; done # 5: skipped, with the reason
# Batches and serving on a Ray cluster of two nodes in this machine.
scale: $(RAY_VENV)/stamp
	$(RAY_VENV)/bin/python -m pytest -q -rs -W ignore tests/cluster
# Built files in Chromium, with onnxruntime-web; what is missing is said, and skips the tests.
browser: $(VENV)/stamp .browser/stamp
	python -m pytest -q -rs tests/browser
# The example in Node against a server; what is missing is said, and skips the tests.
node: $(VENV)/stamp examples/node/node_modules/stamp
	python -m pytest -q -rs tests/node
check: $(VENV)/stamp
	.ci/check
# Beside torch and Captum; BENCH='--quick' or '--only gradients', see python -m benchmarks --help.
bench: $(PEERS_VENV)/stamp
	$(PEERS_VENV)/bin/python -m benchmarks $(BENCH)
# What is promised of a server, beside what it does for three to four minutes; SOAK='--seconds 1800' or '--only overload'.
soak: $(VENV)/stamp
	python -m benchmarks.soak $(SOAK)
proto: $(VENV)/stamp
	.ci/proto src
# The generated pages.
docs: $(VENV)/stamp
	onnx-attribution ops --markdown > docs/operators.md
	onnx-attribution methods --markdown > docs/methods.md
	python -m onnx_attribution.errors > docs/errors.md
	python -m onnx_attribution.client.audit.metrics > docs/metrics.md

# The example of docs/audit.md: a report on the digits model of the tests.
example-report: $(VENV)/stamp
	rm -rf docs/audit
	onnx-attribution audit tests/data/digits/digits.onnx --data tests/data/digits/digits.npz --rows 0:50 --out docs/audit \
		--methods gradient,neuron-ig,deeplift-rescale,guided-backprop,grad-cam,full-grad
	rm -r docs/audit/state docs/audit/report.json docs/audit/attributions.parquet

# The steps of deploy/Dockerfile, and a server of what they made: no container engine is needed.
image: $(VENV)/stamp
	python -m tests.image
# The versions and hashes that images install.
LOCK = $(RELEASE_VENV)/bin/uv pip compile --quiet --no-config --upgrade --generate-hashes --no-header --no-annotate \
	--python $(RELEASE_VENV)/bin/python --python-platform linux
locks: $(RELEASE_VENV)/stamp
	sed -n 's/^requires = \["\(.*\)"\]/\1/p' pyproject.toml | $(LOCK) --python-version 3.11 - -o deploy/locks/build.txt
	$(LOCK) --python-version 3.11 pyproject.toml --extra server -o deploy/locks/cpu.txt
	$(LOCK) --python-version 3.12 pyproject.toml --extra gpu -o deploy/locks/gpu.txt
# What the image for CPUs holds, as CycloneDX.
sbom: $(RELEASE_VENV)/stamp
	rm -rf $(SERVED_VENV)
	$(PYTHON) -m venv $(SERVED_VENV)
	$(SERVED_VENV)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r deploy/locks/cpu.txt
	$(SERVED_VENV)/bin/python -m pip install -q --disable-pip-version-check --no-deps .
	$(SERVED_VENV)/bin/python -m pip uninstall -q --yes pip setuptools
	mkdir -p dist
	$(RELEASE_VENV)/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application \
		--output-reproducible --output-format JSON -o dist/onnx-attribution.cdx.json $(SERVED_VENV)/bin/python
licences: $(RELEASE_VENV)/stamp
	rm -rf $(SERVED_VENV)
	$(PYTHON) -m venv $(SERVED_VENV)
	$(SERVED_VENV)/bin/python -m pip install -q --disable-pip-version-check '.[server,otel,plot,progress,references,audit,watch]'
	$(RELEASE_VENV)/bin/pip-licenses --python $(SERVED_VENV)/bin/python --from=mixed --format=json | \
		$(RELEASE_VENV)/bin/python -m tests.release.licences > docs/licences.md
# Both distributions, ready to publish: built, checked, installed, and the README's lines tried. URL: where the tree can be
# read; the README that they hold links there, and without it has no links to files.
release: $(VENV)/stamp $(RELEASE_VENV)/stamp
	rm -rf dist/onnx_attribution-* dist/tree
	mkdir -p dist/tree
	git ls-files -z | xargs -0 cp --parents --no-dereference --target-directory dist/tree
	python -m tests.release.readme dist/tree/README.md $(URL)
	$(RELEASE_VENV)/bin/python -m build --outdir dist dist/tree
	rm -rf dist/tree
	$(RELEASE_VENV)/bin/twine check --strict dist/onnx_attribution-*
	python -m tests.release dist/onnx_attribution-*

$(VENV)/stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[dev]' $(PINS)
	@touch $@

# torch comes first and alone: asked for by its version only, it is the build for the CPU.
$(PEERS_VENV)/stamp: pyproject.toml
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install -q --disable-pip-version-check torch==2.13.0
	$(PEERS_VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[server,peers]' $(PINS)
	@touch $@

$(RELEASE_VENV)/stamp: Makefile
	$(PYTHON) -m venv $(RELEASE_VENV)
	$(RELEASE_VENV)/bin/python -m pip install -q --disable-pip-version-check \
		'build>=1.3' 'twine>=6' 'cyclonedx-bom>=7' 'pip-licenses>=5' 'uv>=0.9'
	@touch $@

# What is not to be had here is missing then, and `make placement` says so.
$(PLACEMENT_VENV)/stamp: pyproject.toml
	$(PYTHON) -m venv $(PLACEMENT_VENV)
	$(PLACEMENT_VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[common]'
	-$(PLACEMENT_VENV)/bin/python -m pip install -q --disable-pip-version-check --no-deps onnxruntime-gpu==1.31.1
	-$(PLACEMENT_VENV)/bin/python -m pip install -q --disable-pip-version-check --no-deps \
		nvidia-cuda-runtime~=13.0 nvidia-cuda-crt~=13.0
	@touch $@

$(RAY_VENV)/stamp: pyproject.toml
	$(PYTHON) -m venv $(RAY_VENV)
	$(RAY_VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[ray]' 'pytest>=8.4' 'pytest-asyncio>=1.2' pandas
	@touch $@

# What is not to be had here is missing then, and `make interop` says so.
$(INTEROP_VENV)/stamp: pyproject.toml
	$(PYTHON) -m venv $(INTEROP_VENV)
	$(INTEROP_VENV)/bin/python -m pip install -q --disable-pip-version-check 'pytest>=8.4' 'pytest-asyncio>=1.2' numpy protobuf
	-$(INTEROP_VENV)/bin/python -m pip install -q --disable-pip-version-check 'tritonclient[grpc,http]>=2.60'
	-$(INTEROP_VENV)/bin/python -m pip install -q --disable-pip-version-check 'kserve>=0.15'
	@touch $@

.browser/stamp: tests/browser/package.json
	@mkdir -p .browser
	cp $< .browser/
	if command -v npm > /dev/null; then \
		npm install --prefix .browser --ignore-scripts --no-audit --no-fund && touch $@ || \
		echo "npm cannot install what the browser tests need: they are skipped"; fi

examples/node/node_modules/stamp: examples/node/package.json
	@if command -v npm > /dev/null; then \
		npm install --prefix examples/node --ignore-scripts --no-audit --no-fund --no-package-lock && touch $@ || \
		echo "npm cannot install what the example in Node needs: its tests are skipped"; fi
