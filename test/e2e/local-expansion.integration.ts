/** The embedded driver by the real command line: attachment, allocation, snapshot metadata, condition, growth under a container. */
import assert from 'node:assert/strict';
import { closeSync, openSync, readFileSync, renameSync, statSync, writeSync } from 'node:fs';
import { hostname } from 'node:os';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { canGrowMounted } from '../../src/csi/local/file-system-growth.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { needs } from '../support/needs.ts';

const IMAGE = 'busybox:1';
const MIB = 1024 * 1024;

/** Says the sizes it begins with, waits for larger ones, and uses the device's new end. */
const WATCH = `
blocks() { df -kP /data | tail -n 1 | { read -r name total rest; echo "$total"; }; }
bytes() { blockdev --getsize64 /dev/xvdb; }
echo kept > /data/file
files=$(blocks); raw=$(bytes)
echo "$files $raw"
while [ "$(blocks)" = "$files" ] || [ "$(bytes)" = "$raw" ]; do sleep 0.1; done
printf end | dd of=/dev/xvdb bs=1M seek=47 conv=notrunc 2>/dev/null
echo "$(blocks) $(bytes) $(cat /data/file) $(dd if=/dev/xvdb bs=1M skip=47 2>/dev/null | head -c 3)"
`;

async function lines(daemon: Daemon, count: number): Promise<string[]> {
  const signal = AbortSignal.timeout(60_000);
  for (;;) {
    const all = (await daemon.ok(['logs', 'user'])).split('\n').filter((line) => line !== '');
    if (all.length >= count) return all;
    await sleep(100, undefined, { signal });
  }
}

async function idOf(daemon: Daemon, name: string): Promise<string> {
  const [volume] = JSON.parse(await daemon.ok(['volume', 'inspect', name]));
  return volume.volumeId;
}

