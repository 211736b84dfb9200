// What the browser must have to separate sound, and in plain lines what to do where it lacks it.

// A module with one function that uses a 128-bit vector: (func (result v128) i32.const 0
// i8x16.splat). It is valid only where WebAssembly has SIMD.
const SIMD_MODULE = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15,
  11,
]);
const UPDATE = "update the browser, or use a current Chrome, Edge, Firefox or Safari";
const HTTPS = "open the page by https, or from this computer as http://localhost";

// Return {all, live}: lines about what is missing for everything, and for live sound alone.
export function findMissing(scope = globalThis) {
  const all = [], live = [];
  if (!scope.WebAssembly?.validate) {
    all.push(`This browser has no WebAssembly, which runs the separation: ${UPDATE}.`);
  } else if (!scope.WebAssembly.validate(SIMD_MODULE)) {
    all.push(`This browser's WebAssembly has no SIMD, without which it is too slow: ${UPDATE}.`);
  }
  if (!scope.Worker) {
    all.push(`This browser has no workers, in which the separation runs: ${UPDATE}.`);
  }
  if (!scope.isSecureContext) {
    live.push(`A browser gives the microphone only to pages of a secure address: ${HTTPS}.`);
  } else {
    if (!scope.AudioWorkletNode) {
      live.push(`This browser has no AudioWorklet, so live sound can't be processed: ${UPDATE}.`);
    }
    if (!scope.navigator?.mediaDevices?.getUserMedia) {
      live.push(`This browser gives pages no microphone: ${UPDATE}.`);
    }
  }
  return { all, live };
}

// Return the line for an error of getUserMedia.
export function microphoneProblem(error) {
  if (error.name === "NotAllowedError") {
    return "the microphone isn't allowed: allow it beside the page's address, then start again";
  }
  if (error.name === "NotFoundError" || error.name === "OverconstrainedError") {
    return "that microphone isn't there: plug it in, or choose another, then start again";
  }
  if (error.name === "NotReadableError") {
    return "the microphone can't be opened; another program may be using it alone";
  }
  return `the microphone can't be opened: ${error.message}`;
}
