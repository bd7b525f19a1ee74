/**
 * Which bytes of an image hold data, or differ from those of another image. The images are read: what the file system
 * knows of holes and shared blocks is neither exact nor the same everywhere, and comparing runs at the speed of memory.
 */
import { open } from 'node:fs/promises';

/** Bytes that belong together, a whole number of blocks, the last of an image perhaps less. */
export interface Run {
  readonly offset: number;
  readonly bytes: number;
}

/** Finest difference that is told. */
export const BLOCK_BYTES = 4096;
/** Read at once. */
const CHUNK_BYTES = 1024 * 1024;

/**
 * Runs of `image` from the block of `from` on that differ from `base`; without a base, those that are not zero. Beyond
 * the end of the base there are zeros. In order, with a gap between any two.
 */
export async function* differingRuns(
  image: string,
  base: string | undefined,
  from: number,
  signal: AbortSignal,
): AsyncGenerator<Run> {
  await using file = await open(image, 'r');
  await using other = base === undefined ? undefined : await open(base, 'r');
  const chunk = Buffer.alloc(CHUNK_BYTES);
  const otherChunk = Buffer.alloc(CHUNK_BYTES);
  let run: { offset: number; bytes: number } | undefined;
  for (let offset = from - (from % BLOCK_BYTES); ; offset += CHUNK_BYTES) {
    signal.throwIfAborted();
    const { bytesRead } = await file.read(chunk, 0, CHUNK_BYTES, offset);
    if (bytesRead === 0) break;
    if (other !== undefined) {
      const { bytesRead: otherRead } = await other.read(otherChunk, 0, CHUNK_BYTES, offset);
      otherChunk.fill(0, otherRead);
    }
    for (const block of differingBlocks(chunk.subarray(0, bytesRead), otherChunk.subarray(0, bytesRead))) {
      const start = offset + block.offset;
      if (run !== undefined && run.offset + run.bytes === start) {
        run.bytes += block.bytes;
        continue;
      }
      if (run !== undefined) yield run;
      run = { offset: start, bytes: block.bytes };
    }
  }
  if (run !== undefined) yield run;
}

/** Blocks in which two buffers of one length differ. */
function* differingBlocks(one: Buffer, other: Buffer): Generator<Run> {
  if (one.equals(other)) return;
  for (let offset = 0; offset < one.length; offset += BLOCK_BYTES) {
    const end = Math.min(offset + BLOCK_BYTES, one.length);
    if (one.compare(other, offset, end, offset, end) !== 0) yield { offset, bytes: end - offset };
  }
}
