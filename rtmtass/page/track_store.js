// Where a worker keeps long sound: files of the browser's private file system, or Blobs where
// there is none. What is written comes back as a Blob, so nothing is ever whole in memory.
//
// A folder belongs to the worker that made it, as long as that lives: it holds a lock of the
// folder's name. Folders without a holder are left from pages that were closed; they are removed.

const FOLDER = "rtmtass";

class DiskTrack {
  constructor(handle, access) {
    this.handle = handle;
    this.access = access;
    this.size = 0;
  }

  // Append a typed array's bytes.
  append(samples) {
    const written = this.access.write(samples, { at: this.size });
    if (written < samples.byteLength) throw new Error("the browser has no space left for it");
    this.size += written;
  }

  async finish() {
    this.access.flush();
    this.access.close();
    return this.handle.getFile();
  }
}

class BlobTrack {
  constructor() {
    this.parts = [];
  }

  append(samples) {
    this.parts.push(new Blob([samples]));
  }

  async finish() {
    return new Blob(this.parts);
  }
}

export class Store {
  constructor(folder) {
    this.folder = folder; // null where there is no file system
    this.count = 0;
  }

  // Start a track: append() to it, then finish() gives its Blob.
  async track() {
    if (!this.folder) return new BlobTrack();
    const handle = await this.folder.getFileHandle(`${this.count++}`, { create: true });
    return new DiskTrack(handle, await handle.createSyncAccessHandle());
  }
}

// Make a store; only in a worker, as files are written synchronously.
export async function openStore() {
  try {
    const root = await navigator.storage.getDirectory();
    const all = await root.getDirectoryHandle(FOLDER, { create: true });
    await removeLeft(all);
    const name = crypto.randomUUID();
    await hold(name);
    return new Store(await all.getDirectoryHandle(name, { create: true }));
  } catch {
    return new Store(null); // a private window of some browsers
  }
}

// Hold a lock until this worker ends.
function hold(name) {
  return new Promise((resolve, reject) => {
    const forEver = () => {
      resolve();
      return new Promise(() => {});
    };
    navigator.locks.request(`${FOLDER}/${name}`, forEver).catch(reject);
  });
}

async function removeLeft(all) {
  for await (const name of all.keys()) {
    await navigator.locks.request(`${FOLDER}/${name}`, { ifAvailable: true }, async (lock) => {
      if (lock) await all.removeEntry(name, { recursive: true }).catch(() => {});
    });
  }
}
