/** What tests of snapshots, clones and groups of the embedded driver do and look at. */
import { mkdir, open, readFile, truncate, writeFile } from 'node:fs/promises';
import { hostCommand } from '../../../src/host-command.ts';
import { cleanup, type TestScope } from '../../support/cleanup.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { Driver, type Message, MIB, mountOf } from './driver.ts';

/** A driver whose data directory lies on an xfs of its own, where copies share blocks. */
export async function startOnXfs(t: TestScope, sizeMib = 1024): Promise<Driver> {
  const driver = new Driver(await tempDir(t));
  cleanup(t, () => driver.dispose());
  const soon = AbortSignal.timeout(30_000);
  await mkdir(driver.dataDir);
  await writeFile(`${driver.dir}/disk`, '');
  await truncate(`${driver.dir}/disk`, sizeMib * MIB);
  await hostCommand('mkfs.xfs', ['-q', '-m', 'reflink=1', `${driver.dir}/disk`], soon);
  await hostCommand('mount', ['-o', 'loop', `${driver.dir}/disk`, driver.dataDir], soon);
  await driver.start();
  return driver;
}

export async function published(driver: Driver, name: string, create: Message = {}): Promise<Message> {
  const volumeId = await driver.createVolume(name, create);
  const [volumeCapability] = create['volumeCapabilities'] ?? [mountOf()];
  const request = { volumeId, ...(await driver.paths(name)), volumeCapability };
  await driver.call('NodeStageVolume', request);
  await driver.call('NodePublishVolume', request);
  return request;
}

export async function withdrawn(driver: Driver, request: Message): Promise<void> {
  await driver.call('NodeUnpublishVolume', request);
  await driver.call('NodeUnstageVolume', request);
}

export async function snapshotOf(driver: Driver, name: string, sourceVolumeId: string): Promise<Message> {
  return (await driver.call('CreateSnapshot', { name, sourceVolumeId }))['snapshot'];
}

export async function listed(driver: Driver, filter: Message = {}): Promise<string[]> {
  const { entries } = await driver.call('ListSnapshots', filter);
  return entries.map((entry: Message) => entry['snapshot'].snapshotId);
}

export function imageOf(driver: Driver, snapshot: Message): string {
  return `${driver.dataDir}/snapshots/${snapshot['snapshotId']}/image`;
}

/** What a file in a snapshot's file system holds, by a mount of its own of a copy. */
export async function readIn(t: TestScope, driver: Driver, snapshot: Message, file: string): Promise<string> {
  const dir = await tempDir(t);
  const soon = AbortSignal.timeout(20_000);
  await hostCommand('cp', [imageOf(driver, snapshot), `${dir}/image`], soon);
  await mkdir(`${dir}/m`);
  await hostCommand('mount', ['-o', 'loop', `${dir}/image`, `${dir}/m`], soon);
  try {
    return await readFile(`${dir}/m/${file}`, 'utf8');
  } finally {
    await hostCommand('umount', [`${dir}/m`], AbortSignal.timeout(10_000));
  }
}

/** Asks without hanging: only one that is not frozen can be frozen. */
export async function isFrozen(path: string): Promise<boolean> {
  const soon = AbortSignal.timeout(10_000);
  try {
    await hostCommand('fsfreeze', ['--freeze', path], soon);
  } catch {
    return true;
  }
  await hostCommand('fsfreeze', ['--unfreeze', path], soon);
  return false;
}

/** Whatever the test comes to, what it mounted can be unmounted. */
export function thawInTheEnd(t: TestScope, path: string): void {
  cleanup(t, () =>
    hostCommand('fsfreeze', ['--unfreeze', path], AbortSignal.timeout(10_000)).catch(() => 'it was not frozen'),
  );
}

export async function fillBlocks(path: string, mib: number): Promise<void> {
  const file = await open(path, 'r+');
  try {
    for (let index = 0; index < mib; index += 1) {
      await file.write(Buffer.alloc(MIB, 1 + (index % 200)), 0, MIB, index * MIB);
    }
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Waits for what happens inside the driver and shows on the disk only. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const giveUpAt = performance.now() + 20_000;
  while (!(await condition())) {
    if (performance.now() > giveUpAt) throw new Error('it did not come true');
    await new Promise((resolve) => setImmediate(resolve));
  }
}
