/** Volumes out of snapshots and out of other volumes, members of groups included, over a real socket. */
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { answerWith, failWith } from '../support/fake-csi.ts';
import { missing } from '../support/needs.ts';
import { hasCode, hostWithVolume, late, until, WORDS } from './snapshot-host.ts';
import { A, assertIdle, B, request, soon, volumeHost } from './volume-host.ts';

const RESTORE = { name: 'old', source: { kind: 'snapshot', name: 'before' }, parameters: {} } as const;
const CLONE = { name: 'copy', source: { kind: 'volume', name: 'data' }, parameters: {} } as const;

describe('VolumeManager.create from a source', { skip: missing('root', 'loop') }, () => {
  test('a restored volume holds what the snapshot saw, a clone what the volume holds now', async (t) => {
    const host = await hostWithVolume(t);
    const { path } = await host.volumes.publish('data', A, { readOnly: false }, soon());
    await writeFile(`${path}/note`, 'first');
    await host.snapshots.create(WORDS, soon());
    await writeFile(`${path}/note`, 'second');
    const old = await host.volumes.create(RESTORE, soon());
    const copy = await host.volumes.create(CLONE, soon());
    assert.deepEqual([old.capacityBytes, old.driver, old.access], [String(16 * 2 ** 20), 'fake.csi.test', 'mount']);
    assert.deepEqual(
      host.plugin.requests('CreateVolume').map((sent) => sent['volumeContentSource']?.type),
      [undefined, 'snapshot', 'volume'],
    );
    assert.equal(copy.source?.id, host.volumes.get('data').volumeId);
    for (const [name, text] of [
      ['old', 'first'],
      ['copy', 'second'],
    ] as const) {
      const place = await host.volumes.publish(name, B, { readOnly: false }, soon());
      assert.equal(await readFile(`${place.path}/note`, 'utf8'), text);
      await host.volumes.release(name, B, soon());
    }
    await host.volumes.release('data', A, soon());
    assertIdle(host);
  });

  test('the same words again are the same volume, also when the snapshot is gone', async (t) => {
    const host = await hostWithVolume(t);
    await host.snapshots.create(WORDS, soon());
    const made = await host.volumes.create(RESTORE, soon());
    await host.snapshots.remove('before', soon());
    assert.deepEqual(await host.volumes.create(RESTORE, soon()), made);
    await assert.rejects(host.volumes.create({ ...RESTORE, source: CLONE.source }, soon()), hasCode('ALREADY_EXISTS'));
    assert.equal(host.plugin.requests('CreateVolume').length, 2);
  });

  test('a plugin that overlooks the source: the empty volume is deleted, nothing is on record', async (t) => {
    const host = await hostWithVolume(t);
    await host.snapshots.create(WORDS, soon());
    for (const contentSource of [undefined, { snapshot: { snapshotId: 'another' } }, { volume: { volumeId: 'x' } }]) {
      host.plugin.next(
        'CreateVolume',
        answerWith(({ volume }) => ({ volume: { ...volume, contentSource } })),
      );
      await assert.rejects(host.volumes.create(RESTORE, soon()), hasCode('FAILED_PRECONDITION', /content_source/));
      assert.deepEqual([...host.plugin.volumes.keys()], [host.volumes.get('data').volumeId]);
      assert.equal(host.volumes.list().length, 1);
    }
  });

  test('a repeated CreateVolume says the same source, and the source stays until the volume is made', async (t) => {
    const host = await hostWithVolume(t);
    await host.snapshots.create(WORDS, soon());
    for (const wish of [RESTORE, CLONE]) {
      host.plugin.next('CreateVolume', failWith('UNAVAILABLE', { afterEffect: true }), late(300));
      const making = host.volumes.create(wish, soon());
      await until(() => host.volumes.list().some(({ name }) => name === wish.name), 'on record');
      const removal = wish === RESTORE ? host.snapshots.remove('before', soon()) : host.volumes.remove('data', soon());
      await assert.rejects(removal, hasCode('FAILED_PRECONDITION', new RegExp(`${wish.name} is being made of it`)));
      await making;
      const sent = host.plugin.requests('CreateVolume').slice(-2);
      assert.deepEqual(sent[0], sent[1]);
    }
    assert.deepEqual(host.plugin.violations, []);
  });

  test('what does not fit is refused before the plugin is asked', async (t) => {
    const host = await hostWithVolume(t);
    await host.snapshots.create(WORDS, soon());
    const refusals = [
      [{ ...RESTORE, capacityBytes: 1024 }, 'INVALID_ARGUMENT', /^size: 1024 bytes are fewer/],
      [{ ...RESTORE, driver: 'other.csi.test' }, 'INVALID_ARGUMENT', /^driver: snapshot before belongs to fake/],
      [{ ...RESTORE, access: 'block' }, 'INVALID_ARGUMENT', /^access/],
      [{ ...RESTORE, source: { kind: 'snapshot', name: 'none' } }, 'NOT_FOUND', /no such snapshot/],
      [{ ...CLONE, source: { kind: 'volume', name: 'none' } }, 'NOT_FOUND', /no such volume/],
    ] as const;
    for (const [wish, code, text] of refusals) {
      await assert.rejects(host.volumes.create(wish, soon()), hasCode(code, text));
    }
    assert.equal(host.plugin.requests('CreateVolume').length, 1);
    assert.equal((await host.volumes.create({ ...RESTORE, capacityBytes: 2 ** 25 }, soon())).capacityBytes, '33554432');
  });

  test('a plugin without the capability is not asked', async (t) => {
    const host = await hostWithVolume(t, { controller: ['CREATE_DELETE_VOLUME'] });
    await assert.rejects(host.volumes.create(CLONE, soon()), hasCode('UNIMPLEMENTED', /CLONE_VOLUME/));
    assert.equal(host.volumes.list().length, 1);
  });
});

