/** Plugins that a real daemon runs as processes: their life, their death, the daemon's death, and the end of their file. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { signalProcess } from '../../src/process-identity.ts';
import { startDaemon } from '../support/daemon.ts';
import { needs } from '../support/needs.ts';
import {
  driverCommand,
  dropIn,
  identityOf,
  isAlive,
  processesAt,
  type Row,
  rows,
  until,
  untilRow,
} from './supervised-host.ts';

const DRIVER = 'local.csi.berth';

test('plugins that the daemon runs as processes', async (t) => {
  if (!needs(t, 'root', 'conmon', 'busybox', 'overlayfs')) return;
  const daemon = await startDaemon(t, { flags: ['--no-csi-local-driver'] });
  await daemon.importBusybox();
  const isReady = ({ name, state }: { name: string; state: string }): boolean => name === DRIVER && state === 'ready';

  await t.test('serve volumes, and are found again after SIGKILL of the daemon', async (st) => {
    dropIn(st, daemon, 'disk', `name = "${DRIVER}"\n${driverCommand(daemon)}node-id = "node-7"\n`);
    const row = await untilRow(daemon, isReady);
    assert.equal(row.nodeId, 'node-7');
    assert.equal(row.socket, `${daemon.run}/plugins/disk/csi.sock`);
    assert.deepEqual(row.registrations, [{ source: 'berthd', origin: `${daemon.dir}/csi.d/disk.toml` }]);
    assert.deepEqual([row.supervision?.kind, row.supervision?.state], ['process', 'running']);
    const plugin = identityOf(row);
    await daemon.ok(['volume', 'create', 'data', '--size', '64Mi', '--driver', DRIVER]);
    await daemon.ok(['run', '-d', '--name', 'user', '-v', 'data:/data', 'busybox:1', '--', 'sleep', '1000']);

    await daemon.restart('SIGKILL');
    const after = await untilRow(daemon, isReady);
    assert.deepEqual(identityOf(after), plugin);
    assert.equal(after.supervision?.restarts, 0);
    await daemon.restart('SIGTERM');
    assert.deepEqual(identityOf(await untilRow(daemon, isReady)), plugin);
    assert.equal(processesAt(`unix://${row.socket}`).length, 1);

    // The plugin dies with nothing in memory while the volume is published.
    signalProcess(plugin, 'SIGKILL');
    const again = await untilRow(daemon, (one) => isReady(one) && one.supervision?.restarts === 1);
    assert.ok(!isAlive(plugin));
    assert.notEqual(identityOf(again).pid, plugin.pid);
    await daemon.ok(['rm', '-f', 'user']);
    await daemon.ok(['run', '--rm', '-v', 'data:/data', 'busybox:1', '--', 'touch', '/data/x']);
    await daemon.ok(['volume', 'rm', 'data']);
    const log = await daemon.ok(['csi', 'logs', DRIVER]);
    assert.equal(log.match(/driver listens/g)?.length, 2);
    assert.match(await daemon.ok(['csi', 'logs', '--tail', '1', 'disk']), /^\{.*\}$/);
  });

  await t.test('go with their file, but not while a volume is in use', async (st) => {
    const file = dropIn(st, daemon, 'disk', `name = "${DRIVER}"\n${driverCommand(daemon)}`);
    const row = await untilRow(daemon, isReady);
    const plugin = identityOf(row);
    await daemon.ok(['volume', 'create', 'data', '--size', '64Mi', '--driver', DRIVER]);
    await daemon.ok(['run', '-d', '--name', 'user', '-v', 'data:/data', 'busybox:1', '--', 'sleep', '1000']);
    file.remove();
    const kept = await untilRow(daemon, ({ supervision }) => supervision?.kept !== null);
    assert.match(kept.reason, /^its file is gone; it runs until these volumes are not in use: data$/);
    assert.ok(isAlive(plugin));
    // Also when the daemon learns of it at its start, and when the plugin dies meanwhile.
    await daemon.restart('SIGKILL');
    await untilRow(daemon, (one) => isReady(one) && one.supervision?.kept !== null);
    signalProcess(plugin, 'SIGKILL');
    await untilRow(daemon, (one) => isReady(one) && one.supervision?.restarts === 1);
    await daemon.ok(['rm', '-f', 'user']);
    await until(async () => (await rows(daemon)).length === 0);
    assert.deepEqual(processesAt(`unix://${row.socket}`), []);
    assert.equal(existsSync(`${daemon.run}/plugins/disk`), false);
    assert.equal(existsSync(`${daemon.root}/plugin-logs/disk.log`), false);
    // The volume stays for the next one.
    dropIn(st, daemon, 'other', driverCommand(daemon));
    await untilRow(daemon, isReady);
    await daemon.ok(['volume', 'rm', 'data']);
  });

  await t.test('are started again with growing pauses, which the list explains', async (st) => {
    dropIn(
      st,
      daemon,
      'bad',
      'command = ["/bin/sh", "-c", "echo at $CSI_ENDPOINT {node-id} >&2; exit 3"]\nnode-id = "n"\n',
    );
    const row = await untilRow(daemon, ({ supervision }) => (supervision?.restarts ?? 0) >= 3);
    assert.deepEqual(row.supervision?.lastEnd?.exitCode, 3);
    const waiting = await untilRow(daemon, ({ supervision }) => supervision?.state === 'waiting');
    assert.match(
      waiting.reason,
      /^it ended with exit code 3 \(restarts: \d+, next start at .*\); see berth csi logs bad$/,
    );
    const line = `at unix://${daemon.run}/plugins/bad/csi.sock n`;
    assert.ok((await daemon.ok(['csi', 'logs', 'bad'])).split('\n').every((one) => one === line));
    assert.equal(JSON.parse(await daemon.ok(['csi', 'inspect', 'bad']))[0].supervision.name, 'bad');
    const doctor: { remedy: string }[] = JSON.parse(await daemon.ok(['doctor', '--format', 'json']));
    assert.ok(doctor.some(({ remedy }) => remedy === 'see berth csi logs bad'));
  });

  await t.test('that cannot be started say why, and run as soon as their file is mended', async (st) => {
    dropIn(st, daemon, 'disk', 'command = ["/nonexistent/plugin"]\n');
    const row = await untilRow(daemon, ({ supervision }) => supervision?.lastEnd !== null);
    assert.match(row.supervision?.lastEnd?.reason ?? '', /^\/nonexistent\/plugin cannot be started: it is not there/);
    writeFileSync(`${daemon.dir}/csi.d/disk.toml`, driverCommand(daemon));
    const good = await untilRow(daemon, isReady);
    // A file that turns bad keeps the meaning it had.
    writeFileSync(`${daemon.dir}/csi.d/disk.toml`, `${driverCommand(daemon)}grace-seconds = "x"\n`);
    await untilRow(daemon, ({ state }) => state === 'invalid');
    assert.deepEqual(identityOf(await untilRow(daemon, isReady)), identityOf(good));
    await daemon.restart('SIGKILL');
    assert.deepEqual(identityOf(await untilRow(daemon, isReady)), identityOf(good));
  });

  await t.test('are refused when their name is taken, and take its place when that is free', async (st) => {
    const first = dropIn(st, daemon, 'first', driverCommand(daemon));
    await untilRow(daemon, isReady);
    dropIn(
      st,
      daemon,
      'second',
      driverCommand(daemon).replace(`${daemon.root}/${DRIVER}`, `${daemon.root}/${DRIVER}-second`),
    );
    const refused = await untilRow(daemon, ({ state }) => state === 'refused');
    assert.match(refused.reason, /is taken by the plugin at .*\/first\/csi\.sock/);
    assert.equal(refused.supervision?.name, 'second');
    first.remove();
    await untilRow(daemon, (one) => isReady(one) && one.supervision?.name === 'second');
    const bad = dropIn(st, daemon, 'no name', 'command = ["/bin/true"]\n');
    const misnamed = await untilRow(daemon, ({ state }) => state === 'invalid');
    assert.match(misnamed.reason, /a socket is named after it/);
    bad.remove();
  });

  await t.test('that do not heed SIGTERM are killed with all they started', async (st) => {
    const script = 'trap "" TERM; sleep 1000 & echo up; while :; do sleep 1; done';
    const file = dropIn(
      st,
      daemon,
      'hung',
      `command = ["/bin/sh", "-c", ${JSON.stringify(script)}]\ngrace-seconds = 1\n`,
    );
    const row = await untilRow(daemon, ({ supervision }) => supervision?.state === 'running');
    await until(async () => (await daemon.ok(['csi', 'logs', 'hung'])) === 'up');
    const endpoint = `unix://${row.socket}`;
    assert.ok(processesAt(endpoint).length >= 2);
    const follow = daemon.spawnCli(['csi', 'logs', '-f', 'hung']);
    const followed = new Promise((resolve) => follow.once('close', resolve));
    await new Promise((resolve) => follow.stdout?.once('data', resolve));
    file.remove();
    await until(async () => (await rows(daemon)).length === 0);
    assert.deepEqual(processesAt(endpoint), []);
    assert.equal(await followed, 0);
  });

  await t.test('are found by their socket when the daemon died before it knew the pid', async (st) => {
    dropIn(st, daemon, 'disk', driverCommand(daemon));
    const row = await untilRow(daemon, isReady);
    const plugin = identityOf(row);
    await daemon.kill('SIGKILL');
    const { DatabaseSync } = await import('node:sqlite');
    const db = new DatabaseSync(`${daemon.root}/berth.db`);
    db.exec("UPDATE records SET value = json_remove(value, '$.run.process') WHERE kind = 'supervised-plugin'");
    db.close();
    await daemon.start();
    assert.deepEqual(identityOf(await untilRow(daemon, isReady)), plugin);
    assert.equal(readFileSync(`/proc/${plugin.pid}/comm`, 'utf8').length > 0, true);
  });

  await t.test('may be one process for each part, or one process with a socket for each', async (st) => {
    const name = 'parts.csi.example';
    const program = fileURLToPath(new URL('./plugin-parts-process.ts', import.meta.url));
    const command = (...words: string[]): string =>
      `name = "${name}"\ncommand = ${JSON.stringify([process.execPath, program, name, ...words])}\n`;
    const whole = (row: Row): boolean => row.name === name && row.state === 'ready';
    // Both programs serve everything: what each is used for is the file's word.
    const controller = dropIn(st, daemon, 'ctl', `${command('both={endpoint}')}part = "controller"\n`);
    const node = dropIn(st, daemon, 'nod', `${command('both={endpoint}')}part = "node"\n`);
    const row = await untilRow(daemon, whole);
    const served = ({ sockets }: Row): unknown => sockets.map(({ role, serves }) => [role, serves]).sort();
    assert.deepEqual(served(row), [
      ['controller', ['controller']],
      ['node', ['node']],
    ]);
    assert.deepEqual(
      row.processes.map((one) => one.name),
      ['ctl', 'nod'],
    );
    const several = await daemon.cli(['csi', 'logs', name]);
    assert.match(several.stderr, /runs in several processes, each with its own log: name one of ctl, nod/);
    assert.equal(await daemon.ok(['csi', 'logs', 'nod']), 'both listens');
    await daemon.restart('SIGKILL');
    const found = await untilRow(daemon, whole);
    assert.deepEqual(
      found.processes,
      row.processes.map((one) => ({ ...one, ...found.processes.find((same) => same.pid === one.pid) })),
    );
    // The death of one part is told with its name, and ends no other.
    const [ctl, nod] = found.processes;
    process.kill(ctl?.pid ?? 0, 'SIGKILL');
    const again = await untilRow(daemon, (one) => whole(one) && one.processes[0]?.pid !== ctl?.pid);
    assert.equal(again.processes[1]?.pid, nod?.pid);
    controller.remove();
    node.remove();
    await until(async () => (await rows(daemon)).length === 0);
    dropIn(st, daemon, 'one', command('controller={controller-endpoint}', 'node={node-endpoint}'));
    const one = await untilRow(daemon, whole);
    assert.deepEqual(served(one), served(row));
    assert.deepEqual(one.sockets.map(({ path }) => path).sort(), [
      `${daemon.run}/plugins/one/controller.sock`,
      `${daemon.run}/plugins/one/node.sock`,
    ]);
  });
});
