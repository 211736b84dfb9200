#!/usr/bin/env bash
# A researcher: a corpus of synthetic sounds, 20 steps of training, evaluation, export. 5 minutes.
source "$(dirname "$0")/steps.sh"
cd_work research
run 'make_sounds --corpus MY_SOUND && make_sounds talk.flac 3 16000 1'

say 'A corpus, and a fixed set to evaluate on.'
run 'rtmtass data build CORPUS --folders MY_SOUND'
holds '[ "$(wc -l < CORPUS/index.csv)" -gt 12 ]'
if rtmtass data synthesise --help | grep -q -- --minutes; then
  run 'rtmtass data synthesise CORPUS --cache CACHE --minutes 0.2'
fi
run 'rtmtass data mix CORPUS DEVSET --cache CACHE --n 2 --seconds 3'
holds '[ "$(wc -l < DEVSET/list.csv)" = 3 ]'

say 'Twenty steps of a small network; then ten more.'
cat > small.toml <<'END'
[train]
preset = "small"
corpus = "CORPUS"
cache = "CACHE"
runs = "RUNS"
name = "walk"
steps = 20
warmup_steps = 2
seconds = 1.0
batch = 2
workers = 0
bf16 = false
compile = false
dev_clips = 1
snapshots = 0
[net]
channels = 16
hidden = 8
recurrent = 16
recurrent_layers = 1
compensation_layers = 1
END
run 'rtmtass train small.toml'
holds '[ -e RUNS/best/model.safetensors ] && [ -e RUNS/best/config.json ]'
run 'rtmtass train small.toml --steps 30'
holds '[ -e RUNS/last.pt ]'

say 'How good is it?'
run 'rtmtass evaluate RUNS/best DEVSET --html report.html --no-perceptual'
prints 'SI-SDRi'
run 'check page report.html "SI-SDRi"'

say 'Use it: on a recording, live, and in other programs.'
run 'rtmtass separate talk.flac --model RUNS/best --report page.html'
run 'check same-length talk.flac talk.speech.flac talk.music.flac talk.noise.flac'
run 'check page page.html "A: mixture"'
run 'rtmtass live --source file:talk.flac --sink udp:127.0.0.1:19011 --duration 1 --json --model RUNS/best'
if "$PYTHON" -c 'import onnx, onnxruntime' 2> /dev/null; then
  run 'rtmtass export RUNS/best --onnx walk.onnx'
  holds '[ -s walk.onnx ]'
  run 'rtmtass export rtmtass-small --onnx small.onnx'
fi

say 'Mistakes are answered in a line.'
refuses 2 'none.toml' 'rtmtass train none.toml'
run 'sed "s/small\"/smal\"/" small.toml > wrong.toml'
refuses 2 'small' 'rtmtass train wrong.toml'
refuses 1 'rtmtass data mix' 'rtmtass evaluate RUNS/best CORPUS'
reached_the_end
