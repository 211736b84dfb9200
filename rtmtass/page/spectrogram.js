// Scrolling spectrograms. A column is painted once, into a canvas twice as long as its ring of
// columns; scrolling only moves that canvas, by fractions of a pixel.
//
// Pictures hold one column per hop of 256 samples: four rows (mixture, speech, music, noise) of 64
// mel bands, low band first, from -100 dBFS (0) to 0 dBFS (255).

import { make } from "./dom.js";

export const ROWS = 4;
export const BANDS = 64;
export const HOP = 256;
const LOWEST_HZ = 60;
const HIGHEST_HZ = 8000;
const MARGIN = 32; // columns painted ahead of what is shown
const CHUNK = 16; // columns painted at once
const LAG = 5; // columns shown late, so that uneven arrival doesn't shake the picture
const CATCH_UP_MS = 300;
const GAP = 6; // blank columns ahead of a sweep
const LATEST_JUMP = 96;

// Colours of the screens, the same in light and dark; the stems' are those of style.css, brighter.
const SCREEN = [19, 19, 22];
const STEMS = { speech: [255, 102, 122], music: [76, 172, 238], noise: [160, 205, 74] };
const OTHER = [190, 160, 220];
const DARK_DB = -86;
const BRIGHT_DB = -22;
const WHITE_FROM = 0.72; // of the brightness; above it colours turn white

const mel = (hz) => 2595 * Math.log10(1 + hz / 700);

// How high a frequency lies in a picture, 0 to 1.
export function height(hz) {
  return (mel(hz) - mel(LOWEST_HZ)) / (mel(HIGHEST_HZ) - mel(LOWEST_HZ));
}

export function colourOf(stem) {
  return STEMS[stem] ?? OTHER;
}

const levelDb = (value) => (100 * value) / 255 - 100;
const POWERS = Float32Array.from({ length: 256 }, (_, value) => 10 ** (levelDb(value) / 10));
const BRIGHTNESS = Float32Array.from({ length: 256 }, (_, value) =>
  Math.min(1, Math.max(0, (levelDb(value) - DARK_DB) / (BRIGHT_DB - DARK_DB))));

// A colour at a brightness of 0 (the screen) to 1 (almost white), as little-endian RGBA.
function shade(red, green, blue, brightness) {
  const white = Math.max(0, (brightness - WHITE_FROM) / (1 - WHITE_FROM)) * 0.75;
  const colour = Math.min(1, brightness / WHITE_FROM) ** 1.4;
  const mixed = (from, to) => {
    const value = from + (to - from) * colour;
    return Math.round(value + (255 - value) * white);
  };
  return (255 << 24) | (mixed(SCREEN[2], blue) << 16) | (mixed(SCREEN[1], green) << 8)
    | mixed(SCREEN[0], red);
}

// Returns a painter of one row in one colour: it gives the colour of a band.
export function stemPainter(row, colour) {
  const shades = Int32Array.from(BRIGHTNESS, (brightness) => shade(...colour, brightness));
  return (data, column, band) => shades[data[(column * ROWS + row) * BANDS + band]];
}

// Returns a painter of the mixture, whose colour is that of the stems by their shares of power.
export function mixturePainter(colours) {
  return (data, column, band) => {
    const at = column * ROWS * BANDS + band;
    let total = 1e-12, red = 0, green = 0, blue = 0;
    for (let stem = 0; stem < colours.length; stem += 1) {
      const power = POWERS[data[at + (stem + 1) * BANDS]];
      total += power;
      red += power * colours[stem][0];
      green += power * colours[stem][1];
      blue += power * colours[stem][2];
    }
    return shade(red / total, green / total, blue / total, BRIGHTNESS[data[at]]);
  };
}

// The latest columns of all rows, in a ring that never grows.
export class Columns {
  count = 0;
  #length;

  constructor(length) {
    this.#length = length;
    this.data = new Uint8Array(length * ROWS * BANDS);
  }

