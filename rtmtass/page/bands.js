// Spectrogram columns from samples, in the page where there is no server: the bands, levels and
// bytes of rtmtass/web/bands.py, which a test compares.

export const BANDS = 64;
const LOW_HZ = 60, HIGH_HZ = 8000;
const RANGE_DB = 100, LARGEST = 255;
const LEAST_POWER = 1e-20;

const mel = (hz) => 2595 * Math.log10(1 + hz / 700);
const hertz = (mels) => 700 * (10 ** (mels / 2595) - 1);

// Powers in the bands of frames of `size` samples, a power of two, under a periodic Hann window.
export class Analysis {
  constructor(sampleRate, size) {
    this.size = size;
    this.window = Float64Array.from({ length: size }, (_, i) =>
      0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size));
    this.real = new Float64Array(size);
    this.imaginary = new Float64Array(size);
    this.cosines = Float64Array.from({ length: size / 2 }, (_, i) =>
      Math.cos((2 * Math.PI * i) / size));
    this.sines = Float64Array.from({ length: size / 2 }, (_, i) =>
      -Math.sin((2 * Math.PI * i) / size));
    this.reversed = bitReversal(size);
    this.shares = sharesOfBins(sampleRate, size, this.window);
  }

  // Add the bands' powers of two real frames to (BANDS,) arrays; one transform serves both.
  addPowers(frame, other, powers, otherPowers) {
    const { size, real, imaginary, window, reversed } = this;
    for (let i = 0; i < size; i++) {
      real[reversed[i]] = window[i] * frame[i];
      imaginary[reversed[i]] = window[i] * other[i];
    }
    this.transform();
    const { bins, bands, shares } = this.shares;
    for (let n = 0; n < bins.length; n++) {
      // The even part of the spectrum belongs to one frame, the odd part to the other.
      const bin = bins[n], band = bands[n], share = shares[n];
      const mirror = (size - bin) % size;
      const a = real[bin] + real[mirror], b = imaginary[bin] - imaginary[mirror];
      const c = imaginary[bin] + imaginary[mirror], d = real[mirror] - real[bin];
      powers[band] += share * (a * a + b * b);
      otherPowers[band] += share * (c * c + d * d);
    }
  }

  // J. W. Cooley and J. W. Tukey, Mathematics of Computation 19(90), 1965; decimation in time.
  transform() {
    const { size, real, imaginary, cosines, sines } = this;
    for (let half = 1; half < size; half *= 2) {
      const step = size / (2 * half);
      for (let k = 0; k < half; k++) {
        const cosine = cosines[k * step], sine = sines[k * step];
        for (let i = k; i < size; i += 2 * half) {
          const j = i + half;
          const x = real[j] * cosine - imaginary[j] * sine;
          const y = real[j] * sine + imaginary[j] * cosine;
          real[j] = real[i] - x;
          imaginary[j] = imaginary[i] - y;
          real[i] += x;
          imaginary[i] += y;
        }
      }
    }
  }
}

function bitReversal(size) {
  const bits = Math.log2(size), reversed = new Uint16Array(size);
  for (let i = 0; i < size; i++) {
    for (let bit = 0; bit < bits; bit++) if (i & (1 << bit)) reversed[i] |= size >> (bit + 1);
  }
  return reversed;
}

// Return bins, bands and shares where a bin's width lies in a band; a share counts both frequencies
// of a bin, the window's power, and the quarter by which `addPowers` counts too much.
function sharesOfBins(sampleRate, size, window) {
  const low = mel(LOW_HZ), step = (mel(HIGH_HZ) - low) / BANDS, width = sampleRate / size;
  const power = size * window.reduce((sum, w) => sum + w * w, 0);
  const found = { bins: [], bands: [], shares: [] };
  for (let bin = 0; bin <= size / 2; bin++) {
    const sides = bin === 0 || bin === size / 2 ? 1 : 2;
    for (let band = 0; band < BANDS; band++) {
      const top = Math.min((bin + 0.5) * width, hertz(low + (band + 1) * step));
      const bottom = Math.max((bin - 0.5) * width, hertz(low + band * step));
      if (top <= bottom) continue;
      found.bins.push(bin);
      found.bands.push(band);
      found.shares.push(((top - bottom) / width) * (sides / power / 4));
    }
  }
  return found;
}

// The byte of a power: 0 to 255 for -100 to 0 dBFS.
export function levelByte(power) {
  const level = 10 * Math.log10(Math.max(power, LEAST_POWER));
  return Math.max(0, Math.min(LARGEST, Math.round(LARGEST * (level / RANGE_DB + 1))));
}

// The bands' powers of mixture and stems, a column for every hop of stems that is added; those of
// several channels are averaged.
export class Columns {
  // Args: stems' number, samples of a hop, rate in Hz, channels; a frame is two hops.
  constructor(stems, hop, sampleRate, channels = 1) {
    Object.assign(this, { stems, hop, channels });
    this.analysis = new Analysis(sampleRate, 2 * hop);
    this.powers = Array.from({ length: stems + 1 }, () => new Float64Array(BANDS));
    const count = (stems + 1) * channels; // in pairs: a frame too many stays silent
    this.frames = Array.from({ length: count + (count % 2) }, () => new Float32Array(2 * hop));
    this.unused = new Float64Array(BANDS);
  }

  // Take a hop's stems, (stems, hop, channels) from `first` on; return (stems + 1) powers
  // (BANDS,), the mixture's first, which the next call overwrites.
  add(samples, first = 0) {
    const { frames, channels, powers, analysis } = this;
    this.#append(samples, first);
    for (const row of powers) row.fill(0);
    const powersOf = (k) => powers[Math.floor(k / channels)] ?? this.unused;
    for (let k = 0; k < frames.length; k += 2) {
      analysis.addPowers(frames[k], frames[k + 1], powersOf(k), powersOf(k + 1));
    }
    for (const row of powers) for (let band = 0; band < BANDS; band++) row[band] /= channels;
    return powers;
  }

  #append(samples, first) {
    const { frames, hop, channels } = this;
    for (const frame of frames) frame.copyWithin(0, hop);
    for (let c = 0; c < channels; c++) {
      const mixture = frames[c].fill(0, hop);
      for (let stem = 0; stem < this.stems; stem++) {
        const frame = frames[(stem + 1) * channels + c];
        for (let i = 0, at = first + stem * hop * channels + c; i < hop; i++, at += channels) {
          frame[hop + i] = samples[at];
          mixture[hop + i] += samples[at];
        }
      }
    }
  }
}

// Return a picture of columns, each a list of rows of powers; see the contract in main.js.
export function pictureOf(columns, rows) {
  const data = new Uint8Array(columns.length * rows * BANDS);
  let at = 0;
  for (const column of columns) {
    for (let row = 0; row < rows; row++) for (const power of column[row]) {
      data[at++] = levelByte(power);
    }
  }
  return { columns: columns.length, rows, bands: BANDS, data };
}
