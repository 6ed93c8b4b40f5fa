#!/usr/bin/env bash
# Runs the tests; makes the environment where it is missing.
#   bash scripts/run_tests.sh                      everything
#   bash scripts/run_tests.sh -k name              and any other arguments of pytest
#   bash scripts/run_tests.sh tests/test_lr.py     one file
# Every process of MindSpore computes on one core, so the tests run in two processes where there are two cores.
# ZOO_TEST_WORKERS: another number of processes. ZOO_TEST_LIMIT: seconds after which the run is ended, 5000 unless given.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
. "$(dirname -- "$0")/_env.sh"

prepare_environment
need=(pytest==9.2.0) modules=pytest workers=()
cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null) || cores=1
if [ -z "${ZOO_TEST_WORKERS:-}" ] && [ "$cores" -gt 1 ]; then
    # in an environment of the user's own nothing is installed, so there only if pytest-xdist is there already
    if [ "${ZOO_VENV:-}" != none ] || "$PY" -c 'import xdist' 2>/dev/null; then ZOO_TEST_WORKERS=2; fi
fi
if [ "${ZOO_TEST_WORKERS:-1}" != 1 ]; then
    need+=(pytest-xdist==3.8.0) modules=pytest,xdist workers=(-n "$ZOO_TEST_WORKERS" --dist loadfile)
fi
if ! "$PY" -c "import $modules" 2>/dev/null; then
    [ "${ZOO_VENV:-}" != none ] || fail "ZOO_VENV=none, and $PY lacks one of $modules: pip install ${need[*]}"
    pip_install "${need[@]}" || fail "pip could not install ${need[*]}."
fi
# ONNX files are tested where these packages are, for which these versions have wheels on Python 3.10, 3.11 and 3.12.
onnx=(onnx==1.23.2 onnxruntime==1.23.2)
if [ "${ZOO_VENV:-}" != none ] && ! "$PY" -c 'import onnx, onnxruntime' 2>/dev/null; then
    pip_install -c "$REQUIREMENTS" "${onnx[@]}" || echo "Without ${onnx[*]} the tests of ONNX files are skipped." >&2
fi

TMPDIR=$(mktemp -d)
export TMPDIR GLOG_v="${GLOG_v:-3}"
trap 'rm -rf -- "$TMPDIR"' EXIT

what=("$ROOT/tests")
for argument in "$@"; do
    case "$argument" in -*) ;; *.py | *.py::*) what=() ;; esac # files are named: only those
done
limit=()
if command -v timeout >/dev/null; then
    limit=(timeout -k 30 "${ZOO_TEST_LIMIT:-5000}")
    [ ! -t 0 ] || limit=(timeout --foreground -k 30 "${ZOO_TEST_LIMIT:-5000}") # Ctrl-C reaches pytest
fi
code=0
${limit[@]+"${limit[@]}"} "$PY" -m pytest -c "$ROOT/tests/pytest.ini" --rootdir "$ROOT/tests" \
    ${workers[@]+"${workers[@]}"} ${what[@]+"${what[@]}"} "$@" || code=$?
case "$code" in 124 | 137) echo "error: the tests did not end within ${ZOO_TEST_LIMIT:-5000} s." >&2 ;; esac
exit "$code"
