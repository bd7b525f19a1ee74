/** What the tests of snapshots share: a host with a volume, and what is looked at afterwards. */
import assert from 'node:assert/strict';
import { RuntimeError } from '../../src/errors.ts';
import type { Behaviour } from '../support/fake-csi.ts';
import { type FakeOptions, request, soon, type VolumeHost, volumeHost } from './volume-host.ts';

export const SNAPSHOTS: FakeOptions = {
  controller: ['CREATE_DELETE_VOLUME', 'CREATE_DELETE_SNAPSHOT', 'CLONE_VOLUME', 'LIST_SNAPSHOTS'],
};
export const WORDS = { name: 'before', volume: 'data', parameters: { pool: 'cold' } };

export const hasCode =
  (code: string, text = /./) =>
  (error: unknown) =>
    error instanceof RuntimeError && error.code === code && text.test(error.message);

export async function hostWithVolume(...[t, options = SNAPSHOTS]: [Parameters<typeof volumeHost>[0], FakeOptions?]) {
  const host = await volumeHost(t, options);
  await host.volumes.create(request(), soon());
  return host;
}

/** Does what was asked, but only after a while. */
export function late(ms: number): Behaviour {
  return async (_request, effect) => {
    await new Promise((resolve) => setTimeout(resolve, ms));
    return effect();
  };
}

/** Waits until the records say so. */
export async function until(holds: () => boolean, what: string): Promise<void> {
  const deadline = Date.now() + 15_000;
  while (!holds()) {
    assert.ok(Date.now() < deadline, `never ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Nothing of any snapshot is left, at the plugin or on record, and the plugin has no complaint. */
export function assertGone(host: VolumeHost): void {
  assert.deepEqual(host.plugin.violations, []);
  assert.deepEqual([...host.plugin.snapshots.snapshots.keys()], []);
  assert.deepEqual(host.snapshots.list(), []);
}
