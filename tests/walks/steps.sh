# Sourced by the walks. A walk does what one kind of user does, in a temporary folder with inputs
# of its own making; it prints each command, checks its result, and exits 1 at the first surprise.
#
# PYTHON=… names the interpreter (default: the checkout's .venv, else python3).
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
if [ -z "${PYTHON:-}" ]; then
  PYTHON=$ROOT/.venv/bin/python
  [ -x "$PYTHON" ] || PYTHON=$(command -v python3)
fi
WALK=$(mktemp -d "${TMPDIR:-/tmp}/rtmtass-walk.XXXXXX")
mkdir "$WALK/tools"
for tool in "rtmtass:-m rtmtass" "python:" "make_sounds:'$HERE/make_sounds.py'" "check:'$HERE/check.py'"; do
  printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$PYTHON" "${tool#*:}" > "$WALK/tools/${tool%%:*}"
done
chmod +x "$WALK"/tools/*
export PATH=$WALK/tools:$PATH PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
STARTED=()  # processes of this walk that may still run

leave() {
  local code=$?
  for pid in ${STARTED[@]+"${STARTED[@]}"}; do kill "$pid" 2> /dev/null || true; done
  cd /
  rm -rf "$WALK"
  exit "$code"
}
trap leave EXIT

surprise() {
  printf '\nSURPRISE: %s\n' "$*"
  [ ! -s "$WALK/out" ] || { echo '--- stdout'; tail -n 30 "$WALK/out"; }
  [ ! -s "$WALK/err" ] || { echo '--- stderr'; tail -n 30 "$WALK/err"; }
  exit 1
}

# say TEXT: what the user wants next.
say() { printf '\n# %s\n' "$*"; }

_execute() {
  printf '$ %s\n' "$*"
  code=0
  bash -o pipefail -c "$*" > "$WALK/out" 2> "$WALK/err" || code=$?
  if grep -q '^Traceback' "$WALK/out" "$WALK/err"; then surprise "a traceback"; fi
}

# run 'COMMAND': has to exit with 0.
run() {
  _execute "$@"
  [ "$code" = 0 ] || surprise "exit code $code, expected 0"
}

# prints 'TEXT': the last command's stdout or stderr has to hold it.
prints() {
  grep -qF -- "$1" "$WALK/out" "$WALK/err" || surprise "it doesn't print '$1'"
}

# refuses CODE 'TEXT' 'COMMAND': has to exit with CODE, and say TEXT.
refuses() {
  _execute "$3"
  [ "$code" = "$1" ] || surprise "exit code $code, expected $1"
  prints "$2"
}

# holds 'TEST': a condition in shell, checked without a word.
holds() { (eval "$1") || surprise "not true: $1"; }

# cd_work NAME: an empty folder to work in.
cd_work() { mkdir "$WALK/$1" && cd "$WALK/$1"; }

reached_the_end() { printf '\n%s: no surprises\n' "$(basename "$0" .sh)"; }
