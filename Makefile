# The same few verbs at home and in CI. START HERE: `make demo`, then `make test`.
PYTHON ?= python3
VENV   := .venv
DEMO   := .venv-demo
OLDEST := .venv-oldest
NEWEST := .venv-newest
# PYENV_VERSION: which version pyenv's python3.x starts; no meaning to others.
PYTHON_OLDEST ?= PYENV_VERSION=3.10 python3.10
PYTHON_NEWEST ?= $(shell for v in 3.13 3.12; do \
  PYENV_VERSION=$$v python$$v -V >/dev/null 2>&1 && echo PYENV_VERSION=$$v python$$v && break; done)
WITHOUT_TORCH := tests/runtime tests/house/test_runtime_import.py

.PHONY: help demo test test-oldest test-newest test-avx2 soak check bench gpu nano clean

help:  ## this list
	@grep -E '^[a-z0-9-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 14

$(DEMO)/ready: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet '.[cpu,video]'
	touch $@

demo: $(DEMO)/ready  ## install the runtime alone, turn a sample photo into a depth map, say where it is
	$(DEMO)/bin/fiffdepth infer examples/coffee.jpg -o demo_out --overwrite

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -e '.[cpu,export,training,teacher,cluster,benchmarks,dev]'
	touch $@

# Folders in the order of what they cost, so that neither process ends long before the other.
IN_ORDER := tests/training tests/benchmarks tests/export tests/fuzz tests/house tests/runtime

test: $(VENV)/ready  ## what every change must pass: at most 8 minutes on 2 cores
	$(VENV)/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(IN_ORDER)

# Both ends of every range in pyproject.toml, for what a robot installs: the runtime and its engines, without torch.
$(OLDEST)/ready: pyproject.toml
	@$(PYTHON_OLDEST) -V || { echo "No Python 3.10 here: make test-oldest PYTHON_OLDEST=/path/to/python3.10"; exit 2; }
	$(PYTHON_OLDEST) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/python -m uv pip install --quiet --python $(OLDEST)/bin/python \
	  --resolution lowest-direct -e '.[cpu,openvino,test-runtime]'
	touch $@

test-oldest: $(OLDEST)/ready  ## the runtime's tests on Python 3.10 with the lowest versions that pyproject.toml admits
	$(OLDEST)/bin/python -m pytest -q $(WITHOUT_TORCH)

test-newest:  ## the same on Python 3.13 (or 3.12) with the newest versions of today
	@$(PYTHON_NEWEST) -V || { echo "No Python 3.13 or 3.12 here: make test-newest PYTHON_NEWEST=/path/to/python3.13"; exit 2; }
	$(PYTHON_NEWEST) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --upgrade -e '.[cpu,openvino,test-runtime]' --upgrade-strategy eager
	$(NEWEST)/bin/python -m pytest -q $(WITHOUT_TORCH)

# What a CPU with AVX2 and without units for half precision computes, on any x86 CPU. OpenVINO knows its variable from
# 2026.4 on, and wants oneDNN's beside it; ONNX Runtime has none.
AVX2 := ONEDNN_MAX_CPU_ISA=AVX2 OV_CPU_MAX_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2

test-avx2: $(VENV)/ready  ## engines, exports and benchmarks as on a CPU with AVX2 alone, without units for half precision
	$(AVX2) $(VENV)/bin/python -m pytest -q tests/runtime tests/export tests/benchmarks

soak: $(VENV)/ready test-oldest test-newest test-avx2  ## the long versions: large fuzz counts, kill tests; before an issue is closed
	$(VENV)/bin/python -m pytest -q -m soak tests

check: $(VENV)/ready  ## lint, types, who imports whom
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: $(VENV)/ready  ## latency of the bundled model on this machine
	$(VENV)/bin/python -m benchmarks.latency

# With whatever Python has: it installs nothing, and a step whose libraries are missing is left out.
gpu:  ## what only an NVIDIA GPU can show, in at most 8 minutes; without one: make gpu REHEARSE=1
	$(or $(wildcard $(VENV)/bin/python),$(PYTHON)) -m benchmarks.gpu_proof $(if $(REHEARSE),--rehearse) \
	  $(if $(ENGINE),--engine $(ENGINE)) $(if $(WORK),--work $(WORK)) $(if $(MINUTES),--minutes $(MINUTES))

# Its teacher comes first, which becomes its prior and labels the photos, and both learn from the teacher's
# scenes. Each line goes on where it was stopped.
nano: $(VENV)/ready  ## train and export the bundled model again, with photos: make nano PHOTOS=DIR (resumes)
	$(VENV)/bin/python -m training.scene_teacher all --run runs/teacher $(if $(PHOTOS),--photos $(PHOTOS))
	mkdir -p runs/nano && ln -sfn ../teacher/scenes ../teacher/held_out runs/nano/
ifdef PHOTOS
	$(VENV)/bin/python -m training.labelling --images $(PHOTOS) --teacher runs/teacher/teacher.safetensors \
	  --out runs/labels
endif
	$(VENV)/bin/python -m training.nano all --run runs/nano --prior runs/teacher/teacher.safetensors \
	  $(if $(PHOTOS),--photos $(PHOTOS) --labels runs/labels)
	$(VENV)/bin/python -m export.build_engines runs/nano/nano.safetensors -o fiffdepth_rt/nano \
	  --precision fp32 --golden-size 256 --licence-file LICENSE --no-plans --overwrite

clean:
	rm -rf $(VENV) $(DEMO) $(OLDEST) $(NEWEST) demo_out build dist *.egg-info
