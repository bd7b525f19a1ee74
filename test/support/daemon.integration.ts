/** The support for tests of the whole: it must notice what a daemon leaves, and clean up whatever happens. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import test, { describe } from 'node:test';
import { startDaemon } from './daemon.ts';
import { missing } from './needs.ts';
import { assertClean, snapshot } from './oracle.ts';

/** A scope whose end is called by the test itself. */
class Scope {
  passed = true;
  #end: () => unknown = () => undefined;

  after(hook: () => unknown): void {
    this.#end = hook;
  }

  async end(): Promise<void> {
    await this.#end();
  }
}

const NEEDS = ['root', 'conmon', 'cni', 'iptables', 'ip', 'mount', 'tmpfs', 'overlayfs', 'busybox', 'tar'] as const;

describe('startDaemon', { skip: missing(...NEEDS) }, () => {
  test('ends without a complaint when everything is given back', async () => {
    const scope = new Scope();
    const daemon = await startDaemon(scope);
    const before = daemon.oracle();
    await daemon.importBusybox();
    await daemon.api.run({ name: 'box', image: 'busybox:1', command: ['true'], autoRemove: true });
    await before.assertClean();
    const id = await daemon.api.start({ name: 'stays', image: 'busybox:1', command: ['sleep', '1000'] });
    assert.ok(daemon.scope.ids.has(id), 'ids are learned from the log');
    await assert.rejects(before.assertClean({ settleMs: 0 }), /process: conmon/);
    await scope.end();
    assert.equal(existsSync(daemon.dir), false);
    assert.equal(existsSync(`/sys/class/net/${daemon.networks[0].bridge}`), false);
  });

  test('fails the test that leaves a mount, and takes it away', async () => {
    const scope = new Scope();
    const daemon = await startDaemon(scope);
    const target = join(daemon.run, 'planted');
    await mkdir(target);
    execFileSync('mount', ['-t', 'tmpfs', 'none', target]);
    await assert.rejects(scope.end(), /mount: \S+\/planted/);
    await assertClean(daemon.scope);
  });

  test('sweeps what a killed daemon held, without a complaint', async () => {
    const scope = new Scope();
    const daemon = await startDaemon(scope);
    await daemon.importBusybox();
    const dead = daemon.killAt((line) => line.msg === 'launch step' && line['step'] === 'process started');
    const launch = daemon.api.start({ name: 'box', image: 'busybox:1', command: ['sleep', '1000'] });
    const [line] = await Promise.all([dead, assert.rejects(launch)]);
    assert.equal(line['step'], 'process started');
    assert.equal(daemon.alive, false);
    const left = snapshot(daemon.scope);
    assert.ok(left.process.some((name) => name.startsWith('conmon')));
    assert.equal(left.interface.length, 1);
    await scope.end();
    await assertClean(daemon.scope);
  });

  test('tells the end of the log when berthd does not start', { timeout: 30_000 }, async () => {
    const scope = new Scope();
    const flags = ['--cgroup-parent', 'not/a/name'];
    await assert.rejects(startDaemon(scope, { flags }), /berthd exited; end of its log:\n.*cgroup-parent/);
    await scope.end();
  });
});
