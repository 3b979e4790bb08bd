# `just` lists these.
default:
    @just --list

# An environment with everything, without CUDA.
setup:
    python3 -m venv .venv
    .venv/bin/pip install --no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0
    .venv/bin/pip install -e '.[all,dev]'
    .venv/bin/pre-commit install

# The linters.
lint:
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
    .venv/bin/lint-imports

# The tests: all, or those that are named.
test *arguments:
    OMP_NUM_THREADS=1 .venv/bin/python -m pytest {{arguments}}

# The Android app, built without Gradle and the NDK, and checked: minutes, and 0.46 GB of downloads at first.
apk out="omni-demo.apk":
    .venv/bin/python android_demo/ci/apk.py --out {{out}}

# A spoken turn of the ARM64 wheel under emulation, compared with x86: minutes.
arm *arguments:
    .venv/bin/python tests/arm/check.py {{arguments}}

# What the continuous integration runs.
ci:
    .ci/run

# Generated documentation: the commands' page, and the README's picture of a reply.
docs:
    .venv/bin/python scripts/make_cli.py
    .venv/bin/omni-edge run --audio examples/turn-on-the-kitchen-light.wav --seed 1 --plot docs/reply-nano.svg
