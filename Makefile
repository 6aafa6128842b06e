# The same few verbs at home and in CI. START HERE: `make demo`, then `make test`.
PYTHON ?= python3
VENV   := .venv
DEMO   := .venv-demo

.PHONY: help demo test soak check bench nano clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 10

$(DEMO)/ready: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet '.[cpu]'
	touch $@

demo: $(DEMO)/ready  ## install the runtime alone, turn a sample photo into a depth map, say where it is
	$(DEMO)/bin/fiffdepth infer examples/coffee.jpg -o demo_out --overwrite

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -e '.[cpu,export,training,ray,benchmarks,dev]'
	touch $@

test: $(VENV)/ready  ## what every change must pass: at most 8 minutes on 2 cores
	$(VENV)/bin/python -m pytest -q tests

soak: $(VENV)/ready  ## the long versions: large fuzz counts, kill tests; before an issue is closed
	$(VENV)/bin/python -m pytest -q -m soak tests

check: $(VENV)/ready  ## lint and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(VENV)/ready  ## latency of the bundled model on this machine
	$(VENV)/bin/python -m benchmarks.latency

nano: $(VENV)/ready  ## train and export the bundled model again, with photos: make nano PHOTOS=DIR (resumes)
	$(VENV)/bin/python -m training.nano all --run runs/nano $(if $(PHOTOS),--photos $(PHOTOS))
	$(VENV)/bin/python -m export.build_engines runs/nano/nano.safetensors -o fiffdepth_rt/nano \
	  --precision fp32 --licence-file LICENSE --overwrite

clean:
	rm -rf $(VENV) $(DEMO) demo_out build dist *.egg-info
