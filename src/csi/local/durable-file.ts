/** Files and names that survive a power failure once the call returns. */
import { open, rename } from 'node:fs/promises';

/** Puts `text` in the place of `path` in one step: a reader sees the old text or the new one, never a part. */
export async function writeDurably(path: string, text: string): Promise<void> {
  const fresh = `${path}.new`;
  const file = await open(fresh, 'w', 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(fresh, path);
  await syncDirectory(path.slice(0, path.lastIndexOf('/')));
}

/** Makes the names in a directory durable: those added, moved and removed. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
