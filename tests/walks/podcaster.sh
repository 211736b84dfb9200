#!/usr/bin/env bash
# A podcaster: recordings of any kind in; stems, a remix and a page out. Under a minute.
source "$(dirname "$0")/steps.sh"
cd_work podcast

run 'make_sounds talk.flac 4 44100 2 && make_sounds talk.mp3 4 44100 2'

say 'What would it do, and what does it do?'
run 'rtmtass info talk.flac'
prints '44100'
run 'rtmtass separate talk.flac'
run 'check same-length talk.flac talk.speech.flac talk.music.flac talk.noise.flac'
run 'check sum -80 talk.flac talk.speech.flac talk.music.flac talk.noise.flac'
run 'check title talk.speech.flac "A walk"'

say 'Again: nothing is done twice, and nothing is lost.'
run 'rtmtass separate talk.flac --json'
prints '"status": "skipped"'

say 'Speech and the rest, of one second.'
run 'rtmtass separate talk.flac --two --from 0:00.5 --to 0:01.5 -o part'
run 'check length part/talk.rest.flac 44100'

say 'Only the voice, in another format, elsewhere.'
run 'rtmtass separate talk.flac -o stems --stems speech --format wav'
run 'check same-length talk.flac stems/talk.speech.wav'

say 'Quieter music, no noise.'
run 'rtmtass separate talk.flac --gain speech=0,music=-12,noise=-inf --mix remix.wav'
run 'check same-length talk.flac remix.wav'

if command -v ffmpeg > /dev/null; then
  say 'A video: its sound remixed, its pictures as they were.'
  run 'ffmpeg -v error -f lavfi -i testsrc=size=160x120:rate=10 -i talk.flac -c:v mpeg4 -shortest talk.mp4'
  run 'rtmtass separate talk.mp4 --stems none --gain music=-12 --mix quiet.mp4'
  pictures='ffmpeg -v error -i FILE -map 0:v -c copy -f md5 -'
  holds "[ \"\$(${pictures/FILE/talk.mp4})\" = \"\$(${pictures/FILE/quiet.mp4})\" ]"
fi

say 'An MP3, with a page to see and hear what happened.'
run 'rtmtass separate talk.mp3 -o out --report page.html'
run 'check same-length out/talk.speech.mp3 out/talk.music.mp3 out/talk.noise.mp3'
run 'check page page.html "Play" "A: mixture" "out/talk.speech.mp3"'

say 'A folder, of which one file is damaged: the others are done.'
run 'mkdir -p recordings/old && make_sounds recordings/one.wav 2 16000 1'
run 'make_sounds recordings/old/two.ogg 2 48000 2 && head -c 3000 talk.flac > recordings/bad.flac'
refuses 1 'bad.flac' 'rtmtass separate recordings --recursive'
holds '[ -e recordings/one.speech.wav ] && [ -e recordings/old/two.noise.ogg ]'
holds '[ -z "$(find recordings -name "bad.*.*")" ]'

say 'Through a pipe.'
run 'python -c "import sys, soundfile as s; sys.stdout.buffer.write(s.read(\"recordings/one.wav\", dtype=\"float32\")[0].tobytes())" | rtmtass separate - --rate 16000 --channels-in 1 --stems speech -o - > speech.f32'
holds '[ "$(wc -c < speech.f32)" = 128000 ]'

say 'From Python.'
run 'python -m rtmtass.examples.recording talk.flac python'
prints 'equals the array: True'

say 'Mistakes are answered in a line.'
refuses 1 'nothing.flac' 'rtmtass separate nothing.flac'
refuses 2 'page.html' 'rtmtass separate talk.flac --report talk.flac'
refuses 2 '--mix' 'rtmtass separate talk.flac --gain music=-12'
reached_the_end
