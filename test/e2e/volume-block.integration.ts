/**
 * Block volumes end to end, with the embedded driver and real containers: the node at the asked path, the kernel's word
 * on which devices a container may use, raw reads and writes of several containers at a time, growth while in use.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { needs } from '../support/needs.ts';

const IMAGE = 'busybox:1';
const MIB = 1024 * 1024;

const shell = (...flags: string[]): ((script: string) => string[]) => {
  return (script) => ['run', '--network', 'none', ...flags, IMAGE, '--', 'sh', '-c', script];
};

/** "MAJOR:MINOR" and mode of a node as a container sees it, of `stat -c '%a %t:%T'`. */
const STAT = "stat -c '%a %u %g %t:%T'";

/**
 * Block devices that the kernel lets a container use ("b 7:3 rw"), by its cgroup; undefined where it does not tell. OCI
 * runtimes let nodes of all devices be made, which opens none of them.
 */
function allowed(daemon: Daemon, id: string): string[] | undefined {
  const file = `/sys/fs/cgroup/devices/${daemon.cgroupParent}/${id}/devices.list`;
  if (!existsSync(file)) return undefined;
  const lines = readFileSync(file, 'utf8').trim().split('\n');
  return lines.filter((line) => !line.startsWith('c ') && line !== 'b *:* m');
}

/** A device of `stat`, whose numbers are hexadecimal, as the cgroup has it. */
function numbersOf(text: string): string {
  return text
    .split(':')
    .map((part) => Number.parseInt(part, 16))
    .join(':');
}

async function untilLogged(daemon: Daemon, name: string, line: string): Promise<void> {
  const follow = daemon.spawnCli(['logs', '-f', name]);
  let text = '';
  for await (const chunk of follow.stdout ?? []) {
    text += String(chunk);
    if (text.split('\n').includes(line)) break;
  }
  follow.kill('SIGKILL');
  assert.ok(text.split('\n').includes(line), text);
}

