# make demo   the main job: pre-train, adapt, dispose, attack, report (a few minutes on two CPU cores)
# make quick  what to run while working (under 2 minutes)
# make test   every check but the slow ones (about ten minutes); a browser test is skipped where there is no browser
# make slow   walks and soaks
# make soak   a job that is killed at 20 random moments: the same weights and attacks, bit for bit
# make mutations  break eleven formulas, one at a time, and see the quick tests notice
# All make their own environment in .venv; a repeated call starts at once.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
INSTALL := $(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
OFFLINE := HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
OUTPUT ?= outputs/demo

.PHONY: demo quick test slow soak mutations lint clean

demo: $(VENV)/.installed
	$(OFFLINE) $(RUN)/python scripts/dtl_finetune.py --novel none --output_dir $(OUTPUT) $(ARGS)

PYTEST := $(OFFLINE) OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -q

test: $(VENV)/.installed-test lint
	$(PYTEST) -m "not slow" $(ARGS)

quick: $(VENV)/.installed-test
	$(PYTEST) --quick $(ARGS)

slow: $(VENV)/.installed-test
	$(PYTEST) -m slow $(ARGS)

soak: $(VENV)/.installed-test
	$(OFFLINE) OMP_NUM_THREADS=1 $(RUN)/python -m pytest -q -s -m slow tests/pipeline/test_soak.py $(ARGS)

mutations: $(VENV)/.installed-test
	$(OFFLINE) $(RUN)/python tests/mutations.py

lint: $(VENV)/.installed-test
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

# torch comes first: a range, or another package that asks for torch, would pull a build with gigabytes of GPU libraries
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hf_dtl needs Python 3.11 or newer; try: make PYTHON=python3.11")'
	@echo "Installing into $(VENV) (about two minutes, once) ..."
	@test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) "$$(grep '^torch==' constraints.txt)"
	@$(INSTALL) --editable '.[space]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@$(INSTALL) --editable '.[space,test]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
