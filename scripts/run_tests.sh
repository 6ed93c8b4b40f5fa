#!/usr/bin/env bash
# Runs the tests; makes the environment where it is missing.
#   bash scripts/run_tests.sh                      the ordinary tests
#   bash scripts/run_tests.sh --long               only networks of full size compiled, READMEs command by command
#   bash scripts/run_tests.sh --torture            only kills, full disks, hostile files, thousands of mistakes
#   bash scripts/run_tests.sh --devices            only what is compiled for Ascend and GPU over stand-in libraries
#   bash scripts/run_tests.sh --all                everything
#   bash scripts/run_tests.sh -k name              and any other arguments of pytest
#   bash scripts/run_tests.sh tests/test_lr.py     one file
#   bash scripts/run_tests.sh --help               this text
# Every process of MindSpore computes on one core, and tests wait for others that they start: so there is one process more
# than there are cores, if each can have 4 GB of memory.
# ZOO_TEST_WORKERS: another number of processes. ZOO_TEST_LIMIT: seconds after which the run is ended, 5000 unless given
# (10000 with --all). The last lines say what was not run, and why.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"

seconds=5000
duration="The ordinary tests: about ten minutes on two quiet cores."
for argument in "$@"; do
    case "$argument" in
        -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
        --all) seconds=10000 duration="All tests: an hour or two on two quiet cores." ;;
        --torture) duration="The torture tests: up to 40 minutes." ;;
        --devices | --long) duration="The tests of the part ${argument#--}: up to 30 minutes." ;;
        -k | *.py | *.py::*) duration="Some of the tests." ;;
    esac
done
. "$(dirname -- "$0")/_env.sh"

prepare_environment
need=(pytest==9.2.0) modules=pytest workers=()
cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null) || cores=1
if [ -z "${ZOO_TEST_WORKERS:-}" ] && [ "$cores" -gt 1 ]; then
    # in an environment of the user's own nothing is installed, so there only if pytest-xdist is there already
    if [ "${ZOO_VENV:-}" != none ] || "$PY" -c 'import xdist' 2>/dev/null; then
        room=$(awk '/^MemAvailable:/ { print int($2 / 4000000) }' /proc/meminfo 2>/dev/null) || room=''
        ZOO_TEST_WORKERS=$((cores + 1))
        [ "${room:-$ZOO_TEST_WORKERS}" -ge "$ZOO_TEST_WORKERS" ] || ZOO_TEST_WORKERS=$((room > 1 ? room : 1))
    fi
fi
if [ "${ZOO_TEST_WORKERS:-1}" != 1 ]; then
    need+=(pytest-xdist==3.8.0) modules=pytest,xdist workers=(-n "$ZOO_TEST_WORKERS" --dist loadfile --no-loadscope-reorder)
fi
if ! "$PY" -c "import $modules" 2>/dev/null; then
    [ "${ZOO_VENV:-}" != none ] || fail "ZOO_VENV=none, and $PY lacks one of $modules: pip install ${need[*]}"
    pip_install "${need[@]}" || fail "pip could not install ${need[*]}."
fi
# Properties are tested where hypothesis is, and what TensorBoard shows where that is.
more=(hypothesis==6.170.15 tensorboard==2.21.0)
if [ "${ZOO_VENV:-}" != none ] && ! "$PY" -c 'import hypothesis, tensorboard' 2>/dev/null; then
    pip_install -c "$REQUIREMENTS" "${more[@]}" || echo "Without ${more[*]} the tests that need them are skipped." >&2
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
    limit=(timeout -k 30 "${ZOO_TEST_LIMIT:-$seconds}")
    [ ! -t 0 ] || limit=(timeout --foreground -k 30 "${ZOO_TEST_LIMIT:-$seconds}") # Ctrl-C reaches pytest
fi
echo "$duration"
code=0
${limit[@]+"${limit[@]}"} "$PY" -m pytest -c "$ROOT/tests/pytest.ini" --rootdir "$ROOT/tests" \
    ${workers[@]+"${workers[@]}"} ${what[@]+"${what[@]}"} "$@" || code=$?
case "$code" in 124 | 137) echo "error: the tests did not end within ${ZOO_TEST_LIMIT:-$seconds} s." >&2 ;; esac
exit "$code"
