/** Calls whose outcome nobody heard, and what is made of a later answer to the same call. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { RuntimeError } from '../../src/errors.ts';
import { answerWith, type Behaviour, FakeStatus, failWith } from '../support/fake-csi.ts';
import { missing } from '../support/needs.ts';
import { until } from './snapshot-host.ts';
import { A, assertIdle, type FakeOptions, request, soon, volumeHost } from './volume-host.ts';

const FULL: FakeOptions = {
  controller: ['CREATE_DELETE_VOLUME', 'PUBLISH_UNPUBLISH_VOLUME'],
  node: ['STAGE_UNSTAGE_VOLUME'],
};

const hasCode = (code: string) => (error: unknown) => error instanceof RuntimeError && error.code === code;
const unheard = failWith('UNAVAILABLE', { afterEffect: true });

describe('a refusal after a call of unknown outcome', { skip: missing('root', 'loop') }, () => {
  test('of CreateVolume does not disown the volume that the first call made', async (t) => {
    const host = await volumeHost(t, FULL);
    // The storage system counts the volume it has just made as somebody else's.
    host.plugin.next('CreateVolume', unheard, failWith('RESOURCE_EXHAUSTED'));
    await assert.rejects(host.volumes.create(request(), soon()), hasCode('RESOURCE_EXHAUSTED'));
    assert.equal(host.volumes.get('data').state, 'creating');
    await host.volumes.create(request(), soon());
    assert.equal(host.plugin.volumes.size, 1);
    await host.volumes.remove('data', soon());
    assert.equal(host.plugin.volumes.size, 0);
  });

  test('of CreateVolume is believed when it is said again', async (t) => {
    const host = await volumeHost(t, FULL);
    const refused = failWith('RESOURCE_EXHAUSTED');
    host.plugin.next('CreateVolume', failWith('UNAVAILABLE'), refused, refused);
    await assert.rejects(host.volumes.create(request(), soon()), hasCode('RESOURCE_EXHAUSTED'));
    await host.volumes.remove('data', soon());
    assert.deepEqual([host.volumes.list(), host.plugin.volumes.size], [[], 0]);
  });

  for (const [up, down] of [
    ['ControllerPublishVolume', 'ControllerUnpublishVolume'],
    ['NodeStageVolume', 'NodeUnstageVolume'],
    ['NodePublishVolume', 'NodeUnpublishVolume'],
  ] as const) {
    test(`of ${up} does not keep ${down} from being sent`, async (t) => {
      const host = await volumeHost(t, FULL);
      await host.volumes.create(request(), soon());
      host.plugin.next(up, unheard, failWith('FAILED_PRECONDITION'));
      const publishing = host.volumes.publish('data', A, { readOnly: false }, soon());
      await assert.rejects(publishing, hasCode('FAILED_PRECONDITION'));
      await host.volumes.release('data', A, soon());
      assert.equal(host.plugin.requests(down).length, 1);
      assertIdle(host);
    });
  }

  test('of DeleteVolume does not bring back a volume that is gone', async (t) => {
    const host = await volumeHost(t, FULL);
    await host.volumes.create(request(), soon());
    host.plugin.next('DeleteVolume', unheard, failWith('FAILED_PRECONDITION'));
    await assert.rejects(host.volumes.remove('data', soon()), hasCode('FAILED_PRECONDITION'));
    assert.notEqual(host.volumes.list()[0]?.state, 'created');
    await host.volumes.remove('data', soon()).catch(() => undefined);
    assert.deepEqual([host.volumes.list(), host.plugin.volumes.size], [[], 0]);
  });

  test('of CreateVolume whose volume cannot be used is kept on record until that volume is deleted', async (t) => {
    const host = await volumeHost(t, { ...FULL, volumeId: () => 'x'.repeat(200) });
    host.plugin.next('DeleteVolume', failWith('FAILED_PRECONDITION'));
    await assert.rejects(host.volumes.create(request(), soon()), /DeleteVolume/);
    assert.deepEqual([host.volumes.get('data').state, host.plugin.volumes.size], ['creating', 1]);
    await assert.rejects(host.volumes.create(request(), soon()), /volume_id: has 200 bytes/);
    assert.deepEqual([host.volumes.list(), host.plugin.volumes.size], [[], 0]);
  });
});

describe('a CreateVolume that tells nothing of what it did', { skip: missing('root') }, () => {
  const vague = failWith('INTERNAL', { afterEffect: true });
  const many = Array.from({ length: 40 }, () => vague);

  test('is never forgotten: it is on record with step and error, and repeated with the same words until it is made', async (t) => {
    const host = await volumeHost(t, FULL);
    host.plugin.next('CreateVolume', vague, failWith('UNKNOWN'), vague, vague);
    await assert.rejects(host.volumes.create(request(), soon()), hasCode('UNKNOWN'));
    const { state, failure } = host.volumes.get('data');
    assert.deepEqual([state, failure?.step, failure?.code], ['creating', 'CreateVolume', 'UNKNOWN']);
    assert.equal(host.volumes.planned('data')?.attempts, 1);
    await until(() => host.volumes.get('data').state === 'created', 'created');
    assert.equal(host.volumes.get('data').failure, undefined);
    const sent = host.plugin.requests('CreateVolume').map((one) => JSON.stringify(one));
    assert.deepEqual([sent.length, new Set(sent).size, host.plugin.volumes.size], [5, 1, 1]);
    await host.volumes.remove('data', soon());
    assert.deepEqual([host.volumes.list(), host.plugin.volumes.size, host.plugin.violations], [[], 0, []]);
  });

  test('is removed for good when that was asked for once, also by the next daemon', async (t) => {
    const host = await volumeHost(t, FULL);
    host.plugin.next('CreateVolume', ...many);
    await assert.rejects(host.volumes.create(request(), soon()), hasCode('INTERNAL'));
    await assert.rejects(host.volumes.remove('data', soon()), hasCode('INTERNAL'));
    assert.deepEqual([host.volumes.get('data').state, host.volumes.get('data').volumeId], ['deleting', undefined]);
    await assert.rejects(host.volumes.create(request(), soon()), hasCode('FAILED_PRECONDITION'));
    await host.stop();
    host.plugin.heal();
    await host.start();
    await host.volumes.recover(soon());
    assert.deepEqual([host.volumes.list(), host.plugin.volumes.size, host.plugin.violations], [[], 0, []]);
    assert.equal(host.plugin.requests('DeleteVolume').length, 1);
  });

  test('can be given up by name, one that was made cannot', async (t) => {
    const host = await volumeHost(t, FULL);
    host.plugin.next('CreateVolume', ...many);
    await assert.rejects(host.volumes.create(request(), soon()), hasCode('INTERNAL'));
    await host.volumes.forget('data', soon());
    assert.deepEqual([host.volumes.list(), host.volumes.planned('data')], [[], undefined]);
    host.plugin.heal();
    await host.volumes.create(request(), soon());
    await assert.rejects(host.volumes.forget('data', soon()), hasCode('FAILED_PRECONDITION'));
  });

  test('nor is one forgotten whose answer is too long to be received', async (t) => {
    const host = await volumeHost(t, FULL);
    const huge = answerWith(({ volume }) => ({
      volume: { ...volume, volumeContext: { key: 'x'.repeat(17 * 2 ** 20) } },
    }));
    host.plugin.next('CreateVolume', huge);
    await assert.rejects(host.volumes.create(request(), soon()), /its answer has more than 16777216 bytes/);
    assert.equal(host.plugin.volumes.size, 1);
    await host.volumes.remove('data', soon());
    assert.deepEqual([host.volumes.list(), host.plugin.volumes.size], [[], 0]);
  });
});

describe('a CreateVolume that succeeds after its deadline', { skip: missing('root') }, () => {
  /** Done after twice the deadline, when nobody waits any more. */
  const late: Behaviour = async (_request, effect) => {
    await sleep(800);
    return effect();
  };
  const slow = { ...FULL, abortsWhenBusy: true };
  const options = { callMs: 400, deadlines: { pluginMs: 5000, retryForMs: 5000, settleMs: 500 } };

  test('makes one volume, which the same request finds', async (t) => {
    const host = await volumeHost(t, slow, options);
    host.plugin.next('CreateVolume', late);
    await assert.rejects(host.volumes.create(request(), soon()), hasCode('DEADLINE_EXCEEDED'));
    assert.deepEqual([host.volumes.get('data').state, host.plugin.volumes.size], ['creating', 0]);
    await host.volumes.create(request(), soon());
    const names = host.plugin.requests('CreateVolume').map(({ name }) => name);
    assert.ok(names.length > 1 && new Set(names).size === 1, 'the same name each time');
    assert.equal(host.plugin.volumes.size, 1);
    await host.volumes.remove('data', soon());
    assert.deepEqual([host.volumes.list(), host.plugin.volumes.size, host.plugin.violations], [[], 0, []]);
  });

  test('leaves none when the volume is removed meanwhile', async (t) => {
    const host = await volumeHost(t, slow, options);
    host.plugin.next('CreateVolume', late);
    await assert.rejects(host.volumes.create(request(), soon()), hasCode('DEADLINE_EXCEEDED'));
    await host.volumes.remove('data', soon());
    assert.deepEqual([host.volumes.list(), host.plugin.volumes.size, host.plugin.violations], [[], 0, []]);
  });

  test('is found by the next daemon', async (t) => {
    const host = await volumeHost(t, slow, options);
    host.plugin.next('CreateVolume', late);
    await assert.rejects(host.volumes.create(request(), soon()), hasCode('DEADLINE_EXCEEDED'));
    await host.start(options);
    await host.volumes.recover(soon());
    assert.deepEqual([host.volumes.get('data').state, host.plugin.volumes.size], ['created', 1]);
  });
});

