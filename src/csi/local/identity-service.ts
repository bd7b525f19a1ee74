/** CSI's Identity service: the driver's name, what it offers, and whether the host has what it needs. */
import { accessSync, constants, existsSync } from 'node:fs';
import { RuntimeError } from '../../errors.ts';
import { HOST_ENV } from '../../host-command.ts';
import type { IdentityDefinition } from '../generated/csi/v1/Identity.ts';
import { LOCAL_DRIVER_NAME } from './local-driver.ts';
import type { Handlers } from './rpc.ts';

const VENDOR_VERSION = '0.1.0';

/** Programs each volume needs; mkfs.xfs and xfs_growfs are missed only by those who ask for xfs. */
const PROGRAMS = ['flock', 'losetup', 'mount', 'umount', 'blockdev', 'mkfs.ext4', 'resize2fs'] as const;

export function identityService(): Handlers<IdentityDefinition> {
  return {
    GetPluginInfo: async () => ({ name: LOCAL_DRIVER_NAME, vendorVersion: VENDOR_VERSION }),
    GetPluginCapabilities: async () => ({
      capabilities: [
        { service: { type: 'CONTROLLER_SERVICE' } },
        { service: { type: 'GROUP_CONTROLLER_SERVICE' } },
        { service: { type: 'SNAPSHOT_METADATA_SERVICE' } },
        { service: { type: 'VOLUME_ACCESSIBILITY_CONSTRAINTS' } },
        { volumeExpansion: { type: 'ONLINE' } },
      ],
    }),
    Probe: async () => {
      requireHostParts();
      return { ready: { value: true } };
    },
  };
}

/** @throws {RuntimeError} FAILED_PRECONDITION naming what the host lacks (CSI Probe: a missing dependency) */
function requireHostParts(): void {
  const dirs = (HOST_ENV['PATH'] ?? '').split(':');
  const lacks: string[] = PROGRAMS.filter((program) => !dirs.some((dir) => isExecutable(`${dir}/${program}`)));
  if (!existsSync('/dev/loop-control')) lacks.push('/dev/loop-control');
  if (lacks.length > 0) throw new RuntimeError('FAILED_PRECONDITION', `the host lacks ${lacks.join(', ')}`);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
