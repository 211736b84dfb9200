#!/usr/bin/env bash
# A programmer without Python at the end: C, plugins, WebAssembly, ONNX. 3 minutes, more the first time.
source "$(dirname "$0")/steps.sh"
cd_work programs
run 'make_sounds talk.wav 4 48000 1'

say 'Each wrong word is one line, before anything slow.'
refuses 2 'linux-aarch64' 'rtmtass export rtmtass-small --native build --target amiga'
refuses 2 'ladspa' 'rtmtass export rtmtass-small --plugin vst2 -o plugins'
refuses 2 '--wasm' 'rtmtass export rtmtass-small --native build --wasm site'
run 'touch occupied'
refuses 1 'occupied' 'rtmtass export rtmtass-small --native occupied'
holds '[ ! -e build ] && [ ! -e plugins ] && [ ! -e site ]'

say 'The library, and the example compiled as its last line says.'
run 'rtmtass export rtmtass-small --native build'
prints 'librtmtass'
next=$(sed -n 's/^next: //p' "$WALK/out" "$WALK/err" | head -n 1)
holds '[ -z "$(find build -name "*.part")" ]'
refuses 1 '--overwrite' 'rtmtass export rtmtass-small --native build'
if command -v cc > /dev/null && command -v pkg-config > /dev/null && command -v sox > /dev/null; then
  run "$next"
  run 'sox talk.wav -t f32 -r 48000 -c 1 - | ./example build/rtmtass-small.rtm > stems.f32'
  holds '[ "$(stat -c %s stems.f32)" = $((4 * 48000 * 3 * 4)) ]'
  refuses 1 'rtmtass export MODEL --rtm FILE' './example talk.wav < /dev/null'
fi

say 'The same kernels as plugins.'
run 'rtmtass export rtmtass-small --plugin lv2 -o lv2'
run 'rtmtass export rtmtass-small --plugin ladspa -o ladspa'
holds '[ "$(ls ladspa)" = rtmtass-small.so ]'
if command -v ffmpeg > /dev/null && ffmpeg -hide_banner -filters 2> /dev/null | grep -q ladspa; then
  run "LADSPA_PATH=\$PWD/ladspa ffmpeg -v error -y -i talk.wav -af 'ladspa=rtmtass-small:rtmtass_small_mono:c=c1=-60|c2=-60:latency=1' out.wav"
  run 'check same-length talk.wav out.wav'
fi

say 'In JavaScript, and as ONNX.'
run 'rtmtass export rtmtass-small --wasm site'
if command -v node > /dev/null; then
  cp site/rtmtass.js site/rtmtass.mjs
  cat > site/try.mjs <<'END'
import { readFileSync } from "node:fs";
import { open } from "./rtmtass.mjs";
const read = (name) => readFileSync(new URL(name, import.meta.url));
const model = open(await WebAssembly.compile(read("rtmtass.wasm")), read("rtmtass-small.rtm"));
const stream = model.stream({ sampleRate: 48000 });
const stems = model.stems.map(() => new Float32Array(4800));
stream.process([new Float32Array(4800).fill(0.1)], stems);
console.log(model.stems.join(), stream.latency);
END
  run 'node site/try.mjs'
  prints 'speech,music,noise 1674'
fi
run 'rtmtass export rtmtass-small --page page'
holds '[ -e page/index.html ] && [ -e page/rtmtass.wasm ] && [ -e page/rtmtass-small.rtm ]'
run 'rtmtass export rtmtass-small --onnx small.onnx'

reached_the_end
