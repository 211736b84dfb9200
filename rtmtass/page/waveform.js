// A track of a recording as a picture from its start to its end: waveform or spectrogram, with the
// play head over it.

import { make, setAttribute } from "./dom.js";
import { clock } from "./format.js";
import { BANDS, ROWS, colourOf, mixturePainter, stemPainter } from "./spectrogram.js";

const FULL = 127; // of a peak at full scale
const QUIETEST = 13; // a recording below it, -20 dBFS, isn't drawn any larger
const HEIGHT_SHARE = 0.94;
const LEAST_PX = 1; // so that silence is a line
const SMOOTH = 0.012; // of the width, over which the mixture's colour is averaged
const TICK_PX = 90; // between two times, at least
const TICKS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];

// How much larger than life all waveforms of a recording are drawn.
export function scaleOf(overview) {
  let highest = QUIETEST;
  for (let at = 0; at < overview.peaks.length; at += ROWS) {
    highest = Math.max(highest, overview.peaks[at]);
  }
  return FULL / highest;
}

export class Lane {
  #row;
  #colours;
  #canvas = make("canvas", { "aria-hidden": "true" });
  #head = make("i", { class: "play-head" });
  #overview = null;
  #picture = null;
  #scale = 1;
  #kind = "waveform";
  #place = "";

  // Args: the track's number, 0 for the mixture; its name; the names of all stems.
  constructor(row, name, stems) {
    this.#row = row;
    this.#colours = stems.map(colourOf);
    this.element = make("div", { class: "screen lane", role: "img",
      "aria-label": `Waveform of ${name}` }, this.#canvas, this.#head);
    new ResizeObserver(() => this.#draw()).observe(this.element);
  }

  // Shows peaks, at a scale of `scaleOf`, and later the spectrogram in their place.
  showWaveform(overview, scale) {
    this.#overview = overview;
    this.#scale = scale;
    this.#show("waveform");
  }

  showSpectrogram(picture) {
    this.#picture = picture;
    this.#show("spectrogram");
  }

  // Moves the play head, `share` from 0 to 1.
  moveHead(share) {
    const place = `${(100 * share).toFixed(3)}%`;
    if (place === this.#place) return;
    this.#place = place;
    this.#head.style.left = place;
  }

  #show(kind) {
    this.#kind = kind;
    const label = this.element.getAttribute("aria-label").replace(/^\w+/, kind === "waveform"
      ? "Waveform" : "Spectrogram");
    setAttribute(this.element, "aria-label", label);
    this.#draw();
  }

  #draw() {
    if (this.#kind === "spectrogram" && this.#picture) this.#drawPicture();
    else if (this.#overview) this.#drawPeaks();
  }

  #drawPeaks() {
    const width = Math.max(1, Math.round(this.element.clientWidth * devicePixelRatio));
    const height = Math.max(1, Math.round(this.element.clientHeight * devicePixelRatio));
    Object.assign(this.#canvas, { width, height });
    const context = this.#canvas.getContext("2d");
    const { columns, peaks } = this.#overview;
    const columnsOf = Array.from({ length: width }, (_, x) => {
      const from = Math.floor((x * columns) / width);
      return loudest(peaks, from, Math.max(from + 1, Math.floor(((x + 1) * columns) / width)));
    });
    const colours = this.#row > 0 ? null : this.#mixtureColours(columnsOf);
    if (this.#row > 0) context.fillStyle = `rgb(${this.#colours[this.#row - 1]})`;
    columnsOf.forEach((highest, x) => {
      const share = Math.min(1, (this.#scale * highest[this.#row]) / FULL) * HEIGHT_SHARE;
      const tall = Math.max(LEAST_PX, Math.round(share * height));
      if (colours) context.fillStyle = colours[x];
      context.fillRect(x, Math.round((height - tall) / 2), 1, tall);
    });
  }

  // The mixture has the colour of its stems by their shares of power, averaged along the time.
  #mixtureColours(columnsOf) {
    const reach = Math.ceil(columnsOf.length * SMOOTH);
    const sums = [new Array(this.#colours.length).fill(0)];
    for (const highest of columnsOf) {
      sums.push(sums.at(-1).map((sum, stem) => sum + highest[stem + 1] ** 2 + 1e-3));
    }
    return columnsOf.map((_, x) => {
      const before = sums[Math.max(0, x - reach)];
      const after = sums[Math.min(columnsOf.length, x + reach + 1)];
      const powers = after.map((sum, stem) => sum - before[stem]);
      const total = powers.reduce((a, b) => a + b);
      const mixed = [0, 1, 2].map((part) => Math.round(this.#colours.reduce((sum, colour, stem) =>
        sum + (powers[stem] / total) * colour[part], 0)));
      return `rgb(${mixed})`;
    });
  }

  #drawPicture() {
    const { columns, data } = this.#picture;
    Object.assign(this.#canvas, { width: columns, height: BANDS });
    const image = new ImageData(columns, BANDS);
    const pixels = new Int32Array(image.data.buffer);
    const paint = this.#row === 0 ? mixturePainter(this.#colours)
      : stemPainter(this.#row, this.#colours[this.#row - 1]);
    for (let column = 0; column < columns; column += 1) {
      for (let band = 0; band < BANDS; band += 1) {
        pixels[(BANDS - 1 - band) * columns + column] = paint(data, column, band);
      }
    }
    this.#canvas.getContext("2d").putImageData(image, 0, 0);
  }
}

// A row of times over a recording of `durationS`.
export function createRuler(durationS) {
  const ruler = make("div", { class: "ruler", "aria-hidden": "true" });
  new ResizeObserver(() => {
    const most = Math.max(1, ruler.clientWidth / TICK_PX);
    const stepS = TICKS_S.find((step) => durationS / step <= most) ?? TICKS_S.at(-1);
    const ticks = [];
    for (let atS = 0; atS < durationS; atS += stepS) {
      const tick = make("span", { text: clock(atS) });
      tick.style.left = `${(100 * atS) / durationS}%`;
      ticks.push(tick);
    }
    ruler.replaceChildren(...ticks);
  }).observe(ruler);
  return ruler;
}

// The largest peak of each track in a range of columns.
function loudest(peaks, from, to) {
  const highest = new Array(ROWS).fill(0);
  for (let column = from; column < to; column += 1) {
    for (let row = 0; row < ROWS; row += 1) {
      highest[row] = Math.max(highest[row], peaks[column * ROWS + row]);
    }
  }
  return highest;
}
