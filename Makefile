# Each target makes what it needs first: on a fresh machine `make demo` and `make test` are enough.

PYTHON ?= python3
VENV   := $(CURDIR)/.venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
MSGS   := $(VENV)/.messages
ARGS   ?=
SMALL  := emotion_perception/data/small_world

# This environment carries its own ROS 2. Half of another one would only break it.
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH PYTHONPATH LD_LIBRARY_PATH COLCON_PREFIX_PATH
unexport ROS_DISTRO _ROS_WHEELS_BOOTSTRAP_COMPLETE
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
export PATH := $(BIN):$(PATH)

.PHONY: help setup demo test test-all bench small-models lint clean

help:
	@echo "make demo       the whole path on a drawn scene and on two photographs; ARGS=\"--help\" shows what else it plays"
	@echo "make test       all tests but the long ones"
	@echo "make test-all   the long ones too"
	@echo "make bench      the engine beside the ways of asking that others offer; some minutes"
	@echo "make small-models   train what the demo uses, on the drawn world, and measure it; an hour"
	@echo "make lint       format, lint, types"
	@echo "make setup      only make the environment in .venv"
	@echo "make clean      remove the environment and everything made"

setup: $(MSGS)

$(READY): requirements/development.txt requirements/robot.txt requirements/face.txt requirements/research.txt requirements/ros-wheels.txt requirements/no-deps.txt requirements/tested.txt setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"Python {v[0]}.{v[1]} will not do: call make with PYTHON=python3.11, 3.12 or 3.13")'
	@command -v c++ >/dev/null || { echo "no C++ compiler, which the ROS messages need: apt install g++"; exit 1; }
	@echo "== making .venv: about 6 GB and 3 minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -r requirements/development.txt
	$(BIN)/pip install --quiet --no-deps -r requirements/no-deps.txt
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'import cv2' || { echo "OpenCV lacks system libraries: apt install libgl1 libglib2.0-0"; exit 1; }
	touch $@

# The ROS wheels' CMake files name the Python of the machine that built them: point them at ours.
# The messages go where the wheels keep theirs, so that nothing needs to be sourced.
$(MSGS): $(READY) $(wildcard emotion_perception_msgs/*/* emotion_perception_msgs/CMakeLists.txt emotion_perception_msgs/package.xml)
	@echo "== building the messages"
	@cd $(VENV) && grep -rlE '/opt/python/cp[0-9]+' share lib --include='*.cmake' | xargs -r sed -i -E \
	  -e "s#/opt/python/cp[^/]*/include/python3\.[0-9]+#$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')#g" \
	  -e "s#/opt/python/cp[^/]*/lib/python3\.[0-9]+/site-packages#$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')#g"
	AMENT_PREFIX_PATH=$(VENV) CMAKE_PREFIX_PATH=$(VENV) $(BIN)/colcon --log-base $(VENV)/log build \
	  --base-paths emotion_perception_msgs --build-base $(VENV)/build --merge-install --install-base $(VENV) \
	  --cmake-args -DPython3_EXECUTABLE=$(BIN)/python -Wno-unused-cli
	touch $@

demo: $(MSGS)
	$(BIN)/emotion-perception demo $(ARGS)

test: $(MSGS)
	$(BIN)/pytest -m "not slow" $(ARGS)

test-all: $(MSGS)
	$(BIN)/pytest $(ARGS)

bench: $(READY)
	$(BIN)/emotion-perception bench --page docs/benchmarks.md $(ARGS)

# What ships was made by this, on two cores. xargs fails if one of its commands does.
small-models: $(READY)
	$(BIN)/emotion-perception world detector out/small/yolo.pt
	printf '%s\n' 0 1 2 | OMP_NUM_THREADS=1 xargs -P 2 -I {} \
	  $(BIN)/emotion-perception world train out/small/{}/vlm --seed {}
	$(BIN)/emotion-perception world report out/small/0/vlm out/small/1/vlm out/small/2/vlm --page docs/world.md
	rm -rf $(SMALL)/vlm
	cp -r out/small/0/vlm out/small/yolo.pt $(SMALL)/

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build install log out *.egg-info
