import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { identify, isAlive, type ProcessIdentity, signalProcess } from '../../../src/process-identity.ts';
import { RuntimeRoot } from '../../../src/runtime/launcher/runtime-root.ts';
import { findSupervisors } from '../../../src/runtime/launcher/supervisor-scan.ts';
import { ociSpec } from '../../../src/runtime/oci-spec.ts';
import { cleanup } from '../../support/cleanup.ts';
import { findProgram, missing } from '../../support/needs.ts';
import { assertGone, collected, LauncherFixture, within } from './launcher-fixture.ts';

for (const runtime of ['crun', 'runc'] as const) {
  describe(`OciLauncher.recover with ${runtime}`, { skip: missing('root', 'conmon', 'busybox', runtime) }, () => {
    test('finds a running container with its init process, and its exit when it comes', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const id = box.id(t);
      const init = await box.launcher.create(id, await box.contribution(id, loop()), within());
      await box.launcher.start(id, within());
      box.launcher.close();
      const second = box.another();
      cleanup(t, () => second.close());
      assert.deepEqual(await second.recover(), new Map([[id, init]]));
      const logs = (await second.openLogs(id, { follow: true }, within()))[Symbol.asyncIterator]();
      const first = await logs.next();
      // Before that its shell has no handler, and the first process of a container ignores what it does not handle.
      assert.equal(Buffer.from(first.value.data).toString(), 'up\n');
      await second.kill(id, 'SIGTERM', within());
      assert.equal((await second.wait(id, within())).code, 7);
      assert.equal((await collected({ [Symbol.asyncIterator]: () => logs })).stdout.toString(), 'down\n');
      await second.destroy(id, within());
      assertGone(box, id);
    });

    test('finds the exit code of a container that ended meanwhile', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const id = box.id(t);
      await box.start(id, ['/bin/sh', '-c', 'exit 42']);
      await box.launcher.wait(id, within());
      box.launcher.close();
      const second = box.another();
      cleanup(t, () => second.close());
      assert.deepEqual(await second.recover(), new Map([[id, undefined]]));
      await second.terminate(id, within());
      assert.equal((await second.wait(id, within())).code, 42);
      await second.destroy(id, within());
      assertGone(box, id);
      assert.deepEqual(await second.recover(), new Map());
    });

    test('a container whose conmon was killed goes on; its end is found with an unknown code', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const id = box.id(t);
      const init = await box.launcher.create(id, await box.contribution(id, ['/bin/sleep', '1000']), within());
      await box.launcher.start(id, within());
      const conmon = conmonOf(box, id);
      signalProcess(conmon, 'SIGKILL');
      const waiting = box.launcher.wait(id, within());
      assert.ok(isAlive(init));
      await box.launcher.kill(id, 'SIGKILL', within());
      assert.deepEqual({ ...(await waiting), exitedAt: '' }, { code: -1, oomKilled: false, exitedAt: '' });
      await box.launcher.destroy(id, within());
      assertGone(box, id);
    });

    test('conmon and container both killed while the daemon was down', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const id = box.id(t);
      const init = await box.launcher.create(id, await box.contribution(id, ['/bin/sleep', '1000']), within());
      await box.launcher.start(id, within());
      box.launcher.close();
      signalProcess(conmonOf(box, id), 'SIGKILL');
      signalProcess(init, 'SIGKILL');
      while (isAlive(init)) await new Promise((resolve) => setImmediate(resolve));
      const second = box.another();
      cleanup(t, () => second.close());
      assert.deepEqual(await second.recover(), new Map([[id, undefined]]));
      assert.equal((await second.wait(id, within())).code, -1);
      await second.destroy(id, within());
      assertGone(box, id);
    });

    test('removes a container that was created by a daemon killed at any moment of it', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      for (const killedAfterMs of [0, 3, 6, 10, 15, 20, 25, 30, 40, 60]) {
        const id = box.id(t);
        await abandonedCreate(box, id, killedAfterMs);
        const second = box.another();
        const held = await second.recover();
        assert.ok(held.has(id), `after ${killedAfterMs} ms`);
        await second.terminate(id, within());
        await second.destroy(id, within());
        second.close();
        assertGone(box, id);
      }
    });

    test('does not take a stranger with a recorded pid for a container, nor signal it', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const stranger = spawn('/bin/sleep', ['1000'], { stdio: 'ignore' });
      cleanup(t, async () => {
        stranger.kill('SIGKILL');
        if (stranger.exitCode === null && stranger.signalCode === null) await once(stranger, 'exit');
      });
      const { pid } = stranger;
      assert.ok(pid !== undefined);
      const id = box.id(t);
      await box.launcher.recover();
      mkdirSync(join(box.dir, 'run/bundles', id));
      writeFileSync(join(box.dir, 'run/bundles', id, 'pidfile'), String(pid));
      assert.deepEqual(await box.launcher.recover(), new Map([[id, undefined]]));
      await box.launcher.kill(id, 'SIGKILL', within());
      await box.launcher.terminate(id, within());
      await box.launcher.destroy(id, within());
      assert.ok(identify(pid) !== undefined);
      assertGone(box, id);
    });

    test('removes runtime state that was cut off while it was written', async (t) => {
      const box = await LauncherFixture.make(t, runtime);
      const id = box.id(t);
      await box.launcher.recover();
      mkdirSync(join(box.dir, 'run/oci', id), { recursive: true });
      writeFileSync(join(box.dir, 'run/oci', id, runtime === 'crun' ? 'status' : 'state.json'), '{"pid": 1');
      assert.deepEqual(await box.launcher.recover(), new Map([[id, undefined]]));
      await box.launcher.destroy(id, within());
      assertGone(box, id);
    });

    test('knows nothing of the containers of another run directory', async (t) => {
      const one = await LauncherFixture.make(t, runtime);
      const other = await LauncherFixture.make(t, runtime);
      const id = one.id(t);
      await one.start(id, ['/bin/sleep', '1000']);
      assert.deepEqual(await other.launcher.recover(), new Map());
      assert.deepEqual(readdirSync(join(other.dir, 'run/bundles')), []);
    });
  });
}