test('the embedded driver with all it offers, by the command line', async (t) => {
  if (!needs(t, 'root', 'conmon', 'busybox', 'overlayfs', 'loop', 'ext4', 'xfs', 'losetup')) return;
  const daemon = await startDaemon(t, { flags: ['--csi-local-attach', '--csi-local-max-volumes', '2'] });
  await daemon.importBusybox(IMAGE);
  const before = daemon.oracle();
  // Not everybody may let ext4 grow while it is mounted.
  const fsType = (await canGrowMounted('ext4')) ? 'ext4' : 'xfs';
  await daemon.ok(['volume', 'create', 'files', '--size', '300Mi', '--fs-type', fsType]);
  await daemon.ok(['volume', 'create', 'raw', '--size', '16Mi', '--access', 'block']);
  const volumes = ['-v', 'files:/data', '--device', 'raw:/dev/xvdb'];
  await daemon.ok(['run', '-d', '--name', 'user', '--network', 'none', ...volumes, IMAGE, '--', 'sh', '-c', WATCH]);
  const [small = ''] = await lines(daemon, 1);
  const raw = await idOf(daemon, 'raw');
  const dirOf = (id: string): string => `${daemon.root}/local.csi.berth/volumes/${id}`;
  const attachedTo = (id: string): string[] =>
    Object.keys(JSON.parse(readFileSync(`${dirOf(id)}/attachments.json`, 'utf8')).nodes);

  await t.test('attaches volumes before they are used, and no more than the flag says', async () => {
    assert.deepEqual(attachedTo(raw), [hostname()]);
    await daemon.ok(['volume', 'create', 'third', '--size', '16Mi']);
    const { code, stderr } = await daemon.cli(['run', '--rm', '-v', 'third:/v', IMAGE, '--', 'true']);
    assert.notEqual(code, 0);
    assert.match(stderr, /local\.csi\.berth takes 2 volumes per node, here are files, raw/);
    await daemon.ok(['volume', 'rm', 'third']);
  });

  await t.test('takes blocks when they are to be reserved, and lets them go', async () => {
    const blocks = (): number => statSync(`${dirOf(raw)}/image`).blocks * 512;
    const sparse = blocks();
    assert.ok(sparse < 16 * MIB);
    await daemon.ok(['volume', 'update', 'raw', '--parameter', 'allocation=reserved']);
    assert.ok(blocks() >= 16 * MIB);
    await daemon.ok(['volume', 'update', 'raw', '--parameter', 'allocation=thin']);
    const { code, stderr } = await daemon.cli(['volume', 'update', 'raw', '--parameter', 'allocation=large']);
    assert.equal(code, 1);
    assert.match(stderr, /allocation.*"large" is none of/);
    assert.match(
      (await daemon.cli(['volume', 'update', 'raw', '--parameter', 'iops=1'])).stderr,
      /iops.* is not known/,
    );
  });

  await t.test('tells which bytes of a snapshot hold data, and which differ', async () => {
    await daemon.ok(['volume', 'create', 'disk', '--size', '16Mi', '--access', 'block']);
    const image = `${dirOf(await idOf(daemon, 'disk'))}/image`;
    const fd = openSync(image, 'r+');
    writeSync(fd, Buffer.alloc(8192, 1), 0, 8192, MIB);
    await daemon.ok(['volume', 'snapshot', 'disk', '--name', 'monday']);
    writeSync(fd, Buffer.alloc(4096, 2), 0, 4096, 2 * MIB);
    closeSync(fd);
    await daemon.ok(['volume', 'snapshot', 'disk', '--name', 'tuesday']);
    const json = ['--format', 'json'];
    assert.equal(await daemon.ok(['snapshot', 'blocks', 'monday', ...json]), `{"offset":${MIB},"size":8192}`);
    const differing = await daemon.ok(['snapshot', 'diff', 'monday', 'tuesday', ...json]);
    assert.equal(differing, `{"offset":${2 * MIB},"size":4096}`);
    await daemon.ok(['volume', 'rm', 'disk']);
    await daemon.ok(['snapshot', 'rm', 'monday', 'tuesday']);
  });

  await t.test('tells of an image that is gone, and of one that is back', async () => {
    const image = `${dirOf(raw)}/image`;
    const told = async (): Promise<unknown> => {
      const [{ condition }] = JSON.parse(await daemon.ok(['volume', 'stats', 'raw', '--format', 'json']));
      return [condition.abnormal, condition.message];
    };
    renameSync(image, `${image}.away`);
    assert.deepEqual(await told(), [true, 'its image is missing']);
    renameSync(`${image}.away`, image);
    assert.deepEqual(await told(), [false, 'nothing is wrong']);
  });

  await t.test('grows a file system and a device under a container', async () => {
    await daemon.ok(['volume', 'expand', 'files', '--size', '400Mi']);
    await daemon.ok(['volume', 'expand', 'raw', '--size', '48Mi']);
    const [, large = ''] = await lines(daemon, 2);
    const [kibibytes = 0, bytes] = small.split(' ').map(Number);
    const [moreKibibytes = 0, moreBytes, kept, end] = large.split(' ');
    assert.deepEqual([bytes, Number(moreBytes), kept, end], [16 * MIB, 48 * MIB, 'kept', 'end']);
    assert.ok(Number(moreKibibytes) - kibibytes > 90 * 1024, `${kibibytes} KiB became ${moreKibibytes}`);
    const [volume] = JSON.parse(await daemon.ok(['volume', 'inspect', 'files']));
    assert.equal(Number(volume.capacityBytes), 400 * MIB);
    for (const size of ['15Ti', '1Mi']) {
      assert.equal((await daemon.cli(['volume', 'expand', 'files', '--size', size])).code, 1, size);
    }
  });

  await daemon.ok(['rm', '-f', 'user']);
  assert.deepEqual(attachedTo(raw), []);
  await daemon.ok(['volume', 'rm', 'files', 'raw']);
  await before.assertClean();
});
