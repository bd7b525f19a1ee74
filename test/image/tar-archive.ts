/** Tar archives for tests: made entry by entry, so that they may hold what no tar program would write. */
import { createWriteStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { createGzip, createZstdCompress } from 'node:zlib';
import { pack } from 'tar-stream';

/** One entry; text or bytes make it a file. */
export interface TarEntry {
  readonly name: string;
  readonly type?: 'file' | 'link' | 'symlink' | 'directory' | 'block-device' | 'character-device' | 'fifo';
  readonly content?: string | Uint8Array;
  readonly linkname?: string;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly mtime?: Date;
  readonly pax?: Readonly<Record<string, string>>;
  readonly devmajor?: number;
  readonly devminor?: number;
}

/** Writes an archive to `path` and returns `path`. */
export async function writeTar(path: string, entries: Iterable<TarEntry>, packed?: 'gzip' | 'zstd'): Promise<string> {
  const archive = pack();
  const filling = fill(archive, entries);
  const out = createWriteStream(path);
  const chunks = (async function* (): AsyncGenerator<unknown> {
    yield* archive;
  })();
  if (packed === undefined) await pipeline(chunks, out);
  else await pipeline(chunks, packed === 'gzip' ? createGzip() : createZstdCompress(), out);
  await filling;
  return path;
}

async function fill(archive: ReturnType<typeof pack>, entries: Iterable<TarEntry>): Promise<void> {
  for (const { content, ...header } of entries) {
    await new Promise<void>((resolve, reject) => {
      const done = (error?: Error | null): void => (error == null ? resolve() : reject(error));
      archive.entry(header, content ?? '', done);
    });
  }
  archive.finalize();
}
