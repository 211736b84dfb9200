#!/usr/bin/env bash
# A maintainer: help, the machine-code cache, a full disk, a killed run. 3 minutes.
source "$(dirname "$0")/steps.sh"
cd_work maintenance
run 'make_sounds talk.flac 4 44100 2 && make_sounds long.wav 240 16000 1'

say 'Every command explains itself.'
run 'rtmtass --version'
run 'rtmtass --help'
for command in $(grep -oE '^    [a-z]+ ' ../out); do
  run "rtmtass $command --help"
  prints "usage: rtmtass $command"
done
refuses 2 'separate' 'rtmtass seperate talk.flac'
run 'rtmtass models'
_execute 'rtmtass doctor'
prints 'weights as released'
run 'rtmtass demo'
holds '[ -s demo/report.png ]'

say 'A full disk: told in a line, nothing half done, nothing finished is damaged.'
run 'cp talk.flac before.flac && mkdir full && cp before.flac full/long.speech.wav'
refuses 1 'long' '(ulimit -f 1000; rtmtass separate long.wav -o full --overwrite)'
holds 'cmp before.flac full/long.speech.wav'
holds '[ "$(ls full)" = long.speech.wav ]'
run 'make_sounds tiny.wav 0.2 8000 1'
refuses 1 'page.html' '(ulimit -f 10; rtmtass separate tiny.wav -o small --report page.html)'
holds '[ ! -e page.html ] && [ "$(ls small | wc -l)" = 3 ]'

say 'Killed at any moment: no final name, and the next run finishes.'
for moment in 0.3 1 2; do
  rm -rf killed
  "$PYTHON" -m rtmtass separate long.wav -o killed --quiet &
  STARTED+=($!)
  for _ in $(seq 600); do [ -n "$(find killed -name '*.part' 2> /dev/null)" ] && break; sleep 0.05; done
  sleep "$moment"
  kill -9 "${STARTED[-1]}" 2> /dev/null || true
  wait "${STARTED[-1]}" 2> /dev/null || true
  for stem in speech music noise; do
    holds "[ ! -e killed/long.$stem.wav ] || check same-length long.wav killed/long.$stem.wav"
  done
  run 'rtmtass separate long.wav -o killed --quiet'
  run 'check same-length long.wav killed/long.speech.wav killed/long.music.wav killed/long.noise.wav'
  holds '[ -z "$(find killed -name "*.part")" ]'
done

say 'Stopped by Ctrl-C: exit 130, and what is there can be played.'
"$PYTHON" -c 'import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in the background
from rtmtass.cli.main import main
sys.exit(main())' separate long.wav -o stopped --quiet > ../out 2> ../err &
STARTED+=($!)
for _ in $(seq 600); do [ -n "$(find stopped -name '*.part' -size +200k 2> /dev/null)" ] && break; sleep 0.02; done
kill -INT "${STARTED[-1]}"
code=0
wait "${STARTED[-1]}" || code=$?
holds '[ "$code" = 130 ]'
prints '.part'
run 'rtmtass separate long.wav -o stopped --quiet'
run 'check same-length long.wav stopped/long.speech.wav'
say 'Machine code: each broken file is compiled again, and every start works.'
run 'python -c "from rtmtass.jit.compiler import CACHE_FOLDER; print(CACHE_FOLDER)"'
cache=$(cat ../out)
mkdir -m 700 code && cp -rp "$cache" "code/rtmtass-${cache##*-}"
export NUMBA_CACHE_DIR=$PWD/code
run 'rtmtass separate talk.flac -o warm'
for broken in empty cut; do
  file=$(find code -name '*run_hops*.nbi' | head -n 1)
  holds '[ -n "$file" ]'
  if [ "$broken" = empty ]; then : > "$file"; else head -c 100 "$file" > ../x && cp ../x "$file"; fi
  run "rtmtass separate talk.flac -o $broken"
  # Machine code just compiled and the same code loaded may differ in a float's last bit.
  run "check sum -90 warm/talk.speech.flac $broken/talk.speech.flac"
  run "rtmtass separate talk.flac -o $broken --overwrite"
done
unset NUMBA_CACHE_DIR
reached_the_end
