/** Volumes of the embedded driver in use: brought up, filled, measured, taken away. */
import assert from 'node:assert/strict';
import { open } from 'node:fs/promises';
import { hostCommand } from '../../../src/host-command.ts';
import { type Driver, type Message, MIB, mountOf } from './driver.ts';

/** Makes, stages and publishes a volume; the request serves for the way back. */
export async function published(
  driver: Driver,
  name: string,
  create: Message,
  publish: Message = {},
): Promise<Message> {
  const volumeId = await driver.createVolume(name, create);
  const [volumeCapability] = create['volumeCapabilities'] ?? [mountOf()];
  const request = { volumeId, ...(await driver.paths(name)), volumeCapability, ...publish };
  await driver.call('NodeStageVolume', request);
  await driver.call('NodePublishVolume', request);
  return request;
}

export async function withdrawn(driver: Driver, request: Message): Promise<void> {
  await driver.call('NodeUnpublishVolume', request);
  await driver.call('NodeUnstageVolume', request);
}

/** Writes until the disk refuses; returns the bytes it took. */
export async function fill(path: string): Promise<number> {
  const file = await open(path, 'w');
  const chunk = Buffer.alloc(MIB, 7);
  try {
    for (;;) {
      const { bytesWritten } = await file.write(chunk);
      if (bytesWritten < chunk.length) await file.sync();
    }
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, 'ENOSPC');
    return (await file.stat()).size;
  } finally {
    await file.close();
  }
}

export async function blockSize(path: string): Promise<number> {
  return Number(await hostCommand('blockdev', ['--getsize64', path], AbortSignal.timeout(5000)));
}
