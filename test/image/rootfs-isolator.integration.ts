/** Real overlay mounts of a real busybox image, as root, in directories of the test's own. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { chmod, lstat, mkdir, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { pino } from 'pino';
import { hostCommand } from '../../src/host-command.ts';
import { decodeImageRecord, type ImageRecord, ImageStore } from '../../src/image/image-store.ts';
import { RootfsIsolator } from '../../src/image/rootfs-isolator.ts';
import { mountAt, mountsBelow } from '../../src/mountinfo.ts';
import type { ContainerRecord, ContainerSpec } from '../../src/runtime/container.ts';
import { Database, type Store } from '../../src/store.ts';
import { busyboxRootfs } from '../support/busybox-rootfs.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { containerSpec } from '../support/container-spec.ts';
import { missing, needs } from '../support/needs.ts';
import { tempDir } from '../support/temp-dir.ts';
import { type TarEntry, writeTar } from './tar-archive.ts';

const log = pino({ level: 'silent' });

interface Bench {
  readonly dir: string;
  readonly images: ImageStore;
  readonly isolator: RootfsIsolator;
  readonly store: Store<ImageRecord>;
  /** A second daemon's view of the same directories, as after a restart. */
  restarted(): { readonly images: ImageStore; readonly isolator: RootfsIsolator };
}

function signal(): AbortSignal {
  return AbortSignal.timeout(30_000);
}

async function bench(t: TestScope): Promise<Bench> {
  const dir = await tempDir(t);
  cleanup(t, async () => {
    for (const { mountPoint } of mountsBelow(dir)) await hostCommand('umount', ['-l', mountPoint], signal());
  });
  await mkdir(`${dir}/root`);
  const database = new Database(`${dir}/berth.db`);
  cleanup(t, () => database.close());
  const store = database.store('image', decodeImageRecord);
  const open = (): { images: ImageStore; isolator: RootfsIsolator } => {
    const images = new ImageStore({ store, rootDir: `${dir}/root`, log });
    const isolator = new RootfsIsolator({ images, rootDir: `${dir}/root`, runDir: `${dir}/run`, log });
    return { images, isolator };
  };
  return { dir, store, ...open(), restarted: open };
}

function container(change: Partial<ContainerSpec> = {}, id = randomBytes(16).toString('hex')): ContainerRecord {
  const spec = containerSpec({ image: 'box', ...change });
  return { id, spec, createdAt: new Date().toISOString(), provisional: false, cleanupFailures: [] };
}

async function importBusybox({ dir, images }: Bench, changes: readonly string[] = []): Promise<ImageRecord> {
  await busyboxRootfs(`${dir}/busybox`);
  await hostCommand('tar', ['-C', `${dir}/busybox`, '-cf', `${dir}/busybox.tar`, '.'], signal());
  return images.importTar(`${dir}/busybox.tar`, 'box', changes, signal());
}

/** A small image of these entries. */
async function importEntries(b: Bench, entries: Iterable<TarEntry>, changes: readonly string[] = []): Promise<void> {
  await writeTar(`${b.dir}/entries.tar`, entries);
  await b.images.importTar(`${b.dir}/entries.tar`, 'box', changes, signal());
}

async function rootfsOf(b: Bench, record: ContainerRecord): Promise<string> {
  const { rootfs } = await b.isolator.prepare(record, signal());
  assert.ok(rootfs);
  return rootfs;
}

