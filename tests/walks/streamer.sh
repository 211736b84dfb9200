#!/usr/bin/env bash
# A streamer: live, with a sound card where there is one, else from a file and over UDP. 2 minutes.
source "$(dirname "$0")/steps.sh"
cd_work stream
run 'make_sounds talk.flac 6 16000 1'

say 'What is here, and is it enough?'
run 'rtmtass devices'
_execute 'rtmtass doctor'  # 1 if something is missing: then each line of it has its remedy
prints 'machine code'
[ "$code" = 0 ] || holds 'grep -q MISS ../out && grep -q "→" ../out'

if "$PYTHON" -c 'import sys, sounddevice as s
sys.exit(not {"max_input_channels", "max_output_channels"} <= {
    k for d in s.query_devices() for k in d if k.startswith("max") and d[k]})' 2> /dev/null; then
  say 'Microphone in, my mix out; and a take.'
  run 'rtmtass live --gain speech=0,music=-20,noise=-inf --duration 3 --plain'
  run 'rtmtass live --record takes-of-the-card --duration 3 --plain'
  refuses 1 'no such thing' 'rtmtass live --input "no such thing" --record takes --duration 60'
else
  say 'No sound card: each command that needs one says so, in a line.'
  refuses 1 'rtmtass doctor' 'rtmtass live --gain speech=0,music=-20,noise=-inf --duration 1'
  refuses 1 'rtmtass doctor' 'rtmtass live --input scarlett --record takes --duration 60'
  refuses 1 'rtmtass doctor' 'rtmtass latency'
fi

say 'From a file, at the pace of real time, recorded: my mix goes over the network.'
run 'rtmtass live --source file:talk.flac --sink udp:127.0.0.1:19001 --gain speech=0,music=-20,noise=-inf --record takes --duration 4 --json'
prints '"deadline_misses"'
run 'check same-length takes/*/mixture.wav takes/*/speech.wav takes/*/music.wav takes/*/noise.wav'
run 'check sum -80 takes/*/mixture.wav takes/*/speech.wav takes/*/music.wav takes/*/noise.wav'
holds '[ -z "$(find takes -name "*.part")" ]'

say 'Over UDP in and out: as much comes back as was sent.'
cat > far_end.py <<'END'
"""Sends 2 s of noise to live and counts what comes back."""
import socket
import time

import numpy as np

sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 19003))
receiver.settimeout(0.0)
noise = 0.1 * np.random.default_rng(0).standard_normal(32000).astype(np.float32)
n_back, started = 0, time.monotonic()
for k, block in enumerate(np.split(noise, 125)):
    sender.sendto(block.tobytes(), ("127.0.0.1", 19002))
    while time.monotonic() < started + 0.016 * (k + 1):
        try:
            n_back += len(receiver.recv(65536)) // 4
        except BlockingIOError:
            time.sleep(0.001)
print(f"{n_back} of 32000 samples came back")
assert n_back > 24000, "more than a quarter is missing"
END
rtmtass live --source udp:19002 --sink udp:127.0.0.1:19003 --duration 12 --json > ../live 2>&1 &
STARTED+=($!)
for _ in $(seq 300); do grep -q running ../live && break; sleep 0.1; done
run 'python far_end.py'

say 'Stopped by the system: no file stays behind unfinished.'
rtmtass live --source file:talk.flac --sink udp:127.0.0.1:19004 --record stopped --plain > ../live 2>&1 &
STARTED+=($!)
for _ in $(seq 300); do [ -n "$(find stopped -name '*speech*' 2> /dev/null)" ] && break; sleep 0.1; done
sleep 1
kill -TERM "${STARTED[1]}"
wait "${STARTED[1]}" || true
holds '! grep -q "^Traceback" ../live'
run 'check same-length stopped/*/mixture.wav stopped/*/speech.wav stopped/*/music.wav stopped/*/noise.wav'

say 'In the browser: a page for me alone, and none without its token.'
cat > visit.py <<'END'
"""Fetches the page that a line of JSON or of text names, and once without the token."""
import re
import sys
import urllib.error
import urllib.request

address = re.search(r"http://127\.0\.0\.1:\d+/[\w-]+/", open(sys.argv[1]).read())[0]
page = urllib.request.urlopen(address).read().decode()
assert "main.js" in page, page
try:
    urllib.request.urlopen(address.rsplit("/", 2)[0] + "/")
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
END
rtmtass web --no-browser --json --source file:talk.flac --sink udp:127.0.0.1:19005 > ../web 2>&1 &
STARTED+=($!)
for _ in $(seq 300); do grep -q http ../web && break; sleep 0.1; done
run 'python visit.py ../web'
prints '403'
kill -TERM "${STARTED[2]}"
wait "${STARTED[2]}" || true
holds '! grep -q "^Traceback" ../web'

say 'The same beside a mixer in the terminal.'
rtmtass live --web --no-browser --source udp:19007 --sink udp:127.0.0.1:19006 --plain > ../live 2>&1 &
STARTED+=($!)
for _ in $(seq 300); do grep -q http ../live && break; sleep 0.1; done
run 'python visit.py ../live'
kill -TERM "${STARTED[3]}"
wait "${STARTED[3]}" || true
holds 'grep -q "^ended after" ../live'

say 'The service: ready, counted, and ended by SIGTERM.'
run 'python -c "import socket; s = socket.socket(); s.bind((\"127.0.0.1\", 0)); print(s.getsockname()[1])" > port'
rtmtass serve --port "$(cat port)" > ../serve 2>&1 &
STARTED+=($!)
for _ in $(seq 300); do grep -q "$(cat port)" ../serve && break; sleep 0.1; done
run 'python -c "import sys, urllib.request as u; print(u.urlopen(\"http://127.0.0.1:%s/metrics\" % sys.argv[1]).read().decode())" "$(cat port)"'
prints 'rtmtass_'
refuses 1 "$(cat port)" "rtmtass serve --port $(cat port)"
kill -TERM "${STARTED[4]}"
wait "${STARTED[4]}" || true
holds '! grep -q "^Traceback" ../serve'

say 'How fast is this computer?'
run 'rtmtass bench --seconds 3'

say 'Mistakes are answered in a line.'
refuses 2 'udp' 'rtmtass live --source tcp:9000 --sink udp:127.0.0.1:19001'
refuses 1 'none.flac' 'rtmtass live --source file:none.flac --sink udp:127.0.0.1:19001'
refuses 2 'speech, music, noise' 'rtmtass live --source file:talk.flac --sink udp:127.0.0.1:19001 --gain voice=0'
reached_the_end
