/** Volumes that grow: both calls in their order, once each, over restarts and refusals. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { RuntimeError } from '../../src/errors.ts';
import { failWith, hang, pretend } from '../support/fake-csi.ts';
import { missing } from '../support/needs.ts';
import { A, assertIdle, type FakeOptions, request, soon, type VolumeHost, volumeHost } from './volume-host.ts';

const SIZE = 32 * 2 ** 20;
const BOTH: FakeOptions = {
  controller: ['CREATE_DELETE_VOLUME', 'EXPAND_VOLUME'],
  node: ['STAGE_UNSTAGE_VOLUME', 'EXPAND_VOLUME'],
  expansion: 'ONLINE',
};

const hasCode =
  (code: string, text = /./) =>
  (error: unknown) =>
    error instanceof RuntimeError && error.code === code && text.test(error.message);

const count = ({ plugin }: VolumeHost, rpc: string): number => plugin.requests(rpc).length;

async function until(what: () => boolean): Promise<void> {
  const signal = soon();
  while (!what()) await sleep(20, undefined, { signal });
}

async function end(host: VolumeHost): Promise<void> {
  await host.volumes.release('data', A, soon());
  assertIdle(host);
}

describe('expansion', { skip: missing('root', 'loop') }, () => {
  test('goes by controller, then node, while a container uses the volume', async (t) => {
    const host = await volumeHost(t, BOTH);
    await host.volumes.create(request(), soon());
    const { path } = await host.volumes.publish('data', A, { readOnly: false }, soon());
    const grown = await host.volumes.expand('data', SIZE, soon());
    assert.deepEqual([grown.capacityBytes, grown.expansion], [String(SIZE), undefined]);
    const [sent] = host.plugin.requests('NodeExpandVolume');
    assert.equal(sent?.['volumePath'], path);
    assert.deepEqual(host.plugin.volumeCalls().slice(-2), ['ControllerExpandVolume', 'NodeExpandVolume']);
    await host.volumes.expand('data', SIZE, soon());
    assert.equal(count(host, 'ControllerExpandVolume'), 1, 'what is large enough is not asked for again');
    await assert.rejects(host.volumes.expand('data', SIZE - 1, soon()), hasCode('OUT_OF_RANGE', /shrink/));
    await end(host);
  });

  test('leaves the node step to the next use, also over a restart', async (t) => {
    const host = await volumeHost(t, BOTH);
    await host.volumes.create(request(), soon());
    const waiting = await host.volumes.expand('data', SIZE, soon());
    assert.deepEqual(waiting.expansion, { targetBytes: String(SIZE), step: 'node' });
    await host.start();
    await host.volumes.recover(soon());
    assert.equal(count(host, 'NodeExpandVolume'), 0);
    await host.volumes.publish('data', A, { readOnly: false }, soon());
    assert.equal(count(host, 'NodeExpandVolume'), 1);
    assert.equal(host.volumes.get('data').expansion, undefined);
    await end(host);
  });

  test('is refused before any call where it cannot be', async (t) => {
    const none = await volumeHost(t, { controller: ['CREATE_DELETE_VOLUME'] });
    await none.volumes.create(request(), soon());
    await assert.rejects(none.volumes.expand('data', SIZE, soon()), hasCode('FAILED_PRECONDITION', /does not expand/));
    const offline = await volumeHost(t, { ...BOTH, expansion: 'OFFLINE' });
    await offline.volumes.create(request(), soon());
    await offline.volumes.publish('data', A, { readOnly: false }, soon());
    await assert.rejects(offline.volumes.expand('data', SIZE, soon()), hasCode('FAILED_PRECONDITION', /aaaaaaaaaaaa/));
    assert.equal(count(offline, 'ControllerExpandVolume'), 0);
    assert.equal(offline.volumes.get('data').expansion, undefined);
    await offline.volumes.release('data', A, soon());
    await offline.volumes.expand('data', SIZE, soon());
    await offline.volumes.publish('data', A, { readOnly: false }, soon());
    assert.equal(count(offline, 'NodeExpandVolume'), 1);
    await end(offline);
  });

  test('is the node alone where the controller has no part in it', async (t) => {
    const host = await volumeHost(t, { controller: ['CREATE_DELETE_VOLUME'], node: ['EXPAND_VOLUME'] });
    await host.volumes.create(request(), soon());
    await host.volumes.expand('data', SIZE, soon());
    await host.volumes.publish('data', A, { readOnly: false }, soon());
    assert.equal(host.volumes.get('data').capacityBytes, String(SIZE));
    assert.equal(host.plugin.requests('NodeExpandVolume')[0]?.['stagingTargetPath'], '');
    await end(host);
  });

  test('a node that cannot grow in use is not asked again before the next use', async (t) => {
    const host = await volumeHost(t, BOTH);
    await host.volumes.create(request(), soon());
    await host.volumes.publish('data', A, { readOnly: false }, soon());
    host.plugin.next('NodeExpandVolume', failWith('FAILED_PRECONDITION'));
    await assert.rejects(host.volumes.expand('data', SIZE, soon()), hasCode('FAILED_PRECONDITION'));
    await assert.rejects(
      host.volumes.expand('data', SIZE, soon()),
      hasCode('FAILED_PRECONDITION', /stop its containers/),
    );
    await host.start();
    await host.volumes.recover(soon());
    assert.equal(count(host, 'NodeExpandVolume'), 1);
    await host.volumes.release('data', A, soon());
    await host.volumes.publish('data', A, { readOnly: false }, soon());
    assert.equal(count(host, 'NodeExpandVolume'), 2);
    assert.equal(count(host, 'ControllerExpandVolume'), 1);
    assert.equal(host.volumes.get('data').expansion, undefined);
    await end(host);
  });

  test('a size the controller refuses is forgotten', async (t) => {
    const host = await volumeHost(t, BOTH);
    await host.volumes.create(request(), soon());
    host.plugin.next('ControllerExpandVolume', failWith('OUT_OF_RANGE'));
    await assert.rejects(host.volumes.expand('data', SIZE, soon()), hasCode('OUT_OF_RANGE'));
    assert.equal(host.volumes.get('data').expansion, undefined);
    host.plugin.next('ControllerExpandVolume', pretend({ capacityBytes: '1', nodeExpansionRequired: false }));
    await assert.rejects(host.volumes.expand('data', SIZE, soon()), hasCode('INTERNAL', /capacity_bytes is 1/));
    await host.volumes.remove('data', soon());
    assertIdle(host);
  });

  for (const rpc of ['ControllerExpandVolume', 'NodeExpandVolume'] as const) {
    test(`goes on by itself after ${rpc} failed without an outcome`, async (t) => {
      const host = await volumeHost(t, BOTH);
      await host.volumes.create(request(), soon());
      await host.volumes.publish('data', A, { readOnly: false }, soon());
      host.plugin.next(rpc, failWith('INTERNAL', { afterEffect: true }));
      await assert.rejects(host.volumes.expand('data', SIZE, soon()), hasCode('INTERNAL'));
      await until(() => host.volumes.get('data').expansion === undefined);
      assert.equal(host.volumes.get('data').capacityBytes, String(SIZE));
      await end(host);
    });

    for (const when of ['before', 'after'] as const) {
      test(`goes on after the daemon was killed ${when} ${rpc} had its effect`, async (t) => {
        const host = await volumeHost(t, BOTH);
        await host.volumes.create(request(), soon());
        await host.volumes.publish('data', A, { readOnly: false }, soon());
        host.plugin.next(rpc, hang({ afterEffect: when === 'after' }));
        const stop = new AbortController();
        const broken = host.volumes.expand('data', SIZE, stop.signal);
        await until(() => count(host, rpc) === 1);
        host.keepDisk();
        stop.abort();
        await assert.rejects(broken);
        await host.die();
        host.plugin.stop();
        await host.plugin.start();
        await host.start();
        await host.volumes.recover(soon());
        await until(() => host.volumes.get('data').expansion === undefined);
        assert.equal(host.plugin.operations.nodeBytes.get(host.volumes.get('data').volumeId ?? ''), String(SIZE));
        await end(host);
      });
    }
  }
});
