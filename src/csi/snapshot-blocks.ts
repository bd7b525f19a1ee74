/**
 * Which bytes of a snapshot hold data, and which differ between two snapshots of a volume (CSI GetMetadataAllocated,
 * GetMetadataDelta). Plugins tell it as a stream; only its normal end means that all was told. A stream that breaks is
 * begun again just behind the last byte that was told of.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { invalid, RuntimeError } from '../errors.ts';
import { isRefusal } from './error-reactions.ts';
import type { Plugin } from './plugin.ts';
import type { CallSubject, PluginCaller } from './plugin-caller.ts';
import { CsiError, type Response, type StreamRpc } from './protocol.ts';
import type { SnapshotRecord } from './snapshot.ts';

/** A run of bytes; decimal, since int64 is wider than a number. */
export interface BlockRun {
  readonly offset: string;
  readonly size: string;
}

/** Some of the runs, in ascending order, none over another. */
export interface BlockPage {
  /** "fixed": all runs of a stream have the same size. A run whose beginning was asked past is shorter. */
  readonly kind: 'fixed' | 'variable';
  /** Size of the volume. */
  readonly volumeBytes: string;
  readonly runs: readonly BlockRun[];
}

/** What is asked. */
export interface BlockQuestion {
  readonly snapshot: SnapshotRecord;
  /** An earlier snapshot of the same volume: then only what differs is told. */
  readonly base?: SnapshotRecord | undefined;
  /** First byte that matters. */
  readonly startingOffset: bigint;
  /** Most runs of one page; 0: 1,000. */
  readonly maxResults: number;
}

const KINDS: Readonly<Record<string, BlockPage['kind'] | undefined>> = {
  FIXED_LENGTH: 'fixed',
  VARIABLE_LENGTH: 'variable',
};
const USUAL_RESULTS = 1000;
const MAX_RESULTS = 10_000;
const MAX_INT64 = 2n ** 63n - 1n;
/** Streams in a row that break without telling anything. */
const MAX_FAILURES = 5;
const FIRST_PAUSE_MS = 100;

/**
 * The runs, page by page.
 * @throws {RuntimeError} INVALID_ARGUMENT, FAILED_PRECONDITION when the snapshots cannot be compared, UNIMPLEMENTED when
 * the plugin does not tell; between pages what the plugin says
 */
export async function* snapshotBlocks(
  caller: PluginCaller,
  question: BlockQuestion,
  signal: AbortSignal,
): AsyncGenerator<BlockPage> {
  const ids = checked(question);
  const { driver, name, secretsName } = question.snapshot;
  const plugin = await caller.plugin(driver, signal);
  const rpc: StreamRpc = ids.base === undefined ? 'GetMetadataAllocated' : 'GetMetadataDelta';
  if (!plugin.capabilities.plugin.has('SNAPSHOT_METADATA_SERVICE')) {
    throw new CsiError('UNIMPLEMENTED', driver, rpc, 'the plugin does not tell what blocks of snapshots hold');
  }
  const subject = { name: `blocks/${name}`, driver, secretsName };
  const reader = new BlockReader(plugin, rpc, question.startingOffset);
  for (let failures = 0; ; ) {
    try {
      for await (const message of ask(caller, subject, { ids, at: reader.offset, question }, signal)) {
        const page = reader.read(message);
        if (page.runs.length === 0) continue;
        failures = 0;
        yield page;
      }
      return;
    } catch (error) {
      failures += 1;
      if (!isResumable(error) || signal.aborted || failures >= MAX_FAILURES) throw error;
      await sleep(FIRST_PAUSE_MS * 2 ** (failures - 1), undefined, { signal });
      reader.again();
    }
  }
}

interface Ids {
  readonly target: string;
  readonly base?: string | undefined;
}

function ask(
  caller: PluginCaller,
  subject: CallSubject,
  { ids, at, question }: { readonly ids: Ids; readonly at: bigint; readonly question: BlockQuestion },
  signal: AbortSignal,
): AsyncIterable<Response<StreamRpc>> {
  const maxResults = question.maxResults === 0 ? USUAL_RESULTS : question.maxResults;
  const rest = { startingOffset: String(at), maxResults, secrets: {} };
  const { target, base } = ids;
  if (base === undefined)
    return caller.stream(subject, 'GetMetadataAllocated', { snapshotId: target, ...rest }, signal);
  const pair = { baseSnapshotId: base, targetSnapshotId: target };
  return caller.stream(subject, 'GetMetadataDelta', { ...pair, ...rest }, signal);
}

