/** How volumes fare, as their plugins tell from time to time. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import { VolumeHealth } from '../../src/csi/volume-health.ts';
import { cleanup } from '../support/cleanup.ts';
import { startDaemon } from '../support/daemon.ts';
import { failWith, hang, startFakeCsi } from '../support/fake-csi.ts';
import { missing, needs } from '../support/needs.ts';
import { until } from './snapshot-host.ts';
import { A, assertIdle, type FakeOptions, request, soon, type VolumeHost, volumeHost } from './volume-host.ts';

const TELLS = {
  controller: ['CREATE_DELETE_VOLUME', 'GET_VOLUME', 'VOLUME_CONDITION'],
  node: ['STAGE_UNSTAGE_VOLUME', 'GET_VOLUME_STATS', 'VOLUME_CONDITION'],
};

async function watched(
  t: Parameters<typeof volumeHost>[0],
  fake: FakeOptions = TELLS,
): Promise<{ host: VolumeHost; health: VolumeHealth }> {
  const host = await volumeHost(t, fake);
  await host.volumes.create(request(), soon());
  const log = pino({ level: 'silent' });
  const registry = { onReady: () => () => undefined };
  const health = new VolumeHealth({ volumes: host.volumes, registry, log, intervalMs: 20, timeoutMs: 500 });
  cleanup(t, () => health.close());
  return { host, health };
}

const asked = (host: VolumeHost): number => host.plugin.requests('ControllerGetVolume').length;

describe('VolumeHealth', { skip: missing('root', 'loop') }, () => {
  test('keeps the worse condition, and since when it was told', async (t) => {
    const { host, health } = await watched(t);
    await host.volumes.publish('data', A, { readOnly: false }, soon());
    const { operations } = host.plugin;
    operations.nodeCondition = { abnormal: false, message: 'fine' };
    operations.controllerCondition = { abnormal: false, message: 'fine, too' };
    health.start();
    await until(() => health.of('data')?.abnormal === false, 'normal');
    operations.nodeCondition = { abnormal: true, message: 'a disk is lost' };
    await until(() => health.of('data')?.abnormal === true, 'abnormal');
    const { sinceAt, ...told } = health.of('data') ?? assert.fail('nothing is known');
    assert.deepEqual(told, { abnormal: true, message: 'a disk is lost', from: 'node' });
    const before = asked(host);
    await until(() => asked(host) > before + 2, 'asked again');
    assert.equal(health.of('data')?.sinceAt, sinceAt);
    operations.nodeCondition = { abnormal: false, message: 'fine' };
    await until(() => health.of('data')?.abnormal === false, 'normal again');
    await health.close();
    await host.volumes.release('data', A, soon());
    assertIdle(host);
  });

  test('a volume that the plugin does not know any more is in an abnormal condition', async (t) => {
    const { host, health } = await watched(t);
    host.plugin.volumes.clear();
    health.start();
    await until(() => health.of('data') !== undefined, 'known');
    assert.equal(health.of('data')?.message, 'the plugin does not know the volume');
  });

  test('asks nobody who does not tell, and nothing about a volume that is gone', async (t) => {
    const { host, health } = await watched(t, { controller: ['CREATE_DELETE_VOLUME', 'GET_VOLUME'] });
    health.start();
    const rounds = host.plugin.requests('ControllerGetVolume');
    await host.volumes.create(request({ name: 'other' }), soon());
    assert.deepEqual(rounds, []);
    assert.equal(health.of('data'), undefined);
    const telling = await watched(t);
    telling.host.plugin.operations.controllerCondition = { abnormal: true, message: 'bad' };
    telling.health.start();
    await until(() => telling.health.of('data') !== undefined, 'known');
    await telling.host.volumes.remove('data', soon());
    await until(() => telling.health.of('data') === undefined, 'forgotten');
  });

  test('is not told by a plugin that fails: what was known stays; a hanging one holds up a volume for no longer than set', async (t) => {
    const { host, health } = await watched(t);
    host.plugin.operations.controllerCondition = { abnormal: true, message: 'bad' };
    health.start();
    await until(() => health.of('data')?.abnormal === true, 'abnormal');
    host.plugin.next('ControllerGetVolume', failWith('INTERNAL'), hang());
    const before = asked(host);
    await until(() => asked(host) >= before + 2, 'hanging');
    const startedMs = performance.now();
    await host.volumes.publish('data', A, { readOnly: false }, soon());
    assert.ok(performance.now() - startedMs < 5000);
    assert.equal(health.of('data')?.message, 'bad');
    await health.close();
    await host.volumes.release('data', A, soon());
  });
});

test('by the command line: an abnormal volume is shown by ls and inspect', async (t) => {
  if (!needs(t, 'root', 'conmon', 'busybox', 'overlayfs')) return;
  const daemon = await startDaemon(t, { flags: ['--no-csi-local-driver'] });
  const place = { socketPath: `${daemon.run}/csi/fake.sock`, backingDir: `${daemon.dir}/backing` };
  const plugin = await startFakeCsi(t, { ...place, controller: TELLS.controller });
  plugin.operations.controllerCondition = { abnormal: true, message: 'a disk is lost' };
  await daemon.ok(['volume', 'create', 'data', '--driver', plugin.name, '--size', '64Ki']);
  const [before] = JSON.parse(await daemon.ok(['volume', 'inspect', 'data']));
  assert.equal(before.condition, null);
  // A plugin that becomes ready is asked at once.
  const restarted = daemon.restart();
  await restarted;
  const deadline = Date.now() + 20_000;
  for (;;) {
    const { condition } = await daemon.api.volumes.call('Inspect', { name: 'data' });
    if (condition) break;
    assert.ok(Date.now() < deadline, 'the condition never came');
  }
  const [{ condition }] = JSON.parse(await daemon.ok(['volume', 'inspect', 'data']));
  assert.deepEqual([condition.abnormal, condition.message, condition.from], [true, 'a disk is lost', 'controller']);
  assert.ok(Date.parse(condition.sinceAt) > 0);
  assert.match(await daemon.ok(['volume', 'ls']), /data .* abnormal \(controller\): a disk is lost, since 2/);
  await daemon.ok(['volume', 'rm', 'data']);
});
