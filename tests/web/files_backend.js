// The recordings of the real server with the live view of the fake backend.

import { openBackend as openFake } from "./fake_backend.js";
import { openFile } from "./server_files.js";

export async function openBackend() {
  const backend = await openFake();
  backend.openFile = openFile;
  return backend;
}
