/** Plugins that lie, names that attack, secrets that must not leak. */
import assert from 'node:assert/strict';
import { existsSync, globSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, rmdir, symlink, writeFile } from 'node:fs/promises';
import { Writable } from 'node:stream';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import { decodeVolumeRecord } from '../../src/csi/volume.ts';
import type { VolumeRequest } from '../../src/csi/volume-request.ts';
import { RuntimeError } from '../../src/errors.ts';
import { hostCommand } from '../../src/host-command.ts';
import { mountAt } from '../../src/mountinfo.ts';
import { cleanup } from '../support/cleanup.ts';
import { answerWith, type Behaviour, failWith, pretend } from '../support/fake-csi.ts';
import { missing } from '../support/needs.ts';
import { A, assertIdle, type FakeOptions, request, soon, volumeHost } from './volume-host.ts';

const STAGED: FakeOptions = { controller: ['CREATE_DELETE_VOLUME'], node: ['STAGE_UNSTAGE_VOLUME'] };
const ATTACHED: FakeOptions = { controller: ['CREATE_DELETE_VOLUME', 'PUBLISH_UNPUBLISH_VOLUME'] };

const hasCode =
  (code: string, text = /./) =>
  (error: unknown) =>
    error instanceof RuntimeError && error.code === code && text.test(error.message);

/** A directory outside the daemon's that must stay as it is. */
function canaryOf(targetPath: string): string {
  return `${targetPath.slice(0, targetPath.indexOf('/root/'))}/canary`;
}

describe('a plugin that lies (K22)', { skip: missing('root', 'loop') }, () => {
  const lies: readonly { title: string; access: VolumeRequest['access']; lie: Behaviour; found: RegExp }[] = [
    { title: 'makes nothing', access: 'mount', lie: pretend(), found: /nothing is there/ },
    {
      title: 'makes a directory but mounts nothing',
      access: 'mount',
      lie: async ({ targetPath }) => {
        await mkdir(targetPath);
        return {};
      },
      found: /nothing is mounted/,
    },
    {
      title: 'leaves a symbolic link to a directory',
      access: 'mount',
      lie: async ({ targetPath }) => {
        await mkdir(canaryOf(targetPath));
        await writeFile(`${canaryOf(targetPath)}/note`, 'kept');
        await symlink(canaryOf(targetPath), targetPath);
        return {};
      },
      found: /a symbolic link is there/,
    },
    {
      title: 'leaves a symbolic link to a device',
      access: 'block',
      lie: async ({ targetPath }) => {
        await symlink('/dev/loop0', targetPath);
        return {};
      },
      found: /a symbolic link is there/,
    },
    {
      title: 'leaves a plain file instead of a device',
      access: 'block',
      lie: async ({ targetPath }) => {
        await writeFile(targetPath, '');
        return {};
      },
      found: /no block device is there/,
    },
  ];
  for (const { title, access, lie, found } of lies) {
    test(`is named when it ${title}, and nothing stays`, async (t) => {
      const host = await volumeHost(t, STAGED);
      await host.volumes.create(request({ access }), soon());
      host.plugin.next('NodePublishVolume', lie);
      const publishing = host.volumes.publish('data', A, { readOnly: false }, soon());
      await assert.rejects(publishing, hasCode('INTERNAL', new RegExp(`fake\\.csi\\.test.*${found.source}`)));
      // It does not clean up after itself either.
      host.plugin.next('NodeUnpublishVolume', pretend());
      await host.volumes.release('data', A, soon());
      assertIdle(host);
      for (const canary of globSync(`${host.dir}/canary*`)) {
        assert.equal(readFileSync(`${canary}/note`, 'utf8'), 'kept');
      }
    });
  }

  test('a mount it leaves behind is taken away, what lies in the volume is not', async (t) => {
    const host = await volumeHost(t, STAGED);
    await host.volumes.create(request(), soon());
    const { path } = await host.volumes.publish('data', A, { readOnly: false }, soon());
    await writeFile(`${path}/note`, 'kept');
    host.plugin.next('NodeUnpublishVolume', pretend());
    host.plugin.next('NodeUnstageVolume', pretend());
    await host.volumes.release('data', A, soon());
    assert.deepEqual(host.mounts(), []);
    const [backing] = readdirSync(`${host.dir}/backing`);
    assert.equal(readFileSync(`${host.dir}/backing/${backing}/note`, 'utf8'), 'kept');
  });

  test('a target in use stays on record until it is free', async (t) => {
    const host = await volumeHost(t, STAGED);
    await host.volumes.create(request(), soon());
    const { path } = await host.volumes.publish('data', A, { readOnly: false }, soon());
    // A mount inside keeps the one above busy.
    await mkdir(`${path}/inner`);
    cleanup(t, async () => {
      if (mountAt(`${path}/inner`) !== undefined) await hostCommand('umount', [`${path}/inner`], soon());
    });
    await hostCommand('mount', ['-t', 'tmpfs', 'inner', `${path}/inner`], soon());
    await assert.rejects(host.volumes.release('data', A, soon()), hasCode('INTERNAL', /NodeUnpublishVolume/));
    assert.equal(host.volumes.get('data').state, 'unpublishing');
    await hostCommand('umount', [`${path}/inner`], soon());
    await rmdir(`${path}/inner`);
    await host.volumes.release('data', A, soon());
    assertIdle(host);
  });

  test('files it put beside a mount are not removed', async (t) => {
    const host = await volumeHost(t, { controller: ['CREATE_DELETE_VOLUME'] });
    await host.volumes.create(request(), soon());
    host.plugin.next('NodePublishVolume', async ({ targetPath }) => {
      await mkdir(targetPath);
      await writeFile(`${targetPath}/precious`, '');
      return {};
    });
    await assert.rejects(host.volumes.publish('data', A, { readOnly: false }, soon()), hasCode('INTERNAL'));
    host.plugin.next('NodeUnpublishVolume', pretend());
    await assert.rejects(host.volumes.release('data', A, soon()), /not empty/i);
    assert.equal(host.volumes.get('data').state, 'unpublishing');
  });

  test('one that no longer knows a volume does not keep a container from going', async (t) => {
    const host = await volumeHost(t, STAGED);
    await host.volumes.create(request(), soon());
    host.plugin.next('NodePublishVolume', failWith('INTERNAL'));
    await assert.rejects(host.volumes.publish('data', A, { readOnly: false }, soon()), hasCode('INTERNAL'));
    host.plugin.next('NodeUnpublishVolume', failWith('NOT_FOUND'));
    await host.volumes.release('data', A, soon());
    assertIdle(host);
  });
});

