/** Which bytes of snapshots hold data or differ, and how plugins see groups, over a real socket and by the command line. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { BlockPage, BlockRun } from '../../src/csi/snapshot-blocks.ts';
import type { BlockWords } from '../../src/csi/snapshot-manager.ts';
import { startDaemon } from '../support/daemon.ts';
import { FakeStatus, failWith, startFakeCsi } from '../support/fake-csi.ts';
import { needs } from '../support/needs.ts';
import { hasCode, hostWithVolume } from './snapshot-host.ts';
import { request, soon, type VolumeHost } from './volume-host.ts';

const TELLS = { controller: ['CREATE_DELETE_VOLUME', 'CREATE_DELETE_SNAPSHOT'], metadata: true };
const RUNS = Array.from({ length: 7 }, (_, index) => [index * 8192, 4096] as const);

async function hostWithSnapshots(t: Parameters<typeof hostWithVolume>[0], fake: object = TELLS): Promise<VolumeHost> {
  const host = await hostWithVolume(t, fake);
  for (const name of ['old', 'new']) await host.snapshots.create({ name, volume: 'data', parameters: {} }, soon());
  host.plugin.metadata.allocated = RUNS;
  host.plugin.metadata.changed = RUNS.slice(2, 4);
  return host;
}

async function pages(host: VolumeHost, words: Partial<BlockWords> = {}): Promise<BlockPage[]> {
  const found: BlockPage[] = [];
  const all = { name: 'new', startingOffset: 0n, maxResults: 2, ...words };
  for await (const page of host.snapshots.blocks(all, soon())) found.push(page);
  return found;
}

const runs = (found: readonly BlockPage[]): BlockRun[] => found.flatMap((page) => page.runs);
const told = (all: readonly (readonly [number, number])[]): BlockRun[] =>
  all.map(([offset, size]) => ({ offset: String(offset), size: String(size) }));
const offsets = (host: VolumeHost, rpc = 'GetMetadataAllocated'): unknown[] =>
  host.plugin.requests(rpc).map(({ startingOffset }) => startingOffset);

describe('snapshot blocks', () => {
  test('tell all runs in order, in pages', async (t) => {
    const host = await hostWithSnapshots(t);
    const found = await pages(host);
    assert.deepEqual(runs(found), told(RUNS));
    assert.deepEqual([found.length, found[0]?.kind, found[0]?.volumeBytes], [4, 'fixed', '1048576']);
    assert.deepEqual(offsets(host), ['0']);
    await pages(host, { maxResults: 0 });
    assert.equal(host.plugin.requests('GetMetadataAllocated')[1]?.['maxResults'], 1000);
  });

  test('tell what differs between two snapshots of a volume', async (t) => {
    const host = await hostWithSnapshots(t);
    assert.deepEqual(runs(await pages(host, { base: 'old' })), told(RUNS.slice(2, 4)));
    const [sent] = host.plugin.requests('GetMetadataDelta');
    const ids = ['old', 'new'].map((name) => host.snapshots.get(name).snapshotId);
    assert.deepEqual([sent?.['baseSnapshotId'], sent?.['targetSnapshotId']], ids);
  });

  test('begin where they are asked to, also inside a run', async (t) => {
    const host = await hostWithSnapshots(t);
    const found = runs(await pages(host, { startingOffset: 8192n + 96n }));
    assert.deepEqual(found, [{ offset: '8288', size: '4000' }, ...told(RUNS.slice(2))]);
  });

  test('go on behind the last byte when the stream breaks; nothing is told twice or left out', async (t) => {
    const host = await hostWithSnapshots(t);
    const { metadata } = host.plugin;
    metadata.breaks.push(
      { after: 0, error: new FakeStatus('UNAVAILABLE', 'gone') },
      { after: 2, error: new FakeStatus('INTERNAL', 'broken') },
      { after: 1, error: new FakeStatus('UNAVAILABLE', 'gone') },
    );
    assert.deepEqual(runs(await pages(host)), told(RUNS));
    assert.deepEqual(offsets(host), ['0', '0', String(3 * 8192 + 4096), String(5 * 8192 + 4096)]);
  });

  test('end with the error when streams break and tell nothing', async (t) => {
    const host = await hostWithSnapshots(t);
    const error = new FakeStatus('UNAVAILABLE', 'gone');
    host.plugin.metadata.breaks.push(...Array.from({ length: 9 }, () => ({ after: 0, error })));
    await assert.rejects(pages(host), hasCode('UNAVAILABLE', /gone/));
    assert.equal(offsets(host).length, 5);
  });

  test('a refusal is final, with what can be done', async (t) => {
    const host = await hostWithSnapshots(t);
    const error = new FakeStatus('FAILED_PRECONDITION', 'no tracking');
    host.plugin.metadata.breaks.push({ after: 0, error });
    const refusal = hasCode('FAILED_PRECONDITION', /no tracking .*read the whole snapshot/);
    await assert.rejects(pages(host, { base: 'old' }), refusal);
    assert.equal(host.plugin.requests('GetMetadataDelta').length, 1);
  });

  const faults: readonly (readonly [title: string, change: object, reason: RegExp])[] = [
    ['change of kind', { blockMetadataType: 'VARIABLE_LENGTH' }, /block_metadata_type was fixed/],
    ['name no kind', { blockMetadataType: 'UNKNOWN' }, /block_metadata_type is UNKNOWN/],
    ['have another size of the volume', { volumeCapacityBytes: '5' }, /volume_capacity_bytes was 1048576/],
    ['run backwards', { blockMetadata: [{ byteOffset: '0', sizeBytes: '4096' }] }, /after a run that ends at 12288/],
    ['have a run of nothing', { blockMetadata: [{ byteOffset: '99999', sizeBytes: '0' }] }, /0 bytes at 99999/],
  ];
  for (const [title, change, reason] of faults) {
    test(`answers that ${title} are a fault of the plugin`, async (t) => {
      const host = await hostWithSnapshots(t);
      host.plugin.metadata.spoil = (message, index) => (index === 1 ? { ...message, ...change } : message);
      await assert.rejects(pages(host), hasCode('INTERNAL', reason));
      assert.equal(offsets(host).length, 1);
    });
  }

  test('are refused where there is nothing to tell', async (t) => {
    const host = await hostWithSnapshots(t);
    await host.volumes.create(request({ name: 'other' }), soon());
    await host.snapshots.create({ name: 'theirs', volume: 'other', parameters: {} }, soon());
    await assert.rejects(pages(host, { base: 'theirs' }), hasCode('FAILED_PRECONDITION', /are of two volumes/));
    await assert.rejects(pages(host, { startingOffset: -1n }), hasCode('INVALID_ARGUMENT', /^offset/));
    await assert.rejects(pages(host, { maxResults: 10_001 }), hasCode('INVALID_ARGUMENT', /^max_results/));
    assert.throws(() => host.snapshots.blocks({ name: 'none', startingOffset: 0n, maxResults: 0 }, soon()), /no such/);
    const silent = await hostWithSnapshots(t, { controller: TELLS.controller });
    await assert.rejects(pages(silent), hasCode('UNIMPLEMENTED', /does not tell/));
  });
});

describe('a group at its plugin', () => {
  const GROUPS = {
    controller: ['CREATE_DELETE_VOLUME', 'CREATE_DELETE_SNAPSHOT'],
    groupController: ['CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT'],
  };

  test('is present, changed, gone, or nobody answers', async (t) => {
    const host = await hostWithVolume(t, GROUPS);
    await host.snapshots.createGroup({ name: 'nightly', volumes: ['data'], parameters: {} }, soon());
    const look = (): Promise<unknown> => host.snapshots.lookAtGroup('nightly', soon()).then(({ atPlugin }) => atPlugin);
    assert.deepEqual(await host.snapshots.lookAtGroup('nightly', soon()), { atPlugin: 'present', reason: '' });
    const [sent] = host.plugin.requests('GetVolumeGroupSnapshot');
    assert.deepEqual(sent?.['snapshotIds'], host.snapshots.getGroup('nightly').snapshotIds);
    host.plugin.next('GetVolumeGroupSnapshot', failWith('INVALID_ARGUMENT'));
    assert.equal(await look(), 'changed');
    host.plugin.next('GetVolumeGroupSnapshot', failWith('INTERNAL'));
    assert.equal(await look(), 'unknown');
    host.plugin.snapshots.groups.clear();
    assert.equal(await look(), 'gone');
    assert.equal(host.snapshots.getGroup('nightly').state, 'ready');
    await assert.rejects(host.snapshots.lookAtGroup('none', soon()), hasCode('NOT_FOUND'));
  });
});

test('by the command line: snapshot blocks, snapshot diff, snapshot group inspect', async (t) => {
  if (!needs(t, 'root', 'conmon', 'busybox', 'overlayfs')) return;
  const daemon = await startDaemon(t, { flags: ['--no-csi-local-driver'] });
  const place = { socketPath: `${daemon.run}/csi/fake.sock`, backingDir: `${daemon.dir}/backing` };
  const groupController = ['CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT'];
  const plugin = await startFakeCsi(t, { ...place, ...TELLS, groupController });
  plugin.metadata.allocated = RUNS;
  plugin.metadata.changed = RUNS.slice(2, 4);
  await daemon.ok(['volume', 'create', 'data', '--driver', plugin.name, '--size', '1Mi']);
  for (const name of ['old', 'new']) await daemon.ok(['volume', 'snapshot', 'data', '--name', name]);
  const lines = (await daemon.ok(['snapshot', 'blocks', 'new', '--format', 'json'])).split('\n');
  assert.deepEqual(
    lines.map((line) => JSON.parse(line)),
    RUNS.map(([offset, size]) => ({ offset, size })),
  );
  assert.match(await daemon.ok(['snapshot', 'diff', 'old', 'new']), /^OFFSET +SIZE\n16384 +4096\n24576 +4096$/);
  plugin.metadata.breaks.push(
    { after: 1, error: new FakeStatus('NOT_FOUND', 'lost') },
    { after: 1, error: new FakeStatus('NOT_FOUND', 'lost') },
  );
  plugin.metadata.allocated = Array.from({ length: 1200 }, (_, index) => [index * 8192, 4096] as const);
  const broken = await daemon.cli(['snapshot', 'blocks', 'new', '--format', 'json']);
  assert.equal(broken.code, 1);
  assert.match(broken.stderr, new RegExp(`go on with --offset ${999 * 8192 + 4096}\\n.*lost`));
  assert.equal(broken.stdout.split('\n').length, 1001);
  plugin.metadata.breaks.splice(0);
  const rest = await daemon.ok([
    'snapshot',
    'blocks',
    'new',
    '--format',
    'json',
    '--offset',
    String(999 * 8192 + 4096),
  ]);
  assert.equal(rest.split('\n').length, 200);
  await daemon.ok(['snapshot', 'group', 'create', 'nightly', 'data']);
  const [group] = JSON.parse(await daemon.ok(['snapshot', 'group', 'inspect', 'nightly']));
  assert.deepEqual([group.atPlugin, group.atPluginReason], ['present', null]);
  await daemon.ok(['snapshot', 'group', 'rm', 'nightly']);
  await daemon.ok(['snapshot', 'rm', 'old', 'new']);
  await daemon.ok(['volume', 'rm', 'data']);
});
