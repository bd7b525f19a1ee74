/**
 * SIGKILL of berthd at every named step and at random moments, then a start: what ran still runs and is managed, what
 * was half made is gone, nothing is left over. The oracle asks the kernel.
 */
import assert from 'node:assert/strict';
import { describe, type TestContext, test } from 'node:test';
import type { ContainerSpec } from '../../src/api/generated/berth/v1/ContainerSpec.ts';
import { identify, isAlive, type ProcessIdentity } from '../../src/process-identity.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import type { LineMatch } from '../support/daemon-process.ts';
import { needs } from '../support/needs.ts';

const IMAGE = 'busybox:1';
const MIB = 1024 * 1024;

/** A container with two networks, a volume and a block device: it passes every step there is. */
function everything(name: string, volume: string): ContainerSpec {
  return {
    name,
    image: IMAGE,
    command: ['sleep', '1000'],
    networks: ['e2e', 'e2e-second'],
    mounts: [{ volume, target: '/data' }],
  };
}

function step(name: string): LineMatch {
  return (line) => line.msg === 'launch step' && line['step'] === name;
}

function cni(command: string, plugin: string): LineMatch {
  return (line) => line.msg === 'CNI plugin ran' && line['command'] === command && line['plugin'] === plugin;
}

function csi(rpc: string): LineMatch {
  return (line) => line.msg === 'CSI call' && line['rpc'] === rpc;
}

function volumeBecomes(state: string): LineMatch {
  return (line) => line.msg === 'volume state changed' && line['to'] === state;
}

function becomes(state: string): LineMatch {
  return (line) => line.msg === 'container state changed' && line['to'] === state;
}

/** Moments of a launch, in about the order in which they come. */
const LAUNCH_STEPS: Readonly<Record<string, LineMatch>> = {
  'the record is made': becomes('created'),
  'the volume is staged': csi('NodeStageVolume'),
  'the volume is published': csi('NodePublishVolume'),
  'everything is prepared': step('prepared'),
  'the first ADD has run': cni('ADD', 'bridge'),
  'the process is created': step('process created'),
  'the container is isolated': step('isolated'),
  'user code runs': step('process started'),
  'the start is recorded': becomes('running'),
};

/** Moments of a removal by force. */
const REMOVAL_STEPS: Readonly<Record<string, LineMatch>> = {
  'the exit is recorded': becomes('stopping'),
  'the first DEL has run': cni('DEL', 'bridge'),
  'the volume is unpublished': csi('NodeUnpublishVolume'),
  'the volume is unstaged': csi('NodeUnstageVolume'),
  'the run is released': becomes('exited'),
  'the record is gone': becomes('gone'),
};

/** A daemon with a container that must come through everything untouched. */
async function daemonWithBystander(t: TestContext): Promise<{ daemon: Daemon; bystander: Bystander }> {
  const daemon = await startDaemon(t);
  await daemon.importBusybox(IMAGE);
  for (const name of ['kept', 'used']) {
    await daemon.api.volumes.call('Create', { name, capacityBytes: 16 * MIB });
  }
  const id = await daemon.api.start(everything('bystander', 'kept'));
  const { pid, networks } = await daemon.api.containers.call('Inspect', { ref: id });
  const init = identify(Number(pid));
  assert.ok(init);
  return { daemon, bystander: { id, init, networks } };
}

interface Bystander {
  readonly id: string;
  readonly init: ProcessIdentity;
  readonly networks: unknown;
}

async function assertUntouched(daemon: Daemon, { id, init, networks }: Bystander): Promise<void> {
  assert.ok(isAlive(init), 'the bystander died');
  const now = await daemon.api.containers.call('Inspect', { ref: id });
  assert.equal(now.state, 'CONTAINER_STATE_RUNNING');
  assert.equal(Number(now.pid), init.pid);
  assert.deepEqual(now.networks, networks);
}

