/** What plugins list beside Berth's records, how much room they have, and changes by the command line. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { VolumeSurvey } from '../../src/csi/volume-survey.ts';
import { startDaemon } from '../support/daemon.ts';
import { answerWith, failWith, pretend, startFakeCsi } from '../support/fake-csi.ts';
import { needs } from '../support/needs.ts';
import { hasCode } from './snapshot-host.ts';
import { type FakeOptions, request, soon, type VolumeHost, volumeHost } from './volume-host.ts';

const DRIVER = 'fake.csi.test';
const LISTS = { controller: ['CREATE_DELETE_VOLUME', 'LIST_VOLUMES', 'GET_CAPACITY'] };

async function surveyed(
  t: Parameters<typeof volumeHost>[0],
  fake: FakeOptions = LISTS,
): Promise<{ host: VolumeHost; survey: VolumeSurvey }> {
  const host = await volumeHost(t, fake);
  for (const name of ['a', 'b', 'c']) await host.volumes.create(request({ name }), soon());
  await host.plugin.provide('foreign', false, { kept: 'elsewhere' });
  const classes = { fill: async () => assert.fail('no class was named') };
  const survey = new VolumeSurvey({ caller: host.volumes.caller, records: () => host.volumes.list(), classes });
  return { host, survey };
}

type Rows = Awaited<ReturnType<VolumeSurvey['list']>>;
const states = (rows: Rows): unknown[] => rows.map(({ name, volumeId, state }) => [name ?? volumeId, state]);
const ALL = [
  ['a', 'managed'],
  ['b', 'managed'],
  ['c', 'managed'],
  ['foreign', 'unmanaged'],
];

describe('VolumeSurvey.list', () => {
  test('tells managed volumes from unmanaged ones, over all pages', async (t) => {
    const { host, survey } = await surveyed(t);
    const rows = await survey.list(DRIVER, soon());
    assert.deepEqual(states(rows), ALL);
    assert.deepEqual(rows[3], {
      volumeId: 'foreign',
      capacityBytes: '0',
      volumeContext: { kept: 'elsewhere' },
      nodeIds: [],
      state: 'unmanaged',
    });
    assert.equal(host.plugin.requests('ListVolumes').length, 2);
    assert.ok(host.plugin.requests('ListVolumes').every(({ maxEntries }) => maxEntries === 100));
  });

  test('a token that is stale begins the listing anew; one that stays stale is an error', async (t) => {
    const { host, survey } = await surveyed(t);
    host.plugin.survey.pageEntries = 1;
    const first = answerWith((answer) => answer);
    host.plugin.next('ListVolumes', first, first, failWith('ABORTED'));
    assert.deepEqual(states(await survey.list(DRIVER, soon())), ALL);
    assert.deepEqual(
      host.plugin.requests('ListVolumes').map(({ startingToken }) => startingToken === ''),
      [true, false, false, true, false, false, false],
    );
    const stale = Array.from({ length: 4 }, () => [first, failWith('ABORTED')]).flat();
    host.plugin.next('ListVolumes', ...stale);
    await assert.rejects(survey.list(DRIVER, soon()), hasCode('ABORTED', /list again/));
    assert.equal(host.plugin.requests('ListVolumes').length, 7 + 8);
  });

  test('a listing that does not end is a fault of the plugin', async (t) => {
    const { host, survey } = await surveyed(t);
    host.plugin.next('ListVolumes', ...Array.from({ length: 3 }, () => pretend({ entries: [], nextToken: 'again' })));
    await assert.rejects(survey.list(DRIVER, soon()), hasCode('INTERNAL', /the listing does not end/));
    assert.equal(host.plugin.requests('ListVolumes').length, 2);
  });

  test('ends with the patience of the caller', async (t) => {
    const { host, survey } = await surveyed(t);
    host.plugin.onCall = (rpc) => (rpc === 'ListVolumes' ? new Promise(() => undefined) : undefined);
    await assert.rejects(survey.list(DRIVER, AbortSignal.timeout(300)), hasCode('DEADLINE_EXCEEDED'));
  });

  test('a volume is missing when two listings lack it, not when one does', async (t) => {
    const { host, survey } = await surveyed(t);
    host.plugin.survey.pageEntries = 10;
    host.plugin.next(
      'ListVolumes',
      answerWith(({ entries }) => ({ entries: entries.slice(1) })),
    );
    assert.deepEqual(states(await survey.list(DRIVER, soon())), ALL.slice(1));
    const { volumeId = '' } = host.volumes.get('b');
    host.plugin.volumes.delete(volumeId);
    const rows = await survey.list(DRIVER, soon());
    assert.deepEqual(states(rows), [ALL[0], ALL[2], ALL[3], ['b', 'missing']]);
    assert.equal(rows.at(-1)?.volumeId, volumeId);
  });

  test('where a volume can be asked for by itself, that decides', async (t) => {
    const { host, survey } = await surveyed(t, { controller: [...LISTS.controller, 'GET_VOLUME'] });
    const { volumeId = '' } = host.volumes.get('a');
    host.plugin.survey.unlisted.add(volumeId);
    assert.deepEqual(states(await survey.list(DRIVER, soon())), ALL.slice(1));
    assert.equal(host.plugin.requests('ControllerGetVolume').length, 1);
    host.plugin.volumes.delete(volumeId);
    assert.deepEqual(states(await survey.list(DRIVER, soon())).at(-1), ['a', 'missing']);
  });

  test('nodes and condition count only where the plugin offers to tell them', async (t) => {
    const status = { publishedNodeIds: ['n1'], volumeCondition: { abnormal: true, message: 'a disk is lost' } };
    const { host, survey } = await surveyed(t);
    host.plugin.survey.status = status;
    const [plain] = await survey.list(DRIVER, soon());
    assert.deepEqual([plain?.nodeIds, plain?.condition], [[], undefined]);
    const tells = ['LIST_VOLUMES_PUBLISHED_NODES', 'VOLUME_CONDITION'];
    const other = await surveyed(t, { controller: [...LISTS.controller, ...tells] });
    other.host.plugin.survey.status = status;
    const [full] = await other.survey.list(DRIVER, soon());
    const condition = { abnormal: true, message: 'a disk is lost', from: 'controller' };
    assert.deepEqual([full?.nodeIds, full?.condition], [['n1'], condition]);
  });

  test('a plugin that lists none is not asked', async (t) => {
    const { host, survey } = await surveyed(t, { controller: ['CREATE_DELETE_VOLUME'] });
    await assert.rejects(survey.list(DRIVER, soon()), hasCode('UNIMPLEMENTED', /does not list volumes/));
    await assert.rejects(survey.list('../x', soon()), hasCode('INVALID_ARGUMENT'));
    await assert.rejects(survey.capacity({ driver: DRIVER, parameters: {} }, soon()), hasCode('UNIMPLEMENTED'));
    assert.deepEqual([host.plugin.requests('ListVolumes'), host.plugin.requests('GetCapacity')], [[], []]);
  });
});

describe('VolumeSurvey.capacity', () => {
  test('asks for a kind of volume, and for this place where places matter', async (t) => {
    const { host, survey } = await surveyed(t, { ...LISTS, topology: { zone: 'here' } });
    host.plugin.survey.capacity = { availableCapacity: '500', maximumVolumeSize: { value: '300' } };
    const parameters = { tier: 'ssd' };
    assert.deepEqual(await survey.capacity({ driver: DRIVER, access: 'block', parameters }, soon()), {
      driver: DRIVER,
      volumeClass: undefined,
      availableBytes: '500',
      maximumVolumeBytes: '300',
      topology: { zone: 'here' },
    });
    const asked = host.plugin.requests('GetCapacity').at(-1);
    assert.deepEqual(asked?.['parameters'], parameters);
    assert.deepEqual(asked?.['accessibleTopology'].segments, { zone: 'here' });
    assert.equal(asked?.['volumeCapabilities'][0].accessType, 'block');
    await survey.capacity({ driver: DRIVER, parameters: {} }, soon());
    assert.deepEqual(host.plugin.requests('GetCapacity').at(-1)?.['volumeCapabilities'], []);
  });

  test('a volume larger than the largest is refused before it is put on record', async (t) => {
    const { host } = await surveyed(t);
    host.plugin.survey.capacity = { availableCapacity: '5000', maximumVolumeSize: { value: '4096' } };
    const creations = host.plugin.requests('CreateVolume').length;
    const refusal = hasCode('OUT_OF_RANGE', /^size: 4097 bytes is more than the 4096 bytes .* \(5000 are available\)/);
    await assert.rejects(host.volumes.create(request({ name: 'big', capacityBytes: 4097 }), soon()), refusal);
    assert.equal(host.plugin.requests('CreateVolume').length, creations);
    assert.equal(host.volumes.list().length, 3);
    await host.volumes.create(request({ name: 'fits', capacityBytes: 4096 }), soon());
  });

  test('too little room, or no answer, is no reason to refuse: CreateVolume knows better', async (t) => {
    const { host } = await surveyed(t);
    host.plugin.survey.capacity = { availableCapacity: '1' };
    await host.volumes.create(request({ name: 'thin' }), soon());
    host.plugin.next('GetCapacity', failWith('INTERNAL'));
    await host.volumes.create(request({ name: 'unasked' }), soon());
    assert.equal(host.volumes.list().length, 5);
  });

  test('a negative size is a fault of the plugin', async (t) => {
    const { host, survey } = await surveyed(t);
    host.plugin.survey.capacity = { availableCapacity: '-1' };
    const fault = hasCode('INTERNAL', /available_capacity is negative/);
    await assert.rejects(survey.capacity({ driver: DRIVER, parameters: {} }, soon()), fault);
  });
});

test('by the command line: ls --all, csi capacity, volume update --parameter', async (t) => {
  if (!needs(t, 'root', 'conmon', 'busybox', 'overlayfs')) return;
  const daemon = await startDaemon(t, { flags: ['--no-csi-local-driver'] });
  const controller = [...LISTS.controller, 'MODIFY_VOLUME'];
  const place = { socketPath: `${daemon.run}/csi/fake.sock`, backingDir: `${daemon.dir}/backing` };
  const plugin = await startFakeCsi(t, { ...place, controller });
  plugin.survey.capacity = { availableCapacity: String(2 ** 30), maximumVolumeSize: { value: String(2 ** 20) } };
  await plugin.provide('foreign', false, { kept: 'elsewhere' });
  await daemon.ok(['volume', 'create', 'data', '--driver', DRIVER, '--size', '64Ki']);

  const listed = await daemon.ok(['volume', 'ls', '--all', '--driver', DRIVER]);
  assert.match(listed, /^foreign +- +unmanaged +- /m);
  assert.match(listed, /^id-of-data-\w+ +data +managed +64 KiB/m);
  const capacity = JSON.parse(await daemon.ok(['csi', 'capacity', DRIVER, '--access', 'block', '--format', 'json']));
  assert.deepEqual([capacity.availableBytes, capacity.maximumVolumeBytes, capacity.class], [2 ** 30, 2 ** 20, null]);
  assert.match(await daemon.ok(['csi', 'capacity', DRIVER]), /fake\.csi\.test +- +1 GiB +1 MiB +- +-$/m);

  assert.equal(
    await daemon.ok(['volume', 'update', 'data', '--parameter', 'iops=7', '--availability', 'pause']),
    'data',
  );
  const [shown] = JSON.parse(await daemon.ok(['volume', 'inspect', 'data']));
  assert.deepEqual(
    [shown.mutableParameters, shown.pendingParameters, shown.availability],
    [{ iops: '7' }, {}, 'pause'],
  );
  const refused = await daemon.cli(['volume', 'update', 'data', '--parameter', 'size=7']);
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /size cannot be changed/);
  const empty = await daemon.cli(['volume', 'update', 'data']);
  assert.match(empty.stderr, /--availability: is needed, or --parameter/);
  await daemon.ok(['volume', 'rm', 'data']);
});
