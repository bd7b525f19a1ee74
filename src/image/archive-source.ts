/**
 * The bytes of an archive: a regular file, unpacked on the way when it is gzip or zstd, counted against the limits and
 * hashed. Memory stays bounded whatever the file says: chunks are passed on one by one, and a window of zstd that would
 * need more than 64 MiB is refused.
 */
import { createHash } from 'node:crypto';
import { constants as fsConstants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { isAbsolute } from 'node:path';
import type { Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip, createZstdDecompress, constants as zlibConstants } from 'node:zlib';
import { invalid, RuntimeError, systemCode } from '../errors.ts';
import type { ImageLimits } from './image-limits.ts';

/** Read or unpacked at a time: at most 128 headers, so that the event loop gets its turn between them. */
const CHUNK_BYTES = 64 * 1024;
const MAX_ZSTD_WINDOW_LOG = 26;
/** Below this many bytes nobody asks how well an archive was packed. */
const RATIO_FLOOR_BYTES = 64 * 1024 * 1024;

/** First bytes of formats, and what is done about them. */
const FORMATS: readonly { readonly magic: Buffer; readonly unpack?: () => Duplex; readonly refusal?: string }[] = [
  { magic: Buffer.from('1f8b', 'hex'), unpack: () => createGunzip({ chunkSize: CHUNK_BYTES }) },
  { magic: Buffer.from('28b52ffd', 'hex'), unpack: zstdDecompress },
  { magic: Buffer.from('fd377a585a00', 'hex'), refusal: 'is packed by xz: unpack it with xz -d first' },
  { magic: Buffer.from('425a68', 'hex'), refusal: 'is packed by bzip2: unpack it with bzip2 -d first' },
];
const LONGEST_MAGIC = 6;

/** An archive that is open for reading. */
export class ArchiveSource implements AsyncDisposable {
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #unpack: (() => Duplex) | undefined;

  private constructor(path: string, file: FileHandle, unpack: (() => Duplex) | undefined) {
    this.#path = path;
    this.#file = file;
    this.#unpack = unpack;
  }

  /**
   * Opens a file; never waits for a FIFO.
   * @throws {RuntimeError} INVALID_ARGUMENT, NOT_FOUND or PERMISSION_DENIED naming the path
   */
  static async open(path: string): Promise<ArchiveSource> {
    if (!isAbsolute(path) || path.includes('\0')) throw invalid('source', `${quoted(path)} must be an absolute path`);
    const file = await openFile(path);
    try {
      if (!(await file.stat()).isFile()) throw invalid('source', `${quoted(path)} is not a regular file`);
      const head = Buffer.alloc(LONGEST_MAGIC);
      await file.read(head, 0, LONGEST_MAGIC, 0);
      const format = FORMATS.find(({ magic }) => head.subarray(0, magic.length).equals(magic));
      if (format?.refusal !== undefined) throw invalid('source', `${quoted(path)} ${format.refusal}`);
      return new ArchiveSource(path, file, format?.unpack);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /**
   * Passes every chunk of the unpacked archive to `sink`, in order, and returns the SHA-256 of all of them in hex.
   * @throws {RuntimeError} RESOURCE_EXHAUSTED above a limit; errors of the unpacker as they are
   */
  async stream(sink: (chunk: Buffer) => Promise<void>, limits: ImageLimits, signal: AbortSignal): Promise<string> {
    const hash = createHash('sha256');
    const file = this.#file.createReadStream({ start: 0, highWaterMark: CHUNK_BYTES, autoClose: false });
    let unpackedBytes = 0;
    const consume = async (chunks: AsyncIterable<Buffer>): Promise<void> => {
      for await (const chunk of chunks) {
        unpackedBytes += chunk.byteLength;
        this.#check(unpackedBytes, file.bytesRead, limits);
        hash.update(chunk);
        await sink(chunk);
      }
    };
    if (this.#unpack === undefined) await pipeline(file, consume, { signal });
    else await pipeline(file, this.#unpack(), consume, { signal });
    return hash.digest('hex');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }

  #check(unpackedBytes: number, packedBytes: number, limits: ImageLimits): void {
    const exhausted = (reason: string): RuntimeError =>
      new RuntimeError('RESOURCE_EXHAUSTED', `archive ${quoted(this.#path)} ${reason}`);
    if (unpackedBytes > limits.maxBytes) throw exhausted(`holds more than ${limits.maxBytes} bytes`);
    if (unpackedBytes > RATIO_FLOOR_BYTES && unpackedBytes > packedBytes * limits.maxRatio) {
      throw exhausted(`unpacks to more than ${limits.maxRatio} times its size`);
    }
  }
}

async function openFile(path: string): Promise<FileHandle> {
  try {
    return await open(path, fsConstants.O_RDONLY | fsConstants.O_NONBLOCK);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') {
      throw new RuntimeError('NOT_FOUND', `source: ${quoted(path)} does not exist on the host of berthd`, {
        cause: error,
      });
    }
    throw RuntimeError.from(error, `source: ${quoted(path)}`);
  }
}

function zstdDecompress(): Duplex {
  return createZstdDecompress({
    chunkSize: CHUNK_BYTES,
    params: { [zlibConstants.ZSTD_d_windowLogMax]: MAX_ZSTD_WINDOW_LOG },
  });
}

function quoted(text: string): string {
  return JSON.stringify(text.length > 120 ? `${text.slice(0, 120)}...` : text);
}