  get length() { return this.#length; }

  add(picture) {
    const size = ROWS * BANDS;
    const first = Math.max(0, picture.columns - this.#length);
    for (let column = first; column < picture.columns; column += 1) {
      const values = picture.data.subarray(column * size, (column + 1) * size);
      this.data.set(values, ((this.count + column) % this.#length) * size);
    }
    this.count += picture.columns;
  }
}

// Where the newest visible column is: moves evenly while columns arrive in bursts.
export class Scroll {
  position = 0;
  #last = 0;
  #columnsPerMs;

  constructor(sampleRate) {
    this.#columnsPerMs = sampleRate / HOP / 1000;
  }

  advance(now, count) {
    const passedMs = Math.min(100, Math.max(0, now - this.#last));
    this.#last = now;
    const target = count - LAG;
    if (Math.abs(target - this.position) > LATEST_JUMP) this.position = Math.max(0, target);
    const even = this.position + passedMs * this.#columnsPerMs;
    const pulled = even + (target - even) * (1 - Math.exp(-passedMs / CATCH_UP_MS));
    this.position = Math.max(this.position, Math.min(pulled, count));
    return this.position;
  }
}

export class Spectrogram {
  #ring; // columns of the canvas's first half
  #visible;
  #paint;
  #canvas;
  #context;
  #image = new ImageData(CHUNK, BANDS);
  #pixels = new Int32Array(this.#image.data.buffer);
  #drawn = 0;
  #isSweep = false;
  #shift = "";

  // Args: a label for screen readers, the columns that are visible, and a painter.
  constructor(label, visible, paint) {
    this.#visible = visible;
    this.#ring = visible + MARGIN;
    this.#paint = paint;
    this.#canvas = make("canvas", { width: 2 * this.#ring, height: BANDS, role: "img",
      "aria-label": label });
    this.#canvas.style.width = `${(200 * this.#ring) / visible}%`;
    this.#context = this.#canvas.getContext("2d", { alpha: false });
    this.element = make("div", { class: "screen" }, this.#canvas);
    this.clear(0);
  }

  // Blanks the picture; the next column drawn is number `count`.
  clear(count) {
    this.#drawn = count;
    this.#context.fillStyle = `rgb(${SCREEN})`;
    this.#context.fillRect(0, 0, 2 * this.#ring, BANDS);
  }

  // Paints new columns and moves the picture to a position of Scroll. In a sweep, for people who
  // want less motion, nothing moves: new columns replace the oldest where they are.
  draw(columns, position, isSweep) {
    if (isSweep !== this.#isSweep) {
      this.#isSweep = isSweep;
      this.clear(Math.max(0, columns.count - this.#visible));
    }
    const span = isSweep ? this.#visible : this.#ring;
    let from = Math.max(this.#drawn, columns.count - Math.min(span, columns.length));
    while (from < columns.count) {
      const n = Math.min(CHUNK, columns.count - from, span - (from % span));
      this.#fill(columns, from, n);
      this.#put(from % span, n);
      from += n;
    }
    if (isSweep && from > this.#drawn) this.#blank(from % span);
    this.#drawn = from;
    this.#move(isSweep ? 0 : position);
  }

  #fill(columns, from, n) {
    for (let i = 0; i < n; i += 1) {
      const column = (from + i) % columns.length;
      for (let band = 0; band < BANDS; band += 1) {
        this.#pixels[(BANDS - 1 - band) * CHUNK + i] = this.#paint(columns.data, column, band);
      }
    }
  }

  #put(x, n) {
    this.#context.putImageData(this.#image, x, 0, 0, 0, n, BANDS);
    if (this.#isSweep) return;
    this.#context.putImageData(this.#image, x + this.#ring, 0, 0, 0, n, BANDS);
  }

  #blank(x) {
    this.#context.fillRect(x, 0, Math.min(GAP, this.#visible - x), BANDS);
  }

  #move(position) {
    // Column c is at c % ring and again one ring further; the newest visible is at the right.
    const left = this.#isSweep ? 0
      : (((position - this.#visible) % this.#ring) + this.#ring) % this.#ring;
    const shift = `translateX(${((-50 * left) / this.#ring).toFixed(3)}%)`;
    if (shift === this.#shift) return;
    this.#shift = shift;
    this.#canvas.style.transform = shift;
  }
}
