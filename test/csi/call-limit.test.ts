/** Turns at a plugin's controller. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { CallLimit } from '../../src/csi/call-limit.ts';

const soon = (): AbortSignal => AbortSignal.timeout(5000);

describe('CallLimit', () => {
  test('lets so many changing calls through for each plugin, in order, and questions at once', async () => {
    const limit = new CallLimit(2);
    const order: number[] = [];
    const first = await limit.enter('a', 'CreateVolume', soon());
    const second = await limit.enter('a', 'DeleteVolume', soon());
    const later = [3, 4].map(async (turn) => {
      const leave = await limit.enter('a', 'ControllerPublishVolume', soon());
      order.push(turn);
      return leave;
    });
    await limit.enter('b', 'CreateVolume', soon());
    await limit.enter('a', 'ListVolumes', soon());
    await limit.enter('a', 'NodeStageVolume', soon());
    assert.deepEqual(order, []);
    first();
    first();
    await later[0];
    assert.deepEqual(order, [3]);
    second();
    await later[1];
    assert.deepEqual(order, [3, 4]);
  });

  test('one that gives up leaves its place to the next', async () => {
    const limit = new CallLimit(1);
    const leave = await limit.enter('a', 'CreateVolume', soon());
    const gone = new AbortController();
    const impatient = limit.enter('a', 'CreateVolume', gone.signal);
    const patient = limit.enter('a', 'CreateVolume', soon());
    gone.abort(new Error('no longer'));
    await assert.rejects(impatient, /no longer/);
    leave();
    (await patient)();
    await limit.enter('a', 'CreateVolume', soon());
  });
});