const GROUPS = {
  controller: ['CREATE_DELETE_VOLUME', 'CREATE_DELETE_SNAPSHOT', 'GET_SNAPSHOT'],
  groupController: ['CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT'],
};
const NIGHTLY = { name: 'nightly', volumes: ['log', 'data'], parameters: {} };

describe('group snapshots', () => {
  test('are cut in one call, polled with the same words, used one by one and removed together', async (t) => {
    const host = await hostWithVolume(t, GROUPS);
    await host.volumes.create(request({ name: 'log' }), soon());
    host.plugin.snapshots.readyAfter = 3;
    const cut = await host.snapshots.createGroup(NIGHTLY, soon());
    assert.equal(cut.state, 'processing');
    assert.deepEqual(
      host.snapshots.list().map(({ name, state, group }) => [name, state, group]),
      [
        ['nightly.data', 'processing', 'nightly'],
        ['nightly.log', 'processing', 'nightly'],
      ],
    );
    await assert.rejects(host.volumes.remove('log', soon()), hasCode('FAILED_PRECONDITION', /group snapshot nightly/));
    await host.snapshots.untilGroupReady('nightly', soon());
    const sent = host.plugin.requests('CreateVolumeGroupSnapshot');
    assert.equal(sent.length, 3);
    for (const other of sent) assert.deepEqual(other, sent[0]);
    await host.volumes.create(
      { name: 'old', source: { kind: 'snapshot', name: 'nightly.log' }, parameters: {} },
      soon(),
    );
    await assert.rejects(
      host.snapshots.remove('nightly.log', soon()),
      hasCode('FAILED_PRECONDITION', /berth snapshot group rm nightly/),
    );
    await assert.rejects(host.snapshots.create({ ...WORDS, name: 'nightly.log' }, soon()), hasCode('ALREADY_EXISTS'));
    // The ids outlive the daemon.
    await host.start();
    await host.snapshots.recover(soon());
    await host.snapshots.removeGroup('nightly', soon());
    assert.equal(host.plugin.snapshots.groups.size + host.plugin.snapshots.snapshots.size, 0);
    assert.deepEqual(host.snapshots.list(), []);
    assert.deepEqual(host.plugin.violations, []);
  });

  test('a cut of which nothing was heard is found and deleted with all its ids', async (t) => {
    const host = await hostWithVolume(t, GROUPS);
    host.plugin.next('CreateVolumeGroupSnapshot', late(300));
    const request = { ...NIGHTLY, volumes: ['data'] };
    await assert.rejects(host.snapshots.createGroup(request, AbortSignal.timeout(100)), /will be deleted/);
    await until(() => host.snapshots.listGroups().length === 0, 'deleted');
    assert.equal(host.plugin.requests('DeleteVolumeGroupSnapshot').length, 1);
    assert.equal(host.plugin.snapshots.snapshots.size, 0);
    assert.deepEqual(host.plugin.violations, []);
  });

  test('an answer that misses a member is refused, and what was cut is deleted', async (t) => {
    const host = await hostWithVolume(t, GROUPS);
    await host.volumes.create(request({ name: 'log' }), soon());
    const wrongs = [
      (group: { snapshots: unknown[] }) => ({ ...group, snapshots: group.snapshots.slice(1) }),
      (group: { snapshots: object[] }) => ({
        ...group,
        snapshots: group.snapshots.map((one) => ({ ...one, groupSnapshotId: '' })),
      }),
    ];
    for (const wrong of wrongs) {
      host.plugin.next(
        'CreateVolumeGroupSnapshot',
        answerWith(({ groupSnapshot }) => ({ groupSnapshot: wrong(groupSnapshot) })),
      );
      await assert.rejects(host.snapshots.createGroup(NIGHTLY, soon()), /breaks the protocol/);
      assert.deepEqual(host.snapshots.listGroups(), []);
    }
    assert.equal(host.plugin.requests('DeleteVolumeGroupSnapshot').length, wrongs.length);
  });

  test('are refused before any side effect where they cannot be', async (t) => {
    const host = await hostWithVolume(t);
    await assert.rejects(
      host.snapshots.createGroup({ ...NIGHTLY, volumes: ['data'] }, soon()),
      hasCode('UNIMPLEMENTED', /GROUP_SNAPSHOT/),
    );
    await assert.rejects(host.snapshots.createGroup({ ...NIGHTLY, volumes: [] }, soon()), hasCode('INVALID_ARGUMENT'));
    await assert.rejects(
      host.snapshots.createGroup({ ...NIGHTLY, volumes: ['data', 'data'] }, soon()),
      hasCode('INVALID_ARGUMENT', /twice/),
    );
    assert.deepEqual(host.snapshots.listGroups(), []);
  });
});