describe('RootfsIsolator', { skip: missing('root', 'overlayfs', 'busybox', 'tar', 'mount') }, () => {
  test('mounts an image in which its programs run', async (t) => {
    const b = await bench(t);
    await importBusybox(b);
    const rootfs = await rootfsOf(b, container());
    const mount = mountAt(rootfs);
    assert.equal(mount?.fsType, 'overlay');
    assert.ok(mount.options.includes('nodev'));
    assert.equal(await hostCommand('chroot', [rootfs, '/bin/echo', 'hello'], signal()), 'hello');
    assert.equal((await stat(rootfs)).mode & 0o7777, 0o755);
    assert.equal((await stat(`${rootfs}/tmp`)).mode & 0o7777, 0o1777);
  });

  test('keeps what a container writes in its own layer, for it alone', async (t) => {
    const b = await bench(t);
    const image = await importBusybox(b);
    const one = await rootfsOf(b, container());
    const other = await rootfsOf(b, container());
    await writeFile(`${one}/etc/motd`, 'mine');
    await rm(`${one}/etc/group`);
    await assert.rejects(stat(`${other}/etc/motd`), { code: 'ENOENT' });
    await stat(`${other}/etc/group`);
    const [layer] = b.images.layerPaths(image);
    assert.ok(layer);
    await assert.rejects(stat(`${layer}/etc/motd`), { code: 'ENOENT' });
    await stat(`${layer}/etc/group`);
  });

  test('a container finds again what it wrote in an earlier run', async (t) => {
    const b = await bench(t);
    await importBusybox(b);
    const record = container();
    await writeFile(`${await rootfsOf(b, record)}/note`, 'kept');
    await b.isolator.cleanup(record.id, signal());
    assert.deepEqual(mountsBelow(`${b.dir}/run`), []);
    assert.deepEqual(await readdir(`${b.dir}/run/rootfs`), []);
    assert.equal(await readFile(`${await rootfsOf(b, record)}/note`, 'utf8'), 'kept');
  });

  test('remove takes the writable layer away and touches nothing its links lead to', async (t) => {
    const b = await bench(t);
    await importBusybox(b);
    await mkdir(`${b.dir}/canary`);
    await writeFile(`${b.dir}/canary/file`, 'alive');
    const record = container();
    const rootfs = await rootfsOf(b, record);
    await symlink(`${b.dir}/canary`, `${rootfs}/link`);
    await b.isolator.cleanup(record.id, signal());
    await b.isolator.remove(record.id, signal());
    assert.deepEqual(await readdir(`${b.dir}/root/containers`), []);
    assert.equal(await readFile(`${b.dir}/canary/file`, 'utf8'), 'alive');
  });

  test('cleanup and remove succeed twice and for ids nobody knows', async (t) => {
    const b = await bench(t);
    await importBusybox(b);
    const record = container();
    await b.isolator.prepare(record, signal());
    for (let round = 0; round < 2; round += 1) {
      await b.isolator.cleanup(record.id, signal());
      await b.isolator.remove(record.id, signal());
    }
    await b.isolator.cleanup('0'.repeat(32), signal());
    await assert.rejects(b.isolator.cleanup('../x', signal()), { code: 'INVALID_ARGUMENT' });
    await assert.rejects(b.isolator.remove('..', signal()), { code: 'INVALID_ARGUMENT' });
  });

  test('detaches a root file system that somebody is still in', async (t) => {
    const b = await bench(t);
    await importBusybox(b);
    const record = container();
    const rootfs = await rootfsOf(b, record);
    const before = process.cwd();
    cleanup(t, () => process.chdir(before));
    process.chdir(rootfs);
    await b.isolator.cleanup(record.id, signal());
    assert.equal(mountAt(rootfs), undefined);
    await assert.rejects(stat(rootfs), { code: 'ENOENT' });
  });

  test('removes trees that are deeper than a path can be', async (t) => {
    const b = await bench(t);
    await importBusybox(b);
    const record = container();
    const rootfs = await rootfsOf(b, record);
    const before = process.cwd();
    // Node's own removal, which the temporary directory has, does not get that deep.
    cleanup(t, () => hostCommand('rm', ['-rf', `${b.dir}/root/containers`], signal()));
    cleanup(t, () => b.isolator.cleanup(record.id, signal()));
    cleanup(t, () => process.chdir(before));
    process.chdir(rootfs);
    for (let depth = 0; depth < 50; depth += 1) {
      mkdirSync('d'.repeat(200));
      process.chdir('d'.repeat(200));
    }
    process.chdir(before);
    await b.isolator.cleanup(record.id, signal());
    await b.isolator.remove(record.id, signal());
    assert.deepEqual(await readdir(`${b.dir}/root/containers`), []);
  });

  test('removes files that a container made immutable', async (t) => {
    if (!needs(t, 'ext4')) return;
    const b = await bench(t);
    await importBusybox(b);
    const record = container();
    const rootfs = await rootfsOf(b, record);
    await mkdir(`${rootfs}/d`);
    await writeFile(`${rootfs}/d/file`, 'x');
    const canary = `${b.dir}/canary`;
    await mkdir(`${canary}/below`, { recursive: true });
    for (const name of ['a', 'b', 'below/c']) await writeFile(`${canary}/${name}`, '');
    await symlink(canary, `${rootfs}/d/link`);
    await b.isolator.cleanup(record.id, signal());
    const upper = `${b.dir}/root/containers/${record.id}/upper`;
    try {
      await hostCommand('chattr', ['+i', `${upper}/d/file`, `${upper}/d`], signal());
    } catch {
      t.skip('the file system of /tmp knows no immutable files');
      return;
    }
    cleanup(t, () =>
      hostCommand('sh', ['-c', `! [ -e ${upper}/d ] || chattr -i ${upper}/d ${upper}/d/file`], signal()),
    );
    await b.isolator.remove(record.id, signal());
    assert.deepEqual(await readdir(`${b.dir}/root/containers`), []);
    assert.deepEqual((await readdir(canary, { recursive: true })).sort(), ['a', 'b', 'below', 'below/c']);
  });

  test('recover keeps running containers, unmounts others and drops the layers of those without a record', async (t) => {
    const b = await bench(t);
    await importBusybox(b);
    const [running, stopped, gone] = [container(), container(), container()];
    for (const record of [running, stopped, gone]) await b.isolator.prepare(record, signal());
    const { isolator } = b.restarted();
    await isolator.recover(new Set([running.id]), new Set([running.id, stopped.id]), signal());
    assert.deepEqual(
      mountsBelow(`${b.dir}/run`).map(({ mountPoint }) => mountPoint),
      [`${b.dir}/run/rootfs/${running.id}`],
    );
    assert.deepEqual((await readdir(`${b.dir}/root/containers`)).sort(), [running.id, stopped.id].sort());
    assert.equal(isolator.pending().size, 0);
  });

  test('a container keeps its image when the reference moves on, and its layers go with it', async (t) => {
    const b = await bench(t);
    await importEntries(b, [{ name: 'version', content: 'old' }]);
    const record = container();
    await b.isolator.prepare(record, signal());
    await b.isolator.cleanup(record.id, signal());
    await importEntries(b, [{ name: 'version', content: 'new' }]);
    await b.restarted().images.recover(signal());
    b.isolator.validate({ ...record, spec: { ...record.spec, image: 'gone' } });
    assert.equal(await readFile(`${await rootfsOf(b, record)}/version`, 'utf8'), 'old');
    assert.equal(await readFile(`${await rootfsOf(b, container())}/version`, 'utf8'), 'new');
    assert.equal((await readdir(`${b.dir}/root/images/layers`)).length, 2);
    await b.isolator.cleanup(record.id, signal());
    await b.isolator.remove(record.id, signal());
    assert.equal((await readdir(`${b.dir}/root/images/layers`)).length, 1);
  });

  test('an image that a container was started from cannot be removed', async (t) => {
    const b = await bench(t);
    await importBusybox(b);
    const record = container();
    await b.isolator.prepare(record, signal());
    const unused = (): boolean => false;
    await assert.rejects(b.images.remove('box', unused, signal()), {
      code: 'FAILED_PRECONDITION',
      message: new RegExp(record.id.slice(0, 12)),
    });
    await b.isolator.cleanup(record.id, signal());
    await b.isolator.remove(record.id, signal());
    await b.images.remove('box', unused, signal());
    assert.deepEqual(await readdir(`${b.dir}/root/images/layers`), []);
  });

  test('puts command, environment, directory and user of image and request together', async (t) => {
    const b = await bench(t);
    await importBusybox(b, ['CMD ["sh"]', 'ENV A=image B=image', 'WORKDIR /srv/app', 'USER nobody']);
    const contribution = await b.isolator.prepare(
      container({ command: [], env: ['A=request'], readOnlyRootfs: true }),
      signal(),
    );
    assert.equal(contribution.readOnlyRootfs, true);
    assert.deepEqual(contribution.process?.args, ['sh']);
    assert.equal(contribution.process?.cwd, '/srv/app');
    assert.deepEqual(contribution.process?.user, { uid: 65534, gid: 65534, additionalGids: [65534] });
    const env = contribution.process?.env ?? [];
    assert.ok(env.includes('A=request') && env.includes('B=image') && env.includes('HOME=/home'), env.join());
    assert.ok(env.some((entry) => entry.startsWith('PATH=')));
    const made = await stat(`${contribution.rootfs}/srv/app`);
    assert.equal(made.isDirectory() && made.mode & 0o7777, 0o755);
  });

  test('refuses images that are not there and commands that nobody gave, before any effect', async (t) => {
    const b = await bench(t);
    assert.throws(() => b.isolator.validate(container()), { code: 'NOT_FOUND', message: /berth image import/ });
    await importBusybox(b);
    assert.throws(() => b.isolator.validate(container({ command: [] })), { code: 'FAILED_PRECONDITION' });
    assert.throws(() => b.isolator.validate(container({ image: '../x' })), { code: 'INVALID_ARGUMENT' });
    b.isolator.validate(container());
    assert.deepEqual(await readdir(`${b.dir}/root/containers`), []);
  });

  // K01
  test('refuses a working directory that links of the image lead into a pseudo file system', async (t) => {
    const b = await bench(t);
    await importEntries(b, [
      { name: 'p', type: 'symlink', linkname: '/proc/self/fd' },
      { name: 'q', type: 'symlink', linkname: 'a/../../../dev' },
      { name: 'a', type: 'directory' },
      { name: 'a/s', type: 'symlink', linkname: '../sys' },
      { name: 'loop', type: 'symlink', linkname: 'loop' },
      { name: 'file', content: 'x' },
    ]);
    for (const workingDir of ['/p/7', '/p', '/q', '/a/s/fs', '/loop']) {
      const record = container({ workingDir });
      await assert.rejects(b.isolator.prepare(record, signal()), { code: 'INVALID_ARGUMENT', message: /^workdir: / });
      await b.isolator.cleanup(record.id, signal());
    }
    await assert.rejects(b.isolator.prepare(container({ workingDir: '/file/x' }), signal()), {
      code: 'FAILED_PRECONDITION',
    });
  });

  test('makes a missing working directory inside, whatever links of the image say', async (t) => {
    const b = await bench(t);
    await mkdir(`${b.dir}/canary`);
    await importEntries(b, [
      { name: 'out', type: 'symlink', linkname: `${b.dir}/canary` },
      { name: 'up', type: 'symlink', linkname: '../../../../../../tmp' },
    ]);
    const rootfs = await rootfsOf(b, container({ workingDir: '/out/work' }));
    assert.ok((await stat(`${rootfs}${b.dir}/canary/work`)).isDirectory());
    assert.deepEqual(await readdir(`${b.dir}/canary`), []);
    const name = `berth-${randomBytes(6).toString('hex')}`;
    const other = await rootfsOf(b, container({ workingDir: `/up/${name}` }));
    assert.ok((await stat(`${other}/tmp/${name}`)).isDirectory());
    await assert.rejects(stat(`/tmp/${name}`), { code: 'ENOENT' });
  });

  test('refuses images whose /proc, /sys or /dev is no directory and makes missing ones', async (t) => {
    const b = await bench(t);
    for (const name of ['proc', 'sys', 'dev']) {
      await importEntries(b, [{ name, type: 'symlink', linkname: '/tmp' }]);
      await assert.rejects(b.isolator.prepare(container(), signal()), {
        code: 'FAILED_PRECONDITION',
        message: new RegExp(`/${name} is no directory`),
      });
    }
    await importEntries(b, [{ name: 'file', content: 'x' }]);
    const rootfs = await rootfsOf(b, container());
    for (const name of ['proc', 'sys', 'dev']) assert.ok((await lstat(`${rootfs}/${name}`)).isDirectory());
  });

  // K09
  const unfit: readonly [string, (etc: string) => Promise<unknown>][] = [
    ['a FIFO', (etc) => hostCommand('mkfifo', [`${etc}/passwd`], signal())],
    ['a link to /dev/zero', (etc) => symlink('/dev/zero', `${etc}/passwd`)],
    ['a link to a file of the host', (etc) => symlink('/etc/passwd', `${etc}/passwd`)],
    ['100 MiB', (etc) => hostCommand('truncate', ['-s', '100M', `${etc}/passwd`], signal())],
    ['a directory', (etc) => mkdir(`${etc}/passwd`)],
    ['a device node', (etc) => hostCommand('mknod', [`${etc}/passwd`, 'c', '1', '5'], signal())],
  ];
  for (const [what, make] of unfit) {
    test(`numbers work and names are refused at once when /etc/passwd is ${what}`, async (t) => {
      const b = await bench(t);
      const image = await importBusybox(b);
      const [layer] = b.images.layerPaths(image);
      await rm(`${layer}/etc/passwd`);
      await make(`${layer}/etc`);
      const begunMs = performance.now();
      const { process: settings } = await b.isolator.prepare(container({ user: '1000' }), signal());
      assert.deepEqual(settings?.user, { uid: 1000, gid: 0, additionalGids: [0] });
      await assert.rejects(b.isolator.prepare(container({ user: 'nobody' }), signal()), {
        code: 'FAILED_PRECONDITION',
      });
      assert.ok(performance.now() - begunMs < 5000);
    });
  }

  // K02
  test('never takes a user that wraps round to root, from an image or a request', async (t) => {
    const b = await bench(t);
    await importBusybox(b);
    for (const user of ['4294967296', '-1', '1.5', '0x10', 'root\n', '1 ', '2147483647', '0:4294967296', '']) {
      assert.throws(() => b.isolator.validate(container({ user })), { code: 'INVALID_ARGUMENT' });
      await assert.rejects(b.isolator.prepare(container({ user }), signal()), { code: 'INVALID_ARGUMENT' });
    }
    await importEntries(b, [
      { name: 'etc/passwd', content: 'big:x:4294967296:0::/:\nneg:x:-1:0::/:\nok:x:7:8::/home/ok\r:\n' },
    ]);
    for (const user of ['big', 'neg']) {
      await assert.rejects(b.isolator.prepare(container({ user }), signal()), { code: 'FAILED_PRECONDITION' });
    }
    const { process: settings } = await b.isolator.prepare(container({ user: 'ok' }), signal());
    assert.deepEqual(settings?.user, { uid: 7, gid: 8, additionalGids: [8] });
    assert.ok(settings?.env?.includes('HOME=/'));
  });

  test('a failed mount leaves nothing that cleanup and remove do not take away', async (t) => {
    const b = await bench(t);
    const image = await importBusybox(b);
    const [layer] = b.images.layerPaths(image);
    assert.ok(layer);
    await rm(layer, { recursive: true });
    const record = container();
    await assert.rejects(b.isolator.prepare(record, signal()), {
      code: 'DATA_LOSS',
      message: /import the image again/,
    });
    await writeFile(layer, '');
    await assert.rejects(b.isolator.prepare(record, signal()), { code: 'INTERNAL' });
    await b.isolator.cleanup(record.id, signal());
    await b.isolator.remove(record.id, signal());
    assert.deepEqual(await readdir(`${b.dir}/run/rootfs`), []);
    assert.deepEqual(await readdir(`${b.dir}/root/containers`), []);
  });

  test('nobody but root can look below the directories of images and containers', async (t) => {
    const b = await bench(t);
    await importBusybox(b);
    await b.isolator.prepare(container(), signal());
    await chmod(b.dir, 0o755);
    for (const path of ['root/images', 'root/containers', 'run/rootfs']) {
      assert.equal((await stat(`${b.dir}/${path}`)).mode & 0o777, 0o700, path);
    }
  });
});
