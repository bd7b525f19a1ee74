/** Volumes of the embedded driver that grow while a container uses them, as the container sees it. */
import assert from 'node:assert/strict';
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

test('a container sees its file system and its block device grow', async (t) => {
  if (!needs(t, 'root', 'conmon', 'busybox', 'overlayfs', 'loop', 'ext4', 'xfs', 'losetup')) return;
  const daemon = await startDaemon(t);
  await daemon.importBusybox(IMAGE);
  const before = daemon.oracle();
  // Not everybody may let ext4 grow while it is mounted.
  const fsType = (await canGrowMounted('ext4')) ? 'ext4' : 'xfs';
  await daemon.ok(['volume', 'create', 'files', '--size', '300Mi', '--fs-type', fsType]);
  await daemon.ok(['volume', 'create', 'raw', '--size', '16Mi', '--access', 'block']);
  const volumes = ['-v', 'files:/data', '--device', 'raw:/dev/xvdb'];
  await daemon.ok(['run', '-d', '--name', 'user', '--network', 'none', ...volumes, IMAGE, '--', 'sh', '-c', WATCH]);
  const [small = ''] = await lines(daemon, 1);
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
  await daemon.ok(['rm', '-f', 'user']);
  await daemon.ok(['volume', 'rm', 'files', 'raw']);
  await before.assertClean();
});
