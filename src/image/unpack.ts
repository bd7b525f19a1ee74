/**
 * A root file system out of a tar archive: read once, as a stream, with every entry checked (archive-entry.ts) and
 * written by a walk that follows no link (tree-writer.ts). Owner, permissions and times are those of the archive; device
 * nodes, FIFOs and extended attributes are left out and counted.
 */
import { extract } from 'tar-stream';
import { invalid, RuntimeError } from '../errors.ts';
import { type ArchiveEntry, parseEntry } from './archive-entry.ts';
import type { ArchiveSource } from './archive-source.ts';
import type { ImageLimits } from './image-limits.ts';
import { TreeWriter } from './tree-writer.ts';

/** What was unpacked. */
export interface Unpacked {
  /** SHA-256 of the archive, unpacked, in hex. */
  readonly digest: string;
  /** Bytes of all files together. */
  readonly sizeBytes: number;
  readonly entries: number;
  /** Device nodes and FIFOs that were left out. */
  readonly droppedNodes: number;
  /** Entries whose extended attributes were left out. */
  readonly droppedAttributes: number;
}

/**
 * Unpacks an archive into an empty directory. When it throws, the directory holds what was written so far.
 * @throws {RuntimeError} INVALID_ARGUMENT naming what is wrong with the archive, RESOURCE_EXHAUSTED above a limit or
 * when the disk is full
 */
export async function unpack(
  source: ArchiveSource,
  dir: string,
  limits: ImageLimits,
  signal: AbortSignal,
): Promise<Unpacked> {
  const archive = extract();
  const stop = new AbortController();
  const failures: unknown[] = [];
  const reading = readEntries(archive, dir, limits).catch((error: unknown) => {
    failures.push(error);
    stop.abort(error);
    return undefined;
  });
  const feeding = feed(source, archive, limits, AbortSignal.any([signal, stop.signal])).catch((error: unknown) => {
    failures.push(error);
    archive.destroy(error instanceof Error ? error : new Error(String(error)));
    return undefined;
  });
  const [digest, tally] = await Promise.all([feeding, reading]);
  if (digest === undefined || tally === undefined) throw archiveError(failures[0], signal);
  return { digest, ...tally };
}

async function feed(
  source: ArchiveSource,
  archive: ReturnType<typeof extract>,
  limits: ImageLimits,
  signal: AbortSignal,
): Promise<string> {
  const digest = await source.stream(
    async (chunk) => {
      if (!archive.write(chunk)) await drained(archive, signal);
    },
    limits,
    signal,
  );
  archive.end(null);
  return digest;
}

/** Settles when more can be written, or when nothing ever will be: the reader's failure is reported by the reader. */
async function drained(archive: ReturnType<typeof extract>, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const { promise, resolve } = Promise.withResolvers<void>();
  const done = (): void => resolve();
  archive.once('drain', done);
  archive.once('close', done);
  signal.addEventListener('abort', done, { once: true });
  await promise;
  archive.off('drain', done);
  archive.off('close', done);
  signal.removeEventListener('abort', done);
  signal.throwIfAborted();
}

type Tally = Omit<Unpacked, 'digest'>;

async function readEntries(archive: ReturnType<typeof extract>, dir: string, limits: ImageLimits): Promise<Tally> {
  using tree = new TreeWriter(dir);
  const layout = new ArchiveLayout();
  const tally = { sizeBytes: 0, entries: 0, droppedNodes: 0, droppedAttributes: 0 };
  for await (const entry of archive) {
    tally.entries += 1;
    // A deep name makes directories that have no entry of their own.
    if (Math.max(tally.entries, tree.directories) > limits.maxEntries) {
      throw new RuntimeError('RESOURCE_EXHAUSTED', `archive: more than ${limits.maxEntries} entries`);
    }
    const parsed = parseEntry(entry.header, limits.maxPathBytes);
    layout.see(parsed);
    if (parsed.hasXattrs) tally.droppedAttributes += 1;
    if (parsed.kind === 'dropped') tally.droppedNodes += 1;
    tally.sizeBytes += await writeEntry(tree, parsed, bytesOf(entry));
    entry.resume();
  }
  layout.check(tally.entries);
  await tree.finish();
  return tally;
}

async function writeEntry(tree: TreeWriter, entry: ArchiveEntry, content: AsyncIterable<Uint8Array>): Promise<number> {
  switch (entry.kind) {
    case 'directory':
      tree.directory(entry.path, entry.attributes);
      return 0;
    case 'file':
      return tree.file(entry.path, entry.attributes, content);
    case 'symlink':
      tree.symlink(entry.path, entry.target, entry.attributes);
      return 0;
    case 'hardlink':
      tree.hardlink(entry.path, entry.target);
      return 0;
    case 'dropped':
      return 0;
  }
}

async function* bytesOf(entry: AsyncIterable<unknown>): AsyncGenerator<Uint8Array> {
  for await (const chunk of entry) {
    if (!(chunk instanceof Uint8Array)) throw new RuntimeError('INTERNAL', 'archive: a chunk that is no bytes');
    yield chunk;
  }
}

/** Tells a root file system from the archives that `docker save` and OCI tools write, which hold layers. */
class ArchiveLayout {
  #hasOciLayout = false;
  #hasManifest = false;
  #hasLayers = false;

  see({ kind, path }: ArchiveEntry): void {
    const [first, second] = path;
    if (kind === 'file' && path.length === 1 && first === 'oci-layout') this.#hasOciLayout = true;
    if (kind === 'file' && path.length === 1 && first === 'manifest.json') this.#hasManifest = true;
    if ((first === 'blobs' && second === 'sha256') || (path.length === 2 && second === 'layer.tar')) {
      this.#hasLayers = true;
    }
  }

  check(entries: number): void {
    if (entries === 0) throw invalid('archive', 'holds no entries: is it a tar archive of a root file system?');
    if (this.#hasLayers && (this.#hasOciLayout || this.#hasManifest)) {
      throw invalid(
        'archive',
        'looks like the output of docker save or an OCI layout; import takes a root file system, as docker export writes it',
      );
    }
  }
}

/** Failures of this machine keep their meaning; everything else is the archive's fault. */
function archiveError(error: unknown, signal: AbortSignal): RuntimeError {
  if (error instanceof RuntimeError) return error;
  if (signal.aborted) return RuntimeError.from(signal.reason, 'unpack archive', 'CANCELLED');
  if (error instanceof Error && 'syscall' in error) return RuntimeError.from(error, 'unpack archive');
  const reason = error instanceof Error ? error.message : String(error);
  return new RuntimeError('INVALID_ARGUMENT', `archive is damaged or no tar archive: ${reason}`, { cause: error });
}
