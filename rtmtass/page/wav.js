// Reads WAV files of any length by slices of the File, and writes the headers of new ones: the
// browser's own decoder would hold a whole recording in memory.

const PCM = 1, FLOAT = 3, EXTENSIBLE = 0xfffe;
const UNKNOWN = 0xffffffff; // a size that is in the ds64 chunk of an RF64, or was never written
const MOST_CHANNELS = 8;
const RATES = [2000, 768000];
const RIFF_LIMIT = UNKNOWN - 8;
const HEADER_BYTES = 92;

export class WavError extends Error {}

const bytesOf = async (file, start, n) =>
  new DataView(await file.slice(start, start + n).arrayBuffer());
const wordAt = (view, at) =>
  String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + at, 4));
const longAt = (view, at) => view.getUint32(at, true) + 2 ** 32 * view.getUint32(at + 4, true);

// Open a file: {sampleRate, channels, frames, read(start, frames)}; null if it is no WAV.
export async function openWav(file) {
  const start = await bytesOf(file, 0, 12);
  if (start.byteLength < 12 || wordAt(start, 8) !== "WAVE") return null;
  if (!["RIFF", "RF64", "BW64"].includes(wordAt(start, 0))) return null;
  const { format, dataAt, dataBytes } = await findChunks(file);
  const frames = Math.floor(dataBytes / format.frameBytes);
  if (!frames) throw new WavError(`${file.name} holds no sound`);
  const read = async (first, n) => {
    const count = Math.max(0, Math.min(n, frames - first));
    const from = dataAt + first * format.frameBytes;
    return decode(await bytesOf(file, from, count * format.frameBytes), format, count);
  };
  return { sampleRate: format.sampleRate, channels: format.channels, frames, read };
}

async function findChunks(file) {
  let at = 12, format = null, longBytes = 0;
  while (at + 8 <= file.size) {
    const header = await bytesOf(file, at, 8);
    const name = wordAt(header, 0), size = header.getUint32(4, true);
    at += 8;
    if (name === "ds64") longBytes = longAt(await bytesOf(file, at, 16), 8);
    else if (name === "fmt ") {
      format = readFormat(await bytesOf(file, at, Math.min(size, 40)), file);
    } else if (name === "data") {
      if (!format) break;
      const claimed = size === UNKNOWN ? longBytes || Infinity : size;
      return { format, dataAt: at, dataBytes: Math.min(claimed, file.size - at) };
    }
    at += size + (size % 2);
  }
  throw new WavError(`${file.name} is a damaged WAV file: it has no sound where its header ends`);
}

function readFormat(view, file) {
  if (view.byteLength < 16) throw new WavError(`${file.name} is a damaged WAV file`);
  let tag = view.getUint16(0, true);
  if (tag === EXTENSIBLE && view.byteLength >= 26) tag = view.getUint16(24, true);
  const channels = view.getUint16(2, true), sampleRate = view.getUint32(4, true);
  const bits = view.getUint16(14, true);
  const isKnown = tag === PCM ? [8, 16, 24, 32].includes(bits)
    : tag === FLOAT && [32, 64].includes(bits);
  if (!isKnown) {
    throw new WavError(`${file.name} is a WAV of an unknown encoding (${tag}, ${bits} bits);`
      + " 8 to 32 bits and 32 or 64 bit float can be read");
  }
  if (channels < 1 || channels > MOST_CHANNELS) {
    throw new WavError(`${file.name} has ${channels} channels; 1 to ${MOST_CHANNELS} can be read`);
  }
  if (sampleRate < RATES[0] || sampleRate > RATES[1]) {
    throw new WavError(`${file.name} has ${sampleRate} samples a second; ${RATES.join(" to ")}`
      + " can be read");
  }
  return { isFloat: tag === FLOAT, channels, sampleRate, bits, frameBytes: (channels * bits) / 8 };
}

// Readers of a sample at a byte, full scale is 1.
const READERS = {
  8: (view, at) => (view.getUint8(at) - 128) / 128,
  16: (view, at) => view.getInt16(at, true) / 32768,
  24: (view, at) => ((view.getInt8(at + 2) << 16) | view.getUint16(at, true)) / 8388608,
  32: (view, at) => view.getInt32(at, true) / 2147483648,
};
const FLOAT_READERS = {
  32: (view, at) => view.getFloat32(at, true),
  64: (view, at) => view.getFloat64(at, true),
};

// Return a Float32Array of `frames` samples for every channel.
function decode(view, { isFloat, channels, bits }, frames) {
  const read = (isFloat ? FLOAT_READERS : READERS)[bits], width = bits / 8;
  const rows = Array.from({ length: channels }, () => new Float32Array(frames));
  for (let i = 0, at = 0; i < frames; i++) {
    for (let c = 0; c < channels; c++, at += width) rows[c][i] = read(view, at);
  }
  return rows;
}

// Return the header of a WAV of float32 samples; from 4 GB on it is an RF64 (EBU Tech 3306).
export function wavHeader(sampleRate, channels, frames) {
  const view = new DataView(new ArrayBuffer(HEADER_BYTES));
  const dataBytes = 4 * channels * frames, riffBytes = HEADER_BYTES - 8 + dataBytes;
  const isLong = riffBytes > RIFF_LIMIT;
  let at = 0;
  const word = (text) => { for (const letter of text) view.setUint8(at++, letter.charCodeAt(0)); };
  const short = (value) => { view.setUint16(at, value, true); at += 2; };
  const int = (value) => { view.setUint32(at, value % 2 ** 32, true); at += 4; };
  const long = (value) => { int(value); int(Math.floor(value / 2 ** 32)); };
  word(isLong ? "RF64" : "RIFF");
  int(isLong ? UNKNOWN : riffBytes);
  word("WAVE");
  word(isLong ? "ds64" : "JUNK");
  int(28);
  for (const size of isLong ? [riffBytes, dataBytes, frames] : [0, 0, 0]) long(size);
  int(0);
  word("fmt ");
  int(16);
  short(FLOAT);
  short(channels);
  int(sampleRate);
  int(4 * channels * sampleRate);
  short(4 * channels);
  short(32);
  word("fact");
  int(4);
  int(isLong ? UNKNOWN : frames);
  word("data");
  int(isLong ? UNKNOWN : dataBytes);
  return view.buffer;
}
