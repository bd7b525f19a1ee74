/**
 * Gives the files of a mounted volume to a group, where the plugin does not do it itself (VOLUME_MOUNT_GROUP): the group
 * owns everything, may read and write it, and owns what is made in directories later. Done by a process of its own
 * (group-ownership-process.ts), which is killed when the volume hangs.
 */
import { type HostCommandOptions, hostCommand } from './host-command.ts';
import { programFile } from './package-dir.ts';

export interface OwnershipWish {
  /** The mounted directory. */
  readonly path: string;
  /** A group id. */
  readonly group: number;
  /** "root-mismatch": only when the directory itself does not fit yet. */
  readonly policy: 'never' | 'root-mismatch' | 'always';
}

const MAIN = programFile('group-ownership-process');

/** @throws {RuntimeError} INTERNAL with the reason, DEADLINE_EXCEEDED */
export async function own(
  { path, group, policy }: OwnershipWish,
  signal: AbortSignal,
  options: HostCommandOptions,
): Promise<void> {
  if (policy === 'never') return;
  await hostCommand(process.execPath, [MAIN, path, String(group), policy], signal, options);
}
