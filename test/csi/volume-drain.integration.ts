/** Emptying volumes: who is stopped, who may not begin, what goes on after failures and restarts. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import { VolumeDrain } from '../../src/csi/volume-drain.ts';
import { RuntimeError } from '../../src/errors.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { missing } from '../support/needs.ts';
import { A, assertIdle, B, type FakeOptions, request, soon, type VolumeHost, volumeHost } from './volume-host.ts';

const MANY: FakeOptions = {
  controller: ['CREATE_DELETE_VOLUME', 'PUBLISH_UNPUBLISH_VOLUME', 'SINGLE_NODE_MULTI_WRITER'],
  node: ['STAGE_UNSTAGE_VOLUME', 'SINGLE_NODE_MULTI_WRITER'],
};
const RW = { readOnly: false };

type Stop = (containerId: string, timeoutMs: number, signal: AbortSignal) => Promise<void>;

function drainOf(t: TestScope, host: VolumeHost, stop: Stop): VolumeDrain {
  const log = pino({ level: 'silent' });
  const drain = new VolumeDrain({ volumes: host.volumes, stop, log, firstPauseMs: 10 });
  cleanup(t, () => drain.close());
  return drain;
}

/** A host whose volume "data" two containers use, and "other" one. */
async function used(t: TestScope): Promise<VolumeHost> {
  const host = await volumeHost(t, MANY);
  for (const name of ['data', 'other']) await host.volumes.create(request({ name }), soon());
  for (const id of [A, B]) await host.volumes.publish('data', id, RW, soon());
  await host.volumes.publish('other', A, RW, soon());
  return host;
}

describe('VolumeDrain', { skip: missing('root', 'loop') }, () => {
  test('stops all that use the volume, and the volume comes down; others are left alone', async (t) => {
    const host = await used(t);
    const stopped: [string, number][] = [];
    const drain = drainOf(t, host, async (id, timeoutMs) => {
      stopped.push([id, timeoutMs]);
      await host.volumes.release('data', id, soon());
    });
    const record = await drain.drain('data', 1234, soon());
    assert.deepEqual(stopped.sort(), [
      [A, 1234],
      [B, 1234],
    ]);
    assert.deepEqual([record.state, record.claims, record.availability], ['created', [], 'drain']);
    assert.equal(host.plugin.requests('ControllerUnpublishVolume').length, 1);
    assert.equal(host.volumes.get('other').state, 'published');
    const late = host.volumes.publish('data', A, RW, soon());
    await assert.rejects(late, /volume data is being drained: allow it by/);
    await host.volumes.update('data', 'active', soon());
    await host.volumes.publish('data', A, RW, soon());
    for (const name of ['data', 'other']) await host.volumes.release(name, A, soon());
    assertIdle(host);
  });

  test('a pause stops nobody', async (t) => {
    const host = await used(t);
    const stopped: string[] = [];
    const drain = drainOf(t, host, async (id) => {
      stopped.push(id);
    });
    await host.volumes.update('data', 'pause', soon());
    drain.recover();
    await drain.close();
    assert.deepEqual(stopped, []);
    assert.equal(host.volumes.get('data').claims.length, 2);
    for (const id of [A, B]) await host.volumes.release('data', id, soon());
    await host.volumes.release('other', A, soon());
  });

  test('who cannot be stopped is told, and tried again until it is', async (t) => {
    const host = await used(t);
    const gone = Promise.withResolvers<void>();
    let attempts = 0;
    const drain = drainOf(t, host, async (id) => {
      if (id === B && ++attempts < 3) throw new RuntimeError('UNAVAILABLE', 'container b does not end');
      await host.volumes.release('data', id, soon());
      if (id === B) gone.resolve();
    });
    await assert.rejects(
      drain.drain('data', 0, soon()),
      (error) =>
        error instanceof RuntimeError &&
        error.code === 'UNAVAILABLE' &&
        /volume data is being drained, .*tried again: container b does not end/.test(error.message),
    );
    assert.deepEqual(
      host.volumes.get('data').claims.map(({ containerId }) => containerId),
      [B],
    );
    await gone.promise;
    assert.equal(attempts, 3);
    await host.volumes.release('other', A, soon());
    assertIdle(host);
  });

  test('said again, it tries again at once, with the time said last', async (t) => {
    const host = await used(t);
    const times: number[] = [];
    const stop: Stop = async (id, timeoutMs) => {
      times.push(timeoutMs);
      if (timeoutMs !== 0) throw new RuntimeError('UNAVAILABLE', 'it does not end');
      await host.volumes.release('data', id, soon());
    };
    const log = pino({ level: 'silent' });
    const drain = new VolumeDrain({ volumes: host.volumes, stop, log, firstPauseMs: 3_600_000 });
    cleanup(t, () => drain.close());
    for (const _ of [1, 2]) await assert.rejects(drain.drain('data', 5, soon()), /it does not end/);
    assert.deepEqual((await drain.drain('data', 0, soon())).claims, []);
    assert.deepEqual(times, [5, 5, 5, 5, 0, 0]);
    await host.volumes.release('other', A, soon());
    assertIdle(host);
  });

  test('goes on when the caller leaves, and ends when the volume is active again', async (t) => {
    const host = await used(t);
    const leave = new AbortController();
    const turn = Promise.withResolvers<void>();
    const begun = Promise.withResolvers<void>();
    const drain = drainOf(t, host, async (id) => {
      begun.resolve();
      await turn.promise;
      await host.volumes.release('data', id, soon());
    });
    const draining = drain.drain('data', 0, leave.signal);
    await begun.promise;
    leave.abort(new RuntimeError('CANCELLED', 'the caller has left'));
    await assert.rejects(draining, /the caller has left/);
    turn.resolve();
    const record = await drain.drain('data', 0, soon());
    assert.deepEqual(record.claims, []);
    await host.volumes.release('other', A, soon());
  });

  test('a claim without a container is the business of the teardown', async (t) => {
    const host = await used(t);
    const drain = drainOf(t, host, async (id) => {
      throw new RuntimeError('NOT_FOUND', `no such container: ${id}`);
    });
    assert.equal((await drain.drain('data', 0, soon())).claims.length, 2);
    await drain.close();
    for (const id of [A, B]) await host.volumes.release('data', id, soon());
    await host.volumes.release('other', A, soon());
    assertIdle(host);
  });

  test('a daemon that starts again goes on with it', async (t) => {
    const host = await used(t);
    await host.volumes.update('data', 'drain', soon());
    await host.start();
    const stopped = new Set<string>();
    const both = Promise.withResolvers<void>();
    const drain = drainOf(t, host, async (id) => {
      await host.volumes.release('data', id, soon());
      if (stopped.add(id).size === 2) both.resolve();
    });
    drain.recover();
    await both.promise;
    assert.deepEqual([...stopped].sort(), [A, B]);
    assert.equal(host.volumes.get('other').claims.length, 1);
    await host.volumes.release('other', A, soon());
    assertIdle(host);
  });
});
