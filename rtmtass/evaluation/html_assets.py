"""Style sheet and script of the HTML evaluation report."""

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
"""

SCRIPT = """
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