describe('snapshots of others', () => {
  test('a registered snapshot is looked up, can be restored, and is only forgotten', async (t) => {
    for (const controller of [
      GROUPS.controller,
      ['CREATE_DELETE_VOLUME', 'CREATE_DELETE_SNAPSHOT', 'LIST_SNAPSHOTS'],
    ]) {
      const host = await hostWithVolume(t, { controller });
      const { snapshotId } = await host.snapshots.create(WORDS, soon());
      assert.ok(snapshotId !== undefined);
      const known = { name: 'foreign', driver: 'fake.csi.test', snapshotId };
      await assert.rejects(host.snapshots.register(known, soon()), hasCode('ALREADY_EXISTS', /known as before/));
      // Another database, the same plugin.
      const other = await volumeHost(t, { controller });
      for (const [id, snapshot] of host.plugin.snapshots.snapshots) other.plugin.snapshots.snapshots.set(id, snapshot);
      other.plugin.snapshots.readyAfter = 5;
      const registered = await other.snapshots.register(known, soon());
      assert.deepEqual([registered.owned, registered.sizeBytes], [false, String(16 * 2 ** 20)]);
      await other.snapshots.register({ ...known, name: 'twin' }, soon()).then(
        () => assert.fail('registered twice'),
        (error) => assert.match(error.message, /known as foreign/),
      );
      if (controller === GROUPS.controller)
        assert.equal((await other.snapshots.untilReady('foreign', soon())).state, 'ready');
      const [used, unused] =
        controller === GROUPS.controller ? ['GetSnapshot', 'ListSnapshots'] : ['ListSnapshots', 'GetSnapshot'];
      assert.ok(other.plugin.requests(used).every(({ snapshotId: asked }) => asked === snapshotId || asked === 'none'));
      assert.ok(other.plugin.requests(used).length > 0 && other.plugin.requests(unused).length === 0);
      await other.snapshots.remove('foreign', soon());
      assert.deepEqual(other.plugin.requests('DeleteSnapshot'), []);
      await assert.rejects(other.snapshots.register({ ...known, snapshotId: 'none' }, soon()), hasCode('NOT_FOUND'));
    }
  });

  test('all pages are read, duplicates count once, and a stale token begins anew', async (t) => {
    const host = await hostWithVolume(t);
    for (const name of ['a', 'b', 'c', 'd', 'e']) await host.snapshots.create({ ...WORDS, name }, soon());
    const all = await host.snapshots.listAtPlugin('fake.csi.test', undefined, soon());
    assert.deepEqual(
      all.map(({ name }) => name),
      ['a', 'b', 'c', 'd', 'e'],
    );
    assert.equal(host.plugin.requests('ListSnapshots').length, 3);
    host.plugin.next(
      'ListSnapshots',
      answerWith(({ entries, nextToken }) => ({ entries: [...entries, entries[0]], nextToken })),
      failWith('ABORTED'),
    );
    const again = await host.snapshots.listAtPlugin('fake.csi.test', 'data', soon());
    assert.deepEqual(again, all);
    const tokens = host.plugin.requests('ListSnapshots').map(({ startingToken }) => startingToken);
    assert.deepEqual(tokens.slice(3), ['', '2', '', '2', '4']);
    // A listing that never ends.
    const endless = Array.from({ length: 3 }, () => answerWith((page) => ({ ...page, nextToken: '2' })));
    host.plugin.next('ListSnapshots', ...endless);
    await assert.rejects(host.snapshots.listAtPlugin('fake.csi.test', undefined, soon()), /does not end/);
  });
});
