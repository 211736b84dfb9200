"""Style sheet and scripts of the HTML pages."""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark; --back: #fbfaf8; --ink: #1c1b1a; --quiet: #6d6a66;
  --line: #dedad4; --card: #fff; --mark: #b3403a; }
@media (prefers-color-scheme: dark) { :root { --back: #141416; --ink: #e9e6e1;
  --quiet: #9b9791; --line: #34333a; --card: #1d1d21; --mark: #ff8a7a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 68rem; margin: auto; padding: 1rem; }
h1 { font-size: 1.6rem; margin: .5rem 0 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.quiet, small { color: var(--quiet); } .quiet { font-size: .9rem; }
.wide { overflow-x: auto; margin-bottom: 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem 1.2rem .35rem 0; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; } td small { display: block; font-size: .78rem; }
details { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  margin: .6rem 0; }
summary { padding: .6rem .8rem; cursor: pointer; }
.kind { border: 1px solid var(--line); border-radius: 1rem; padding: 0 .5rem; font-size: .8rem; }
.clip { display: grid; gap: .8rem; padding: 0 .8rem .8rem; }
figure { margin: 0; min-width: 0; } figcaption { font-size: .9rem; }
.picture { position: relative; cursor: pointer; border-radius: .3rem; overflow: hidden; }
.picture img { display: block; width: 100%; height: 7rem; }
.picture b { position: absolute; color: #fff; font: 11px/1 system-ui, sans-serif;
  text-shadow: 0 0 3px #000, 0 0 3px #000; padding: 4px; pointer-events: none; }
.top { top: 0; left: 0; } .end { bottom: 0; right: 0; }
.picture i { position: absolute; top: 0; bottom: 0; width: 2px; background: #fff; display: none;
  pointer-events: none; }
audio { width: 100%; height: 2.2rem; margin-top: .25rem; }
.legend { display: flex; gap: .6rem; align-items: center; font-size: .85rem; }
.legend i { flex: 0 1 14rem; height: .7rem; border-radius: .35rem; }
@media (max-width: 44rem) { th, td { padding-right: .7rem; } th { white-space: normal; }
  table { font-size: .9rem; } td small { font-size: .72rem; } }
@media (min-width: 44rem) { .clip { grid-template-columns: 1fr 1fr; }
  .whole { grid-column: 1 / -1; } }
.controls, .faders { display: flex; flex-wrap: wrap; gap: .5rem 1.2rem; align-items: center; }
.controls input[type=range] { flex: 1 1 12rem; }
.faders span, .faders label { display: flex; gap: .4rem; align-items: center; }
output { font-variant-numeric: tabular-nums; min-width: 4.5rem; }
button { font: inherit; padding: .2rem .9rem; min-width: 5.5rem; }
.levels { display: block; width: 100%; height: 8rem; background: var(--back); }
.levels path { fill: none; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
fieldset { border: 1px solid var(--line); border-radius: .4rem; padding: .1rem .6rem .3rem; }
.key i { display: inline-block; width: 1rem; height: 3px; margin: 0 .3rem .2rem .8rem; }
[hidden] { display: none !important; }
"""

PLAYERS = """
// Only one player at a time; within a clip, the next one continues at the same position.
let current = null;
const players = document.querySelectorAll("audio");
for (const player of players) {
  const figure = player.closest("figure");
  const picture = figure.querySelector(".picture");
  const cursor = picture.querySelector("i");
  const draw = () => {
    if (!player.duration) return;
    cursor.style.display = "block";
    cursor.style.left = 100 * player.currentTime / player.duration + "%";
    if (!player.paused) requestAnimationFrame(draw);
  };
  player.addEventListener("play", () => {
    if (current && current !== player) {
      const same = current.closest(".clip") === player.closest(".clip");
      if (same && !current.paused) player.currentTime = current.currentTime;
      current.pause();
    }
    current = player;
    draw();
  });
  player.addEventListener("seeked", draw);
  picture.addEventListener("click", (event) => {
    const fraction = event.offsetX / picture.clientWidth;
    const seek = () => { player.currentTime = fraction * player.duration; };
    if (current && current !== player) current.pause();
    if (player.duration) seek();
    else player.addEventListener("loadedmetadata", seek, { once: true });
    player.play();
  });
}
const first = document.querySelector("details");
if (first) first.open = true;
"""

MIXER = """
// All tracks of a recording start at the same instant of one audio clock, so that they stay
// aligned to the sample; A, B, solo and the faders only change gains.
const LOWEST_DB = -60;  // a fader at its lower end is off
const RAMP_S = 0.01;  // time constant of gain changes: no clicks
let context = null;
let playing = null;

function bytesOf(url) {
  const text = atob(url.slice(url.indexOf(",") + 1));
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0)).buffer;
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  return Math.floor(whole / 60) + ":" + String(whole % 60).padStart(2, "0");
}

class Mixer {
  constructor(clip, number) {
    this.clip = clip;
    for (const button of clip.querySelectorAll("input[type=radio]")) button.name = "ab" + number;
    this.find = (selector) => clip.querySelector(selector);
    this.audio = [...clip.querySelectorAll("audio")];
    this.total = Number(clip.dataset.seconds);
    this.length = Number(clip.dataset.excerpt);
    this.position = 0;
    this.started = 0;
    this.tracks = [];
    this.find(".controls").hidden = this.find(".faders").hidden = false;
    for (const player of this.audio) player.hidden = true;
    this.seekBar = this.find(".seek");
    this.seekBar.addEventListener("input", () => this.seek(Number(this.seekBar.value)));
    this.find(".play").addEventListener("click", () => this.toggle());
    for (const input of clip.querySelectorAll(".controls input[type=radio]"))
      input.addEventListener("input", () => this.setGains());
    for (const input of clip.querySelectorAll(".faders input"))
      input.addEventListener("input", () => {
        this.find("input[value=b]").checked = true;  // the faders are for the stems
        this.setGains();
      });
    for (const picture of clip.querySelectorAll(".picture"))
      picture.addEventListener("click", (event) =>
        this.seek(event.offsetX / picture.clientWidth * this.total));
    this.setGains();
    this.draw();
  }

  // Decode at the first use; a browser without this codec keeps its own players.
  async load() {
    if (this.tracks.length) return true;
    context ??= new AudioContext();
    try {
      for (const player of this.audio) {
        const gain = context.createGain();
        gain.connect(context.destination);
        const buffer = await context.decodeAudioData(bytesOf(player.src));
        this.tracks.push({ name: player.dataset.track, buffer, gain, source: null });
      }
    } catch (error) {
      this.tracks = [];
      this.find(".trouble").hidden = false;
      for (const player of this.audio) player.hidden = false;
      return false;
    }
    this.setGains();
    return true;
  }

  gainOf(name) {
    const isMixture = this.find(".controls input:checked").value === "a";
    if (name === "mixture") return isMixture ? 1 : 0;
    if (isMixture) return 0;
    const solo = [...this.clip.querySelectorAll(".solo:checked")].map((box) => box.value);
    if (solo.length && !solo.includes(name)) return 0;
    const db = Number(this.find(`.fader[name="${name}"]`).value);
    return db <= LOWEST_DB ? 0 : 10 ** (db / 20);
  }

  setGains() {
    for (const fader of this.clip.querySelectorAll(".fader")) {
      const db = Number(fader.value);
      fader.nextElementSibling.value = db <= LOWEST_DB ? "off" : db.toFixed(0) + " dB";
    }
    for (const track of this.tracks)
      track.gain.gain.setTargetAtTime(this.gainOf(track.name), context.currentTime, RAMP_S);
  }

  now() {
    const elapsed = playing === this ? context.currentTime - this.started : 0;
    return Math.min(this.position + Math.max(0, elapsed), this.length);
  }

  async toggle() {
    if (playing === this) return this.pause();
    if (!await this.load()) return;
    if (playing) playing.pause();
    await context.resume();
    if (this.position >= this.length) this.position = 0;
    this.started = context.currentTime + 0.05;
    for (const track of this.tracks) {
      track.source = context.createBufferSource();
      track.source.buffer = track.buffer;
      track.source.connect(track.gain);
      track.source.start(this.started, this.position);
    }
    playing = this;
    this.find(".play").textContent = "Pause";
    this.draw();
  }

  pause() {
    this.position = this.now();
    playing = null;
    for (const track of this.tracks) track.source?.stop();
    this.find(".play").textContent = "Play";
    this.draw();
  }

  seek(seconds) {
    const wasPlaying = playing === this;
    if (wasPlaying) this.pause();
    this.position = Math.max(0, Math.min(seconds, this.length));
    if (wasPlaying && this.position < this.length) this.toggle();
    this.draw();
  }

  draw() {
    const seconds = this.now();
    this.seekBar.value = seconds;
    this.find(".time").value = clock(seconds) + " / " + clock(this.length);
    for (const cursor of this.clip.querySelectorAll(".picture i")) {
      cursor.style.display = "block";
      cursor.style.left = 100 * seconds / this.total + "%";
    }
    if (playing !== this) return;
    if (seconds >= this.length) return this.pause();
    requestAnimationFrame(() => this.draw());
  }
}

const clips = [...document.querySelectorAll(".mixer")];
const mixers = clips.map((clip, number) => new Mixer(clip, number));
const first = document.querySelector("details");
if (first) first.open = true;
"""