describe('a plugin that says too much (K23)', { skip: missing('root', 'loop') }, () => {
  for (const bytes of [5000, 5 * 2 ** 20]) {
    test(`a publish_context of ${bytes} bytes is refused, and the attachment undone`, async (t) => {
      const host = await volumeHost(t, ATTACHED);
      await host.volumes.create(request(), soon());
      const huge = answerWith(() => ({ publishContext: { key: 'x'.repeat(bytes) } }));
      host.plugin.next('ControllerPublishVolume', huge);
      const publishing = host.volumes.publish('data', A, { readOnly: false }, soon());
      await assert.rejects(publishing, /ControllerPublishVolume of CSI plugin fake\.csi\.test/);
      await host.volumes.release('data', A, soon());
      assertIdle(host);
    });
  }

  test('a volume_context of five megabytes is refused without being read, and its volume deleted', async (t) => {
    const host = await volumeHost(t, STAGED);
    const huge = answerWith(({ volume }) => ({
      volume: {
        ...volume,
        volumeContext: Object.fromEntries(Array.from({ length: 400_000 }, (_, key) => [`k${key}`, ''])),
      },
    }));
    host.plugin.next('CreateVolume', huge);
    await assert.rejects(
      host.volumes.create(request(), soon()),
      /CreateVolume .* its answer has \d{7} bytes, larger than max/,
    );
    assert.deepEqual([host.volumes.list(), host.plugin.volumes.size], [[], 0]);
  });

  test('an id of 10 KiB is refused, and its volume deleted', async (t) => {
    const host = await volumeHost(t, { ...STAGED, volumeId: () => 'x'.repeat(10_240) });
    await assert.rejects(host.volumes.create(request(), soon()), /volume_id: has 10240 bytes/);
    assert.deepEqual([host.volumes.list(), host.plugin.volumes.size], [[], 0]);
  });

  test('a volume that this node cannot reach is refused, and deleted', async (t) => {
    const host = await volumeHost(t, { ...STAGED, topology: { 'fake/zone': 'here' } });
    const elsewhere = answerWith(({ volume }) => ({
      volume: { ...volume, accessibleTopology: [{ segments: { 'fake/zone': 'there' } }] },
    }));
    host.plugin.next('CreateVolume', elsewhere);
    await assert.rejects(host.volumes.create(request(), soon()), /accessible_topology is .*there.*this node is .*here/);
    assert.deepEqual([host.volumes.list(), host.plugin.volumes.size], [[], 0]);
  });

  test('an id "../../x" never becomes part of a path', async (t) => {
    const host = await volumeHost(t, { ...STAGED, volumeId: () => '../../x' });
    await host.volumes.create(request(), soon());
    const { path } = await host.volumes.publish('data', A, { readOnly: false }, soon());
    assert.match(path, new RegExp(`^${host.dir}/root/csi/mounts/[0-9a-f]{32}/target$`));
    await host.volumes.release('data', A, soon());
    assertIdle(host);
  });

  test('a key "__proto__" goes through the record and back to the plugin', async (t) => {
    const context: Record<string, string> = JSON.parse('{"__proto__":"x","constructor":"y"}');
    const host = await volumeHost(t, { ...ATTACHED, volumeContext: context, publishContext: context });
    const parameters: Record<string, string> = JSON.parse('{"__proto__":"p"}');
    await host.volumes.create(request({ parameters }), soon());
    assert.deepEqual(Object.entries(host.plugin.requests('CreateVolume')[0]?.['parameters']), [['__proto__', 'p']]);
    await host.start();
    await host.volumes.publish('data', A, { readOnly: false }, soon());
    const record = decodeVolumeRecord(JSON.parse(JSON.stringify(host.store.read('data'))));
    for (const map of [record.volumeContext, record.publishContext]) {
      assert.deepEqual(Object.entries(map), Object.entries(context));
    }
    await host.volumes.release('data', A, soon());
    assertIdle(host);
  });
});

