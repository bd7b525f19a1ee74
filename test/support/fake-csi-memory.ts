/**
 * What a FakeCsi finds again after it was killed: its volumes and attachments in a file, as a storage system has them;
 * what is staged and published in the kernel only.
 */
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { hostCommand } from '../../src/host-command.ts';
import { mountAt } from '../../src/mountinfo.ts';
import type { FakeVolume } from './fake-csi.ts';

/** The tables that outlive the process. */
interface Lasting {
  readonly volumes: Map<string, FakeVolume>;
  readonly attached: Map<string, string>;
}

/** Fills the tables from a file; an absent one says nothing. */
export function readState(file: string, into: Lasting): void {
  if (!existsSync(file)) return;
  const found: { volumes: FakeVolume[]; attached: [string, string][] } = JSON.parse(readFileSync(file, 'utf8'));
  for (const volume of found.volumes) into.volumes.set(volume.id, volume);
  for (const [volumeId, nodeId] of found.attached) into.attached.set(volumeId, nodeId);
}

/** Loop devices are the node's business and are not kept. */
export function writeState(file: string, { volumes, attached }: Lasting): void {
  const kept = [...volumes.values()].map(({ id, request, block, context }) => ({ id, request, block, context }));
  writeFileSync(`${file}.new`, JSON.stringify({ volumes: kept, attached: [...attached] }));
  renameSync(`${file}.new`, file);
}

/** Whether the kernel shows that a volume is staged. */
export async function isStagedAt(
  plugin: { backing(volume: FakeVolume): string },
  volume: FakeVolume,
  stage: string,
): Promise<boolean> {
  if (!volume.block) return mountAt(stage) !== undefined;
  return (await loopOver(plugin.backing(volume))) !== undefined;
}

/** The loop device over a file. */
export async function loopOver(file: string): Promise<string | undefined> {
  if (!existsSync(file)) return undefined;
  const found = await hostCommand('losetup', ['-j', file, '--noheadings', '-O', 'NAME'], AbortSignal.timeout(10_000));
  return found.trim().split('\n')[0] || undefined;
}
