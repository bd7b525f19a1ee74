/** Calls for volumes of a class get the secrets of the class, all of them, and calls about several volumes one set. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { SECRET_FIELDS } from '../../src/csi/redaction.ts';
import type { SnapshotRecord } from '../../src/csi/snapshot.ts';
import { missing } from '../support/needs.ts';
import { hasCode } from './snapshot-host.ts';
import { A, type FakeOptions, request, soon, volumeHost } from './volume-host.ts';

const ALL: FakeOptions = {
  controller: [
    'CREATE_DELETE_VOLUME',
    'PUBLISH_UNPUBLISH_VOLUME',
    'CREATE_DELETE_SNAPSHOT',
    'LIST_SNAPSHOTS',
    'GET_SNAPSHOT',
    'EXPAND_VOLUME',
    'MODIFY_VOLUME',
  ],
  node: ['STAGE_UNSTAGE_VOLUME', 'EXPAND_VOLUME'],
  expansion: 'ONLINE',
  groupController: ['CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT'],
  metadata: true,
};
const classed = (name: string, secretsName: string | undefined): Parameters<typeof request>[0] => ({
  ...{ name, secretsName },
  ...(secretsName === undefined ? {} : { volumeClass: secretsName }),
});

describe('secrets of a class', { skip: missing('root', 'loop') }, () => {
  test('go with every call that takes secrets', async (t) => {
    const secrets = (_driver: string, _rpc: string, _signal: AbortSignal, name = 'own'): { of: string } => ({
      of: name,
    });
    const host = await volumeHost(t, ALL, { secrets });
    const { volumes, snapshots, plugin } = host;
    for (const name of ['data', 'log']) await volumes.create(request(classed(name, 'fast')), soon());
    await volumes.publish('data', A, { readOnly: false }, soon());
    await volumes.expand('data', 32 * 2 ** 20, soon());
    await volumes.modify('data', { iops: '2' }, soon());
    for (const name of ['old', 'new']) await snapshots.create({ name, volume: 'data', parameters: {} }, soon());
    await snapshots.listAtPlugin(plugin.name, 'data', soon());
    for (const base of [undefined, 'old']) {
      for await (const page of snapshots.blocks({ name: 'new', base, startingOffset: 0n, maxResults: 1 }, soon())) {
        assert.ok(page);
      }
    }
    await snapshots.createGroup({ name: 'both', volumes: ['data', 'log'], parameters: {} }, soon());
    const { atPlugin } = await snapshots.lookAtGroup('both', soon());
    assert.equal(atPlugin, 'present');
    const member: SnapshotRecord = snapshots.get('both.data');
    assert.equal(member.secretsName, 'fast');
    await snapshots.removeGroup('both', soon());
    await snapshots.remove('old', soon());
    await volumes.release('data', A, soon());
    await volumes.remove('data', soon());
    const calls = SECRET_FIELDS.map((field) => field.replace(/Request\.secrets$/, ''));
    // These two are about what has no class: "their" snapshots, volumes that are there already.
    const classless = new Set(['GetSnapshot', 'ValidateVolumeCapabilities']);
    for (const rpc of calls.filter((one) => !classless.has(one))) {
      const sent = plugin.requests(rpc).map((one) => one['secrets']?.of);
      assert.ok(sent.length > 0 && sent.every((of) => of === 'fast'), `${rpc}: ${sent.join()}`);
    }
  });

  test('are those of its volume also for a snapshot that somebody else cut', async (t) => {
    const host = await volumeHost(t, ALL, { secrets: (_driver, _rpc, _signal, name = 'own') => ({ of: name }) });
    const { volumes, snapshots, plugin } = host;
    await volumes.create(request(classed('data', 'fast')), soon());
    const there = 'id-of-theirs';
    const sourceVolumeId = volumes.get('data').volumeId ?? '';
    const known = { id: there, name: 'theirs', request: {}, sourceVolumeId, sizeBytes: '0', group: '', asked: 0 };
    plugin.snapshots.snapshots.set(there, known);
    await snapshots.register({ name: 'theirs', driver: plugin.name, snapshotId: there }, soon());
    assert.deepEqual(
      plugin.requests('GetSnapshot').map(({ secrets }) => secrets),
      [{ of: 'own' }],
    );
    assert.equal(snapshots.get('theirs').secretsName, 'fast');
  });

  test('must be the same for all members of a group', async (t) => {
    const host = await volumeHost(t, ALL);
    for (const [name, secretsName] of [
      ['data', 'fast'],
      ['log', undefined],
    ] as const) {
      await host.volumes.create(request(classed(name, secretsName)), soon());
    }
    const made = host.snapshots.createGroup({ name: 'both', volumes: ['data', 'log'], parameters: {} }, soon());
    const sides =
      /volumes: .* data of class fast has secrets "fast", volume log of no class has the plugin's own secrets/;
    await assert.rejects(made, hasCode('INVALID_ARGUMENT', sides));
    assert.deepEqual([host.snapshots.listGroups(), host.plugin.requests('CreateVolumeGroupSnapshot')], [[], []]);
  });
});