// Each with a daemon of its own: most of their time is waited.
describe('SIGKILL of berthd', { concurrency: 2 }, () => {
  test('berthd killed at every named step of a launch', { timeout: 300_000 }, async (t) => {
    if (!needs(t, 'root', 'conmon', 'cni', 'busybox', 'overlayfs', 'loop', 'ext4')) return;
    const { daemon, bystander } = await daemonWithBystander(t);
    const before = daemon.oracle();
    for (const [name, match] of Object.entries(LAUNCH_STEPS)) {
      await t.test(`when ${name}: finished or undone`, async () => {
        const dead = daemon.killAt((line) => line['containerId'] !== bystander.id && match(line));
        const outcome = daemon.api.start(everything('victim', 'used')).then(
          (id) => id,
          () => undefined,
        );
        await dead;
        const acknowledged = await outcome;
        await daemon.start();
        await assertUntouched(daemon, bystander);
        const { containers } = await daemon.api.containers.call('List', { all: true });
        const victim = containers.find((container) => container.name === 'victim');
        if (acknowledged !== undefined) assert.equal(victim?.state, 'CONTAINER_STATE_RUNNING');
        if (victim !== undefined) {
          assert.equal(victim.state, 'CONTAINER_STATE_RUNNING', 'what is left of a launch runs');
          await daemon.api.containers.call('Remove', { ref: 'victim', force: true });
        }
        await before.assertClean();
      });
    }
  });

  test('berthd killed at every named step of a removal', { timeout: 300_000 }, async (t) => {
    if (!needs(t, 'root', 'conmon', 'cni', 'busybox', 'overlayfs', 'loop', 'ext4')) return;
    const { daemon, bystander } = await daemonWithBystander(t);
    const before = daemon.oracle();
    for (const [name, match] of Object.entries(REMOVAL_STEPS)) {
      await t.test(`when ${name}: the removal is finished by the next start`, async () => {
        await daemon.api.start(everything('victim', 'used'));
        const dead = daemon.killAt((line) => line['containerId'] !== bystander.id && match(line));
        const outcome = Promise.allSettled([daemon.api.containers.call('Remove', { ref: 'victim', force: true })]);
        await dead;
        await outcome;
        await daemon.start();
        await assertUntouched(daemon, bystander);
        const { containers } = await daemon.api.containers.call('List', { all: true });
        assert.deepEqual(
          containers.map((container) => container.name),
          ['bystander'],
        );
        await before.assertClean();
      });
    }
  });

  test('berthd killed while it makes and unmakes a volume', { timeout: 120_000 }, async (t) => {
    if (!needs(t, 'root', 'conmon', 'cni', 'busybox', 'overlayfs', 'loop', 'ext4')) return;
    const { daemon, bystander } = await daemonWithBystander(t);
    const before = daemon.oracle();
    const volume = { name: 'victim', capacityBytes: 16 * MIB };
    const states = async (): Promise<unknown[]> =>
      (await daemon.api.volumes.call('List', {})).volumes.map(({ name, state }) => [name, state]);
    const kept = ['kept', 'published'];
    const used = ['used', 'created'];

    for (const [moment, match] of [
      ['is under way', volumeBecomes('creating')],
      ['has run', csi('CreateVolume')],
    ] as const) {
      await t.test(`when CreateVolume ${moment}: the same request gives the one volume there is`, async () => {
        const dead = daemon.killAt(match);
        const outcome = Promise.allSettled([daemon.api.volumes.call('Create', volume)]);
        await dead;
        await outcome;
        await daemon.start();
        await assertUntouched(daemon, bystander);
        await daemon.api.volumes.call('Create', volume);
        assert.deepEqual(await states(), [kept, used, ['victim', 'created']]);
        await daemon.api.volumes.call('Remove', { name: 'victim' });
        await before.assertClean();
      });
    }

    for (const [moment, match] of [
      ['is under way', volumeBecomes('deleting')],
      ['has run', csi('DeleteVolume')],
    ] as const) {
      await t.test(`when DeleteVolume ${moment}: the volume is gone after the next start`, async () => {
        await daemon.api.volumes.call('Create', volume);
        const dead = daemon.killAt(match);
        const outcome = Promise.allSettled([daemon.api.volumes.call('Remove', { name: 'victim' })]);
        await dead;
        await outcome;
        await daemon.start();
        await assertUntouched(daemon, bystander);
        await before.assertClean();
        assert.deepEqual(await states(), [kept, used]);
      });
    }
  });

  /** Small and repeatable (mulberry32). */
  function random(seed: number): () => number {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let mixed = Math.imul(state ^ (state >>> 15), state | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  const ROUNDS = 25;
  const LIFECYCLES_AT_ONCE = 4;

  /** What the daemon has told a caller about a container. */
  interface Told {
    started: boolean;
    ending: boolean;
    gone: boolean;
  }

  test(`berthd killed at ${ROUNDS} random moments of mixed lifecycles`, { timeout: 400_000 }, async (t) => {
    if (!needs(t, 'root', 'conmon', 'cni', 'busybox', 'overlayfs', 'loop', 'ext4')) return;
    const seed = Number(process.env['BERTH_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
    t.diagnostic(`BERTH_TEST_SEED=${seed}`);
    const next = random(seed);
    const { daemon, bystander } = await daemonWithBystander(t);
    const before = daemon.oracle();

    const lifecycle = async (name: string, volume: string | undefined, told: Told): Promise<void> => {
      const networks = next() < 0.3 ? ['none'] : next() < 0.3 ? ['e2e', 'e2e-second'] : ['e2e'];
      const mounts = volume === undefined ? [] : [{ volume, target: '/data' }];
      const spec: ContainerSpec = { name, image: IMAGE, command: ['sleep', '1000'], networks, mounts };
      const separately = next() < 0.4;
      if (separately) {
        await daemon.api.containers.call('Create', { spec });
        await daemon.api.containers.call('Start', { ref: name });
      } else {
        await daemon.api.start(spec);
      }
      told.started = true;
      if (next() < 0.3) return;
      told.ending = true;
      if (next() < 0.5) await daemon.api.containers.call('Stop', { ref: name, timeoutMs: 0 });
      await daemon.api.containers.call('Remove', { ref: name, force: true });
      told.gone = true;
    };

    for (let round = 0; round < ROUNDS; round += 1) {
      const told = new Map<string, Told>();
      const work = Array.from({ length: LIFECYCLES_AT_ONCE }, (_, index) => {
        const name = `r${round}-${index}`;
        const known: Told = { started: false, ending: false, gone: false };
        told.set(name, known);
        return lifecycle(name, index === 0 ? 'used' : undefined, known);
      });
      const settled = Promise.allSettled(work);
      await new Promise((resolve) => setTimeout(resolve, next() * 900));
      await daemon.kill('SIGKILL');
      await settled;
      await daemon.start();

      await assertUntouched(daemon, bystander);
      const { containers } = await daemon.api.containers.call('List', { all: true });
      const states = new Map(containers.map((container) => [container.name, container.state]));
      for (const [name, { started, ending, gone }] of told) {
        const state = states.get(name);
        const context = `round ${round}, seed ${seed}: ${name} is ${state ?? 'not there'}`;
        if (started && !ending) assert.equal(state, 'CONTAINER_STATE_RUNNING', context);
        if (gone) assert.equal(state, undefined, context);
        assert.notEqual(state, 'CONTAINER_STATE_STARTING', context);
        assert.notEqual(state, 'CONTAINER_STATE_STOPPING', context);
      }
      const others = containers.filter((container) => container.id !== bystander.id);
      await Promise.all(others.map(({ id }) => daemon.api.containers.call('Remove', { ref: id, force: true })));
      await before.assertClean();
    }
  });
});
