// A track of a recording as a picture from its start to its end: waveform or spectrogram, with the
// play head over it.

import { make, setAttribute } from "./dom.js";
import { BANDS, ROWS, colourOf, mixturePainter, stemPainter } from "./spectrogram.js";

const FULL = 127; // of a peak at full scale
const QUIETEST = 13; // a recording below it, -20 dBFS, isn't drawn any larger
const HEIGHT_SHARE = 0.94;
const LEAST_PX = 1; // so that silence is a line

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
    for (let x = 0; x < width; x += 1) {
      const from = Math.floor((x * columns) / width);
      const to = Math.max(from + 1, Math.floor(((x + 1) * columns) / width));
      const highest = loudest(peaks, from, to);
      const share = Math.min(1, (this.#scale * highest[this.#row]) / FULL) * HEIGHT_SHARE;
      const tall = Math.max(LEAST_PX, Math.round(share * height));
      context.fillStyle = this.#colourAt(highest);
      context.fillRect(x, Math.round((height - tall) / 2), 1, tall);
    }
  }

  // A stem has its own colour, the mixture that of its stems by their shares of power.
  #colourAt(highest) {
    if (this.#row > 0) return `rgb(${this.#colours[this.#row - 1]})`;
    const powers = this.#colours.map((_, stem) => highest[stem + 1] ** 2 + 1e-6);
    const total = powers.reduce((a, b) => a + b);
    const mixed = [0, 1, 2].map((part) => Math.round(this.#colours.reduce((sum, colour, stem) =>
      sum + (powers[stem] / total) * colour[part], 0)));
    return `rgb(${mixed})`;
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