test('block volumes', async (t) => {
  if (!needs(t, 'root', 'conmon', 'busybox', 'overlayfs', 'loop', 'losetup')) return;
  const daemon = await startDaemon(t);
  await daemon.importBusybox(IMAGE);
  const before = daemon.oracle();

  await t.test('are one device for two writers and a reader, each with exactly its own right to it', async () => {
    await daemon.ok(['volume', 'create', 'disk', '--size', '16Mi', '--access', 'block', '--access-mode', 'RWO']);
    const [{ accessMode }] = JSON.parse(await daemon.ok(['volume', 'inspect', 'disk']));
    assert.equal(accessMode, 'single-node-multi-writer');
    // Each writes its word into a sector and waits for the word of the other in the next.
    const talk = (device: string, own: number, other: number): string =>
      [
        `${STAT} ${device}`,
        `printf word-${own} | dd of=${device} bs=512 seek=${own} conv=notrunc,fsync 2>/dev/null`,
        `until [ "$(dd if=${device} bs=512 skip=${other} count=1 2>/dev/null | head -c 6)" = word-${other} ]; do usleep 50000; done`,
        'echo heard',
        'sleep 1000',
      ].join('; ');
    const one = await daemon.ok(shell('-d', '--name', 'one', '--device', 'disk:/dev/xvdb')(talk('/dev/xvdb', 1, 2)));
    const two = await daemon.ok(shell('-d', '--name', 'two', '--device', 'disk:/dev/sdz')(talk('/dev/sdz', 2, 1)));
    for (const name of ['one', 'two']) await untilLogged(daemon, name, 'heard');
    const [seenByOne = '', seenByTwo = ''] = await Promise.all(
      ['one', 'two'].map(async (name) => (await daemon.ok(['logs', name])).split('\n')[0] ?? ''),
    );
    assert.match(seenByOne, /^660 0 0 [0-9a-f]+:[0-9a-f]+$/);
    assert.equal(seenByOne, seenByTwo);
    const device = numbersOf(seenByOne.split(' ')[3] ?? '');

    // Root that makes the node writable again still may not write, nor make another node of the device.
    const tries = [
      `${STAT} /dev/ro`,
      'dd if=/dev/ro bs=512 skip=1 count=1 2>/dev/null | head -c 6; echo',
      'chmod 666 /dev/ro',
      'printf x | dd of=/dev/ro conv=notrunc 2>&1 | tail -1',
      `mknod /dev/own b ${device.replace(':', ' ')} 2>&1`,
      'echo over',
      'sleep 1000',
    ].join('; ');
    const reader = await daemon.ok(shell('-d', '--name', 'reader', '--device', 'disk:/dev/ro:ro')(tries));
    await untilLogged(daemon, 'reader', 'over');
    const [node = '', word, ...refusals] = (await daemon.ok(['logs', 'reader'])).split('\n');
    assert.match(node, /^440 0 0 /);
    assert.equal(numbersOf(node.split(' ')[3] ?? ''), device);
    assert.equal(word, 'word-1');
    assert.equal(
      refusals.filter((line) => /not permitted|permission denied/i.test(line)).length,
      2,
      refusals.join('; '),
    );
    const [inspected] = JSON.parse(await daemon.ok(['inspect', 'reader']));
    assert.deepEqual(inspected.spec.devices, [{ volume: 'disk', path: '/dev/ro', readOnly: true }]);
    assert.deepEqual(inspected.volumes, [
      { volume: 'disk', driver: 'local.csi.berth', target: '/dev/ro', readOnly: true },
    ]);

    const rules = [one, two, reader].map((id) => allowed(daemon, id));
    if (rules[0] !== undefined) assert.deepEqual(rules, [[`b ${device} rw`], [`b ${device} rw`], [`b ${device} r`]]);
    await daemon.ok(['rm', '-f', 'one', 'two', 'reader']);
    const kept = await daemon.ok(
      shell('--rm', '--device', 'disk:/dev/xvdb')('dd if=/dev/xvdb bs=512 skip=2 count=1 2>/dev/null | head -c 6'),
    );
    assert.equal(kept, 'word-2');
    await daemon.ok(['volume', 'rm', 'disk']);
    await before.assertClean();
  });

  await t.test('for one container only are refused to a second', async () => {
    await daemon.ok(['volume', 'create', 'own', '--size', '8Mi', '--access', 'block', '--access-mode', 'RWOP']);
    await daemon.ok(shell('-d', '--name', 'first', '--device', 'own:/dev/xvdb')('sleep 1000'));
    const { code, stderr } = await daemon.cli(shell('--rm', '--device', 'own:/dev/xvdb:ro')('true'));
    assert.equal(code, 125);
    assert.match(stderr, /volume own is single-node-single-writer, container [0-9a-f]{32} uses it/);
    await daemon.ok(['rm', '-f', 'first']);
    await daemon.ok(['volume', 'rm', 'own']);
  });

  await t.test('for readers only need :ro, and the device itself is read-only', async () => {
    const mode = ['--access-mode', 'single-node-reader-only'];
    await daemon.ok(['volume', 'create', 'seen', '--size', '8Mi', '--access', 'block', ...mode]);
    const { code, stderr } = await daemon.cli(shell('--rm', '--device', 'seen:/dev/xvdb')('true'));
    assert.equal(code, 125);
    assert.match(stderr, /use --device seen:\/dev\/NAME:ro/);
    assert.equal(await daemon.ok(shell('--rm', '--device', 'seen:/dev/xvdb:ro')('blockdev --getro /dev/xvdb')), '1');
    await daemon.ok(['volume', 'rm', 'seen']);
  });

  await t.test('grow while a container uses them', async () => {
    await daemon.ok(['volume', 'create', 'grown', '--size', '8Mi', '--access', 'block']);
    const script = [
      'blockdev --getsize64 /dev/xvdb',
      `until [ "$(blockdev --getsize64 /dev/xvdb)" = ${16 * MIB} ]; do usleep 50000; done`,
      'printf end | dd of=/dev/xvdb bs=512 seek=32767 conv=notrunc,fsync 2>/dev/null',
      'echo grown',
    ].join('; ');
    await daemon.ok(shell('-d', '--name', 'user', '--device', 'grown:/dev/xvdb')(script));
    await untilLogged(daemon, 'user', String(8 * MIB));
    await daemon.ok(['volume', 'expand', 'grown', '--size', '16Mi']);
    assert.equal(await daemon.ok(['wait', 'user']), '0');
    assert.match(await daemon.ok(['logs', 'user']), /^grown$/m);
    await daemon.ok(['rm', '-f', 'user']);
    await daemon.ok(['volume', 'rm', 'grown']);
  });

  await before.assertClean();
});