describe('the way down', { skip: missing('root', 'loop') }, () => {
  test('stops above a target that only the kernel still shows', async (t) => {
    const host = await volumeHost(t, FULL);
    await host.volumes.create(request(), soon());
    await host.volumes.publish('data', A, { readOnly: false }, soon());
    // A record that has lost its targets, as one restored from a copy would have.
    const published = host.volumes.get('data');
    host.store.write('data', { ...published, state: 'staged', publications: [], claims: [] });
    await assert.rejects(host.volumes.detach('data', false, soon()), /volume data is still mounted at .*\/target/);
    assert.deepEqual(host.plugin.requests('NodeUnstageVolume'), []);
    assert.equal(host.volumes.get('data').failure?.step, 'NodeUnstageVolume');
    host.store.write('data', published);
    await host.volumes.release('data', A, soon());
    assertIdle(host);
  });

  test('frees this node though the controller is away, and ends by itself when it is back', async (t) => {
    const host = await volumeHost(t, FULL);
    await host.start({ deadlines: { pluginMs: 5000, retryForMs: 200, settleMs: 500 } });
    await host.volumes.create(request(), soon());
    await host.volumes.publish('data', A, { readOnly: false }, soon());
    let away = true;
    host.plugin.onCall = (rpc) => {
      if (away && rpc === 'ControllerUnpublishVolume') throw new FakeStatus('UNAVAILABLE', 'the array is rebooting');
    };
    await assert.rejects(host.volumes.release('data', A, soon()), hasCode('UNAVAILABLE'));
    const { state, claims, failure } = host.volumes.get('data');
    assert.deepEqual(
      [state, claims.length, failure?.step],
      ['controller-unpublishing', 1, 'ControllerUnpublishVolume'],
    );
    assert.deepEqual([host.mounts(), host.plugin.staged.size, host.plugin.published.size], [[], 0, 0]);
    assert.ok((host.volumes.planned('data')?.attempts ?? 0) > 0);
    away = false;
    const deadline = Date.now() + 15_000;
    while (host.volumes.get('data').claims.length > 0) {
      assert.ok(Date.now() < deadline, `stays ${host.volumes.get('data').state}`);
      await sleep(20);
    }
    assertIdle(host);
  });

  for (const code of ['UNAVAILABLE', 'ABORTED', 'DEADLINE_EXCEEDED'] as const) {
    test(`is repeated in the background for as long as NodeUnpublishVolume says ${code} (K29)`, async (t) => {
      const host = await volumeHost(t, FULL);
      await host.start({ deadlines: { pluginMs: 5000, retryForMs: 100, settleMs: 500 } });
      await host.volumes.create(request(), soon());
      await host.volumes.publish('data', A, { readOnly: false }, soon());
      host.plugin.next('NodeUnpublishVolume', ...Array.from({ length: 12 }, () => failWith(code)));
      await assert.rejects(host.volumes.release('data', A, soon()), hasCode(code));
      const pauses = new Set<number>();
      const deadline = Date.now() + 18_000;
      while (host.volumes.get('data').claims.length > 0) {
        assert.ok(Date.now() < deadline, `stays ${host.volumes.get('data').state}`);
        const planned = host.volumes.planned('data');
        if (planned !== undefined) pauses.add(planned.attempts);
        await sleep(5);
      }
      assert.ok(pauses.size > 1, 'several attempts were planned and shown');
      assert.equal(host.volumes.get('data').failure, undefined);
      assertIdle(host);
    });
  }
});

describe('volumes made side by side', { skip: missing('root') }, () => {
  test('are asked of one controller one after the other, unless more are allowed', async (t) => {
    const host = await volumeHost(t, FULL);
    for (const [controllerCalls, most] of [
      [undefined, 1],
      [3, 3],
    ] as const) {
      await host.start(controllerCalls === undefined ? {} : { controllerCalls });
      let now = 0;
      let peak = 0;
      const count: Behaviour = async (_request, effect) => {
        now += 1;
        peak = Math.max(peak, now);
        await sleep(50);
        now -= 1;
        return effect();
      };
      host.plugin.next('CreateVolume', ...Array.from({ length: 6 }, () => count));
      const names = Array.from({ length: 6 }, (_, index) => `${most}-${index}`);
      await Promise.all(names.map((name) => host.volumes.create(request({ name }), soon())));
      assert.equal(peak, most);
    }
  });
});