/** A refusal stays one, and so does a plugin that breaks the protocol. */
function isResumable(error: unknown): boolean {
  if (error instanceof BadStream || isRefusal(error)) return false;
  return error instanceof CsiError && error.code !== 'CANCELLED';
}

class BadStream extends CsiError {}

function checked({ snapshot, base, startingOffset, maxResults }: BlockQuestion): Ids {
  if (startingOffset < 0n || startingOffset > MAX_INT64) throw invalid('offset', `is outside 0 to ${MAX_INT64}`);
  if (!Number.isInteger(maxResults) || maxResults < 0 || maxResults > MAX_RESULTS) {
    throw invalid('max_results', `is outside 0 to ${MAX_RESULTS}`);
  }
  const target = readyId(snapshot);
  if (base === undefined) return { target };
  if (base.driver !== snapshot.driver) {
    const owners = `${base.name} is one of ${base.driver}, ${snapshot.name} of ${snapshot.driver}`;
    throw new RuntimeError('FAILED_PRECONDITION', `snapshots of two plugins cannot be compared: ${owners}`);
  }
  const [before, after] = [base.sourceVolumeId, snapshot.sourceVolumeId];
  if (before !== undefined && after !== undefined && before !== after) {
    const text = `snapshots ${base.name} and ${snapshot.name} are of two volumes, there is no difference to tell`;
    throw new RuntimeError('FAILED_PRECONDITION', text);
  }
  return { target, base: readyId(base) };
}

function readyId({ name, state, snapshotId }: SnapshotRecord): string {
  if (state === 'ready' && snapshotId !== undefined) return snapshotId;
  throw new RuntimeError('FAILED_PRECONDITION', `snapshot ${name} is ${state}: wait until it is ready`);
}

/** Checks what comes, across the streams of one answer, and knows up to which byte all was told. */
class BlockReader {
  readonly #plugin: Plugin;
  readonly #rpc: StreamRpc;
  #offset: bigint;
  /** End of the last run of this stream. */
  #end = 0n;
  #first: Pick<BlockPage, 'kind' | 'volumeBytes'> | undefined;

  constructor(plugin: Plugin, rpc: StreamRpc, offset: bigint) {
    this.#plugin = plugin;
    this.#rpc = rpc;
    this.#offset = offset;
  }

  /** Just behind the last byte that was told of. */
  get offset(): bigint {
    return this.#offset;
  }

  /** A new stream begins. */
  again(): void {
    this.#end = 0n;
  }

  /** @throws {CsiError} INTERNAL when the answer cannot be */
  read(message: Response<StreamRpc>): BlockPage {
    try {
      return this.#read(message);
    } catch (error) {
      const { message: reason } = RuntimeError.from(error, 'bad answer');
      const { name } = this.#plugin;
      throw new BadStream('INTERNAL', name, this.#rpc, `its answer breaks the protocol: ${reason}`, { cause: error });
    }
  }

  #read({ blockMetadataType, volumeCapacityBytes, blockMetadata }: Response<StreamRpc>): BlockPage {
    const kind = KINDS[String(blockMetadataType)];
    if (kind === undefined) throw new RuntimeError('INTERNAL', `block_metadata_type is ${String(blockMetadataType)}`);
    const first = this.#first ?? { kind, volumeBytes: volumeCapacityBytes };
    // Both stay what they are (CSI "SnapshotMetadata").
    if (first.kind !== kind)
      throw new RuntimeError('INTERNAL', `block_metadata_type was ${first.kind}, now it is ${kind}`);
    if (first.volumeBytes !== volumeCapacityBytes) {
      const text = `volume_capacity_bytes was ${first.volumeBytes}, now it is ${volumeCapacityBytes}`;
      throw new RuntimeError('INTERNAL', text);
    }
    this.#first = first;
    return {
      ...first,
      runs: blockMetadata.flatMap(({ byteOffset, sizeBytes }) => this.#run(BigInt(byteOffset), BigInt(sizeBytes))),
    };
  }

  /** The first run may begin before what was asked for. */
  #run(offset: bigint, size: bigint): BlockRun[] {
    if (size <= 0n || offset < this.#end) {
      throw new RuntimeError('INTERNAL', `${size} bytes at ${offset} after a run that ends at ${this.#end}`);
    }
    const end = offset + size;
    this.#end = end;
    const from = offset < this.#offset ? this.#offset : offset;
    if (end <= from) return [];
    this.#offset = end;
    return [{ offset: String(from), size: String(end - from) }];
  }
}
