# The two commands of a newcomer: `make report` and `make test`. Both set everything up first, in .venv.
# PLATFORM=tpu or PLATFORM=cuda installs the accelerator's environment instead (see envs/). Later calls keep what is there.
PYTHON ?= python3
VENV ?= .venv
PLATFORM ?= $(or $(patsubst $(VENV)/.ready-%,%,$(firstword $(wildcard $(VENV)/.ready-*))),cpu)
READY := $(VENV)/.ready-$(PLATFORM)
RUN := PATH="$(abspath $(VENV))/bin:$$PATH"

# Some images set it. Then every process compiles the sources of JAX and Tunix anew, for ten seconds.
unexport PYTHONDONTWRITEBYTECODE

# Debian keeps a part of Python's venv module in a package of its own: root gets it, others are told.
VENV_PACKAGE := { [ "$$(id -u)" = 0 ] && apt-get --quiet update && apt-get --quiet --yes install python3-venv; }

# `venv --clear` would empty what a link leads to: an environment that others may use.
NO_LINK = @[ ! -L $(@D) ] || { echo "$(@D) is a link to another environment, which set-up would replace: remove the link, or run make where it leads"; exit 1; }

.PHONY: report test test-all parity benchmark docs carry restore setup setup-tfds setup-cluster setup-tools setup-benchmarks setup-lm-eval setup-gguf lint lock clean generated

report: setup ## everything, up to results/report.html
	$(RUN) snakemake --cores 1 results/report.html

ARCHIVE ?= carry.tar

carry: setup ## what a next session on another machine needs, as one archive: ARCHIVE=carry.tar
	$(RUN) python scripts/carry.py --archive "$(ARCHIVE)"

restore: setup ## takes it into results/ there; then run the same command
	$(RUN) python scripts/carry.py --archive "$(ARCHIVE)" --restore

PYTEST := $(RUN) pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: setup ## the quick tests, about five minutes: every stage on real small input
	$(PYTEST) -m "not slow and not browser and not tpu and not parity and not cluster"

test-all: setup ## every test; those that lack their environment are skipped, and the summary says so
	$(PYTEST)

parity: setup ## what the tests against Hugging Face's implementation need; without it they are skipped
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement envs/parity.txt

setup-cluster: setup ## what profiles/slurm and profiles/kubernetes need
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement envs/cluster.txt

benchmark: setup setup-benchmarks ## speed and memory against stock Tunix, TRL and llama.cpp (hours), and the table in docs/performance.md
	$(RUN) python benchmarks/speed/run.py
	$(RUN) python benchmarks/speed/table.py benchmarks/speed/results.json --page docs/performance.md

docs: .venv-docs/.ready ## the documentation as a site, in site/; a broken link is an error
	.venv-docs/bin/python docs/build.py .docs
	.venv-docs/bin/zensical build --strict --clean

.venv-docs/.ready: envs/docs.txt
	$(NO_LINK)
	$(PYTHON) -m venv --clear .venv-docs
	.venv-docs/bin/pip install --quiet --disable-pip-version-check --require-hashes -r envs/docs.txt
	touch $@

generated: setup ## what the code decides: config.yaml, its JSON schema, docs/configuration.md, parts of other pages, notebooks
	$(RUN) python scripts/generate_config.py
	$(RUN) python docs/generate.py
	$(RUN) python notebooks/build.py

lint: setup ## style of Python and of the workflow
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) snakefmt --check Snakefile rules
	$(RUN) snakemake --lint

setup: $(READY) ## the environment alone

# uv installs in seconds what takes pip minutes; where it can't be had, pip installs the same pinned files. As pip does, it
# trusts whom the system trusts: behind a proxy with a certificate of its own, too.
$(READY): envs/$(PLATFORM).txt envs/uv.txt
	$(NO_LINK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; say which: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(VENV_PACKAGE) || \
	  { echo "Python's venv module is incomplete; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	( $(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r envs/uv.txt && \
	  $(VENV)/bin/uv pip install --system-certs --quiet --python $(VENV)/bin/python --require-hashes -r envs/$(PLATFORM).txt ) || \
	  $(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r envs/$(PLATFORM).txt
	touch $@

setup-tfds: .venv-tfds/.ready ## TensorFlow, for dataset.source tfds (1.7 GB)

.venv-tfds/.ready: envs/tfds.txt $(READY)
	$(NO_LINK)
	$(VENV)/bin/python -m venv --clear .venv-tfds
	$(VENV)/bin/uv pip install --system-certs --quiet --python .venv-tfds/bin/python --require-hashes -r envs/tfds.txt || \
	  .venv-tfds/bin/pip install --quiet --disable-pip-version-check --require-hashes -r envs/tfds.txt
	touch $@

setup-tools: .venv-tools/.ready ## what tests run beside .venv: a kernel for the notebooks, a linter for the Dockerfile

.venv-tools/.ready: envs/tools.txt
	$(NO_LINK)
	$(PYTHON) -m venv --clear .venv-tools
	.venv-tools/bin/pip install --quiet --disable-pip-version-check --require-hashes -r envs/tools.txt
	touch $@

setup-benchmarks: .venv-benchmarks/.ready ## TRL, PyTorch and llama.cpp, for the benchmark (1.6 GB; it builds llama.cpp)

.venv-benchmarks/.ready: envs/benchmarks.txt $(READY)
	$(NO_LINK)
	$(VENV)/bin/python -m venv --clear .venv-benchmarks
	.venv-benchmarks/bin/pip install --quiet --disable-pip-version-check --requirement envs/benchmarks.txt
	touch $@

setup-lm-eval: .venv-lm-eval/.ready ## lm-evaluation-harness, to compare graders (0.6 GB)

.venv-lm-eval/.ready: envs/lm-eval.txt $(READY)
	$(NO_LINK)
	$(VENV)/bin/python -m venv --clear .venv-lm-eval
	.venv-lm-eval/bin/pip install --quiet --disable-pip-version-check --requirement envs/lm-eval.txt
	touch $@

setup-gguf: .venv-gguf/.ready ## llama.cpp and its converter, for GGUF files (1.2 GB; it builds llama.cpp)

# Without llama.cpp's part for images, which is nearly half of the build.
.venv-gguf/.ready: envs/gguf.txt $(READY)
	$(NO_LINK)
	$(VENV)/bin/python -m venv --clear .venv-gguf
	CMAKE_ARGS=-DLLAVA_BUILD=OFF .venv-gguf/bin/pip install --quiet --disable-pip-version-check --requirement envs/gguf.txt
	touch $@

# Pins requirements.in anew, for Python 3.11 and up on every platform, and writes the same as conda YAMLs.
lock: setup
	$(RUN) envs/lock

clean: ## all environments, the site and all results
	rm -rf $(VENV) .venv-* .docs .cache site results/* .snakemake
	git checkout -- results
