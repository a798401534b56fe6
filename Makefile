# make studio   opens the studio          make test   style and tests
# PYTHON and VENV can be given: make test PYTHON=python3.12 VENV=/tmp/venv
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# Tests run in so many processes, each file in one of them.
WORKERS ?= 2

BIN := $(VENV)/bin
APP_FILES := requirements.txt
DEV_FILES := requirements.txt requirements/train.txt requirements/evaluate.txt requirements/dev.txt
# Installed with --no-deps; the file says why.
SYNTH_FILE := requirements/synth.txt

# A stamp is named after the content of what was installed, not after its date: a new checkout with the same requirements
# finds its environment ready, and changed requirements are installed again.
APP_STAMP := $(VENV)/.app-$(shell cat $(APP_FILES) | cksum | cut -d' ' -f1)
DEV_STAMP := $(VENV)/.dev-$(shell cat $(DEV_FILES) $(SYNTH_FILE) | cksum | cut -d' ' -f1)
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check

.PHONY: help studio test install install-dev clean
.DELETE_ON_ERROR:

help:
	@echo "make studio   make $(VENV), install what the app needs, open the studio (options: ARGS=\"--port 8000\")"
	@echo "make test     make $(VENV), install everything, run ruff and pytest (options: ARGS=\"-k masks\")"
	@echo "make clean    remove $(VENV) and caches"

studio: $(APP_STAMP)
	$(BIN)/python app.py $(ARGS)

test: $(DEV_STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

install: $(APP_STAMP)
install-dev: $(DEV_STAMP)

# Not a file: pip is asked for, because an interrupted `python -m venv` leaves a python without one.
.PHONY: venv
venv:
	@$(PYTHON) -c 'import sys; (3, 10) <= sys.version_info[:2] <= (3, 13) or sys.exit("Python 3.10 to 3.13 is needed, and $(PYTHON) is %d.%d: name another one, as in make PYTHON=python3.12." % sys.version_info[:2])'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)

# The order-only prerequisite is always made, but never makes a stamp old.
$(APP_STAMP): | venv
	$(PIP_INSTALL) -r requirements.txt
	-$(BIN)/python -m vampnet compile
	@rm -f $(VENV)/.app-*
	@touch $@

$(DEV_STAMP): | venv
	$(PIP_INSTALL) $(foreach file,$(DEV_FILES),-r $(file))
	$(PIP_INSTALL) --no-deps -r $(SYNTH_FILE)
	-$(BIN)/python -m vampnet compile
	@rm -f $(VENV)/.dev-* $(VENV)/.app-*
	@touch $@ $(APP_STAMP)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