function loop(): string[] {
  return ['/bin/sh', '-c', 'trap "echo down; exit 7" TERM; echo up; while :; do sleep 0.05; done'];
}

function conmonOf(box: LauncherFixture, id: string): ProcessIdentity {
  const [conmon] = findSupervisors(join(box.dir, 'run/bundles')).get(id)?.conmons ?? [];
  assert.ok(conmon !== undefined);
  return conmon;
}

/** Does what a daemon does for create, in a process of its own that is killed in the middle. */
async function abandonedCreate(box: LauncherFixture, id: string, killedAfterMs: number): Promise<void> {
  const root = new RuntimeRoot({ rootDir: join(box.dir, 'root'), runDir: join(box.dir, 'run') });
  root.make();
  root.writeBundle(id, ociSpec(id, await box.contribution(id, ['/bin/true'])));
  const conmon = findProgram('conmon') ?? '';
  const bundle = root.bundle(id);
  const args = [
    ...['--api-version', '1', '--cid', id, '--cuuid', id, '--name', id, '--runtime', findProgram(box.runtime) ?? ''],
    ...['--bundle', bundle, '--container-pidfile', root.pidFile(id), '--exit-dir', root.exits, '--full-attach'],
    ...['--log-path', `k8s-file:${root.log(id)}`, '--sync', `--runtime-arg=--root=${root.state}`],
  ];
  // The shell is the daemon: conmon becomes its child and loses it.
  const daemon = spawn('/bin/sh', ['-c', 'setsid "$0" "$@" & wait', conmon, ...args], { stdio: 'ignore' });
  await new Promise((resolve) => setTimeout(resolve, killedAfterMs));
  daemon.kill('SIGKILL');
  if (daemon.exitCode === null && daemon.signalCode === null) await once(daemon, 'exit');
  assert.ok(existsSync(bundle) && readFileSync(join(bundle, 'config.json'), 'utf8') !== '');
}