describe('bad requests (K19)', { skip: missing('root') }, () => {
  test('are refused by field, before anything is recorded or sent', async (t) => {
    const host = await volumeHost(t, STAGED);
    const names = ['../x', 'a/b', 'a\nb', 'a\0b', 'x'.repeat(300), '-v', '.', '..', ''];
    const wrong: [RegExp, Partial<VolumeRequest>][] = [
      ...names.map((name): [RegExp, Partial<VolumeRequest>] => [/^name: /, { name }]),
      ...names.map((driver): [RegExp, Partial<VolumeRequest>] => [/^driver: /, { driver }]),
      ...[0, -1, 1.5, Number.NaN, 2 ** 60, 2n ** 63n].map((capacityBytes): [RegExp, Partial<VolumeRequest>] => [
        /^capacityBytes: /,
        { capacityBytes },
      ]),
      [/^fsType: /, { fsType: 'ext4,evil' }],
      [/^fsType: /, { fsType: 'ext4', access: 'block' }],
      [/^parameters: /, { parameters: { '': 'x' } }],
      [/^parameters: /, { parameters: { k: 'x'.repeat(5000) } }],
    ];
    for (const [field, change] of wrong) {
      await assert.rejects(host.volumes.create(request(change), soon()), hasCode('INVALID_ARGUMENT', field));
    }
    for (const id of names) {
      await assert.rejects(host.volumes.publish('data', id, { readOnly: false }, soon()), hasCode('INVALID_ARGUMENT'));
      assert.throws(() => host.volumes.get(id), hasCode('NOT_FOUND'));
      await assert.rejects(host.volumes.remove(id, soon()), hasCode('NOT_FOUND'));
    }
    assert.deepEqual(host.volumes.list(), []);
    assert.deepEqual(host.plugin.volumeCalls(), []);
    assert.ok(!existsSync(`${host.dir}/root`));
  });

  test('sizes beyond 2^53 reach the plugin to the byte', async (t) => {
    const host = await volumeHost(t, STAGED);
    const capacityBytes = 2n ** 53n + 1n;
    const record = await host.volumes.create(request({ capacityBytes }), soon());
    assert.equal(record.capacityBytes, '9007199254740993');
    assert.equal(host.plugin.requests('CreateVolume')[0]?.['capacityRange'].requiredBytes, '9007199254740993');
  });
});

describe('secrets of volumes (K24)', { skip: missing('root') }, () => {
  test('reach the plugin, and neither log, record nor error', async (t) => {
    const secret = 'hush-hush-12345';
    const lines: string[] = [];
    const sink = new Writable({
      write: (chunk, _encoding, done) => {
        lines.push(String(chunk));
        done();
      },
    });
    const options = { log: pino({ level: 'trace' }, sink), secrets: () => ({ password: secret }) };
    const host = await volumeHost(t, { ...ATTACHED, node: ['STAGE_UNSTAGE_VOLUME'] }, options);
    await host.volumes.create(request(), soon());
    host.plugin.next('NodeStageVolume', failWith('INVALID_ARGUMENT', { message: `cannot log in with ${secret}` }));
    const failed = await host.volumes.publish('data', A, { readOnly: false }, soon()).catch((error: unknown) => error);
    assert.ok(failed instanceof RuntimeError && failed.message.includes('[redacted]'));
    await host.volumes.publish('data', A, { readOnly: false }, soon());
    await host.volumes.release('data', A, soon());
    await host.volumes.remove('data', soon());
    for (const rpc of ['CreateVolume', 'ControllerPublishVolume', 'NodeStageVolume', 'NodePublishVolume']) {
      assert.equal(host.plugin.requests(rpc)[0]?.['secrets'].password, secret, rpc);
    }
    assert.ok(lines.length > 20);
    const stored = ['berth.db', 'berth.db-wal'].map((file) => readFileSync(`${host.dir}/${file}`, 'latin1'));
    for (const text of [...lines, ...stored, failed.message, JSON.stringify(failed)]) {
      assert.ok(!text.includes(secret) && !text.includes(Buffer.from(secret).toString('base64')), text.slice(0, 300));
    }
  });
});
