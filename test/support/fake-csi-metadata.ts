/** The SnapshotMetadata service of a FakeCsi: tables of runs, told in messages of a few, with streams that can break. */
import type { ServerWritableStream, UntypedServiceImplementation } from '@grpc/grpc-js';
import type { Message } from './csi-message.ts';
import type { FakeCsi } from './fake-csi.ts';
import { FakeStatus } from './fake-status.ts';

type Run = readonly [offset: number, size: number];

export class FakeMetadata {
  /** Runs that hold data. */
  allocated: readonly Run[] = [];
  /** Runs that differ. */
  changed: readonly Run[] = [];
  kind = 'FIXED_LENGTH';
  volumeBytes = '1048576';
  /** Messages after which each of the next streams breaks, with which error. */
  readonly breaks: { readonly after: number; readonly error: FakeStatus }[] = [];
  /** Changes the nth message of a stream. */
  spoil: (message: Message, index: number) => Message = (message) => message;
  readonly #plugin: FakeCsi;

  constructor(plugin: FakeCsi) {
    this.#plugin = plugin;
  }

  /** Methods of SnapshotMetadata. */
  handlers(): UntypedServiceImplementation {
    return {
      GetMetadataAllocated: (call: ServerWritableStream<Message, Message>) =>
        this.#tell('GetMetadataAllocated', call, [call.request['snapshotId']], this.allocated),
      GetMetadataDelta: (call: ServerWritableStream<Message, Message>) => {
        const { baseSnapshotId, targetSnapshotId } = call.request;
        this.#tell('GetMetadataDelta', call, [baseSnapshotId, targetSnapshotId], this.changed);
      },
    };
  }

  #tell(rpc: string, call: ServerWritableStream<Message, Message>, ids: readonly string[], all: readonly Run[]): void {
    const { request } = call;
    this.#plugin.calls.push({ rpc, request });
    const unknown = ids.find((id) => !this.#plugin.snapshots.snapshots.has(id));
    if (unknown !== undefined) {
      call.emit('error', new FakeStatus('NOT_FOUND', `no snapshot ${unknown}`));
      return;
    }
    const runs = all.filter(([offset, size]) => offset + size > Number(request['startingOffset']));
    const size: number = request['maxResults'];
    const broken = this.breaks.shift();
    for (let index = 0; index * size < runs.length; index += 1) {
      if (index === broken?.after) break;
      const blockMetadata = runs
        .slice(index * size, (index + 1) * size)
        .map(([byteOffset, sizeBytes]) => ({ byteOffset: String(byteOffset), sizeBytes: String(sizeBytes) }));
      call.write(
        this.spoil({ blockMetadataType: this.kind, volumeCapacityBytes: this.volumeBytes, blockMetadata }, index),
      );
    }
    if (broken === undefined) call.end();
    else call.emit('error', broken.error);
  }
}
