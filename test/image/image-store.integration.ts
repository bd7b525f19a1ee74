/** Archives of every kind, good and bad, imported on a real file system as root. */
import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { existsSync, readdirSync } from 'node:fs';
import { appendFile, lstat, mkdir, readdir, readFile, readlink, stat, truncate, writeFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { pino } from 'pino';
import { RuntimeError } from '../../src/errors.ts';
import { hostCommand } from '../../src/host-command.ts';
import type { ImageLimits } from '../../src/image/image-limits.ts';
import { decodeImageRecord, type ImageRecord, ImageStore } from '../../src/image/image-store.ts';
import { Database, type Store } from '../../src/store.ts';
import { busyboxRootfs } from '../support/busybox-rootfs.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { missing } from '../support/needs.ts';
import { tempDir } from '../support/temp-dir.ts';
import { type TarEntry, writeTar } from './tar-archive.ts';

const log = pino({ level: 'silent' });
const unused = (): boolean => false;

interface Bench {
  readonly dir: string;
  readonly images: ImageStore;
  readonly store: Store<ImageRecord>;
  open(limits?: Partial<ImageLimits>): ImageStore;
}

function signal(): AbortSignal {
  return AbortSignal.timeout(60_000);
}

async function bench(t: TestScope, limits?: Partial<ImageLimits>): Promise<Bench> {
  const dir = await tempDir(t);
  await mkdir(`${dir}/root`);
  const database = new Database(`${dir}/berth.db`);
  cleanup(t, () => database.close());
  const store = database.store('image', decodeImageRecord);
  const open = (changed = limits): ImageStore =>
    new ImageStore({ store, rootDir: `${dir}/root`, log, ...(changed === undefined ? {} : { limits: changed }) });
  return { dir, store, images: open(), open };
}

async function importEntries(b: Bench, entries: Iterable<TarEntry>, reference = 'box'): Promise<string> {
  await writeTar(`${b.dir}/entries.tar`, entries);
  const image = await b.images.importTar(`${b.dir}/entries.tar`, reference, [], signal());
  return layerOf(b, image);
}

function layerOf({ images }: Bench, image: ImageRecord): string {
  const [layer] = images.layerPaths(image);
  assert.ok(layer);
  return layer;
}

/** Nothing of a refused import is left: no record, no layer, nothing staged. */
function assertNothingStored({ dir, images }: Bench): void {
  assert.deepEqual(images.list(), []);
  assert.deepEqual(readdirSync(`${dir}/root/images/layers`), []);
  assert.deepEqual(readdirSync(`${dir}/root/images/staging`), []);
}

describe('ImageStore.importTar', { skip: missing('root', 'busybox', 'tar') }, () => {
  test('makes the tree that tar makes, with owners, permissions, times and hard links', async (t) => {
    const b = await bench(t);
    const source = await busyboxRootfs(`${b.dir}/busybox`);
    const prepare = `cd ${source} && chown 12:34 etc/group && chmod 4755 bin/busybox && ln etc/passwd etc/again
      && mkdir -m 2750 home/u && touch -d 2001-02-03T04:05:06 home home/u && touch -h -d 2001-02-03 bin/sh
      && chown -h 7:8 bin/sh`;
    await hostCommand('sh', ['-c', prepare.replaceAll('\n', ' ')], signal());
    for (const [flag, name] of [
      ['-cf', 'plain'],
      ['-czf', 'gzip'],
    ] as const) {
      await hostCommand('tar', ['-C', source, flag, `${b.dir}/${name}.tar`, '.'], signal());
      const layer = layerOf(b, await b.images.importTar(`${b.dir}/${name}.tar`, name, [], signal()));
      const list = 'find . -printf "%p %y %m %U %G %n %T@ %l\\n" | sort';
      const seconds = (text: string): string => text.replace(/(\d{10})\.\d+/g, '$1');
      const [wanted, got] = await Promise.all(
        [source, layer].map((cwd) => hostCommand('sh', ['-c', list], signal(), { cwd })),
      );
      assert.equal(seconds(got ?? ''), seconds(wanted ?? ''));
      await hostCommand('diff', ['-r', '--no-dereference', source, layer], signal());
    }
  });

  test('takes plain, gzip and zstd archives of the same tree for the same layer', async (t) => {
    const b = await bench(t);
    const entries: TarEntry[] = [{ name: 'etc/motd', content: 'hello\n', mtime: new Date(0) }];
    const ids = new Set<string>();
    for (const packed of [undefined, 'gzip', 'zstd'] as const) {
      const path = await writeTar(`${b.dir}/${packed ?? 'plain'}.tar`, entries, packed);
      const image = await b.images.importTar(path, packed ?? 'plain', [], signal());
      ids.add(image.id);
      assert.equal(await readFile(`${layerOf(b, image)}/etc/motd`, 'utf8'), 'hello\n');
    }
    assert.equal(ids.size, 1);
    assert.equal((await readdir(`${b.dir}/root/images/layers`)).length, 1);
    assert.deepEqual(
      b.images
        .list()
        .map(({ reference }) => reference)
        .sort(),
      ['gzip:latest', 'plain:latest', 'zstd:latest'],
    );
    const [hex] = await readdir(`${b.dir}/root/images/layers`);
    assert.equal((await hostCommand('sha256sum', [`${b.dir}/plain.tar`], signal())).split(' ')[0], hex);
  });

  test('imports of the same archive at the same time share one layer', async (t) => {
    const b = await bench(t);
    const path = await writeTar(`${b.dir}/a.tar`, [{ name: 'file', content: 'x'.repeat(100_000) }]);
    const names = ['one', 'two', 'three', 'four'];
    const images = await Promise.all(names.map((name) => b.images.importTar(path, name, [], signal())));
    assert.equal(new Set(images.map(({ id }) => id)).size, 1);
    assert.equal((await readdir(`${b.dir}/root/images/layers`)).length, 1);
    assert.deepEqual(await readdir(`${b.dir}/root/images/staging`), []);
  });

  test('moves a reference to the new image and gives the old layer up', async (t) => {
    const b = await bench(t);
    const old = await importEntries(b, [{ name: 'version', content: 'old' }]);
    const fresh = await importEntries(b, [{ name: 'version', content: 'new' }]);
    assert.equal(existsSync(old), false);
    assert.equal(await readFile(`${fresh}/version`, 'utf8'), 'new');
    assert.equal(b.images.list().length, 1);
  });

  test('later entries replace earlier ones, but never directories', async (t) => {
    const b = await bench(t);
    const layer = await importEntries(b, [
      { name: 'file', content: 'first' },
      { name: 'file', content: 'second' },
      { name: 'link', type: 'symlink', linkname: 'file' },
      { name: 'link', content: 'a file now' },
      { name: './', type: 'directory', mode: 0o711 },
    ]);
    assert.equal(await readFile(`${layer}/file`, 'utf8'), 'second');
    assert.ok((await lstat(`${layer}/link`)).isFile());
    assert.equal((await stat(layer)).mode & 0o7777, 0o711);
    for (const last of [
      { name: 'dir', content: 'x' },
      { name: 'dir', type: 'symlink', linkname: 'y' },
    ] as const) {
      const entries: TarEntry[] = [{ name: 'dir', type: 'directory' }, last];
      await assert.rejects(importEntries(b, entries, 'other'), { code: 'INVALID_ARGUMENT', message: /directory/ });
    }
  });

  test('leaves device nodes, FIFOs and extended attributes out', async (t) => {
    const b = await bench(t);
    const layer = await importEntries(b, [
      { name: 'sda', type: 'block-device', devmajor: 8, devminor: 0 },
      { name: 'whiteout', type: 'character-device', devmajor: 0, devminor: 0 },
      { name: 'fifo', type: 'fifo' },
      { name: 'ping', content: 'x', pax: { 'SCHILY.xattr.security.capability': 'x' } },
    ]);
    assert.deepEqual(await readdir(layer), ['ping']);
  });

  test('takes long names, long links and owners from extended records', async (t) => {
    const b = await bench(t);
    const name = `${'d'.repeat(200)}/${'e'.repeat(200)}/ünï`;
    const layer = await importEntries(b, [
      { name, content: 'x', pax: { uid: '3000000', gid: '4', mtime: '12.5' } },
      { name: 'link', type: 'symlink', linkname: 't'.repeat(300) },
    ]);
    const { uid, gid, mtimeMs } = await stat(`${layer}/${name}`);
    assert.deepEqual([uid, gid, mtimeMs], [3_000_000, 4, 12_500]);
    assert.equal(await readlink(`${layer}/link`), 't'.repeat(300));
  });

  test('removes everything when it is cancelled on the way', async (t) => {
    const b = await bench(t);
    await writeFile(`${b.dir}/big`, '');
    await truncate(`${b.dir}/big`, 256 * 1024 * 1024);
    await hostCommand('tar', ['-C', b.dir, '-cf', `${b.dir}/big.tar`, 'big'], signal());
    const stop = new AbortController();
    const importing = b.images.importTar(`${b.dir}/big.tar`, 'box', [], stop.signal);
    const watching = (async () => {
      // The first bytes are there when the staging directory has something in it.
      const staging = `${b.dir}/root/images/staging`;
      for (;;) {
        const [name] = readdirSync(staging);
        if (name !== undefined && readdirSync(`${staging}/${name}`).length > 0) break;
        await new Promise((resolve) => setImmediate(resolve));
      }
      stop.abort();
    })();
    await assert.rejects(importing, { code: 'CANCELLED' });
    await watching;
    assertNothingStored(b);
  });

  test('refuses archives that docker save and OCI tools write, and says what it takes', async (t) => {
    const b = await bench(t);
    const hex = 'a'.repeat(64);
    const old = [
      { name: `${hex}/layer.tar`, content: 'x' },
      { name: 'manifest.json', content: '[]' },
    ];
    const oci = [
      { name: `blobs/sha256/${hex}`, content: 'x' },
      { name: 'oci-layout', content: '{}' },
    ];
    for (const entries of [old, oci]) {
      await assert.rejects(importEntries(b, entries), { code: 'INVALID_ARGUMENT', message: /docker save/ });
    }
    assertNothingStored(b);
    await importEntries(b, [{ name: 'manifest.json', content: "an application's own" }]);
  });

  test('refuses a source that is no regular file, without waiting for it', async (t) => {
    const b = await bench(t);
    await hostCommand('mkfifo', [`${b.dir}/fifo`], signal());
    const invalid = [`${b.dir}/fifo`, b.dir, '/dev/zero', 'relative.tar', '', `${b.dir}/a\0b`];
    for (const path of invalid) {
      await assert.rejects(b.images.importTar(path, 'box', [], signal()), {
        code: 'INVALID_ARGUMENT',
        message: /^source: /,
      });
    }
    await assert.rejects(b.images.importTar(`${b.dir}/none`, 'box', [], signal()), { code: 'NOT_FOUND' });
    assertNothingStored(b);
  });

  test('refuses what is no archive, and archives that are damaged or packed otherwise', async (t) => {
    const b = await bench(t);
    const whole = await readFile(await writeTar(`${b.dir}/t.tar`, [{ name: 'f', content: 'x'.repeat(50_000) }]));
    const damaged: readonly [string, Uint8Array][] = [
      ['empty', new Uint8Array()],
      ['zeros', new Uint8Array(10_240)],
      ['text', Buffer.from('no archive\n'.repeat(1000))],
      ['cut', whole.subarray(0, 20_000)],
      ['cut gzip', gzipSync(whole).subarray(0, 60)],
      ['flipped gzip', Buffer.from(gzipSync(whole)).fill(0xff, 30, 60)],
      ['zstd without end', Buffer.from('28b52ffd00', 'hex')],
      ['xz', Buffer.from('fd377a585a000000', 'hex')],
      ['bzip2', Buffer.from('425a683931415926', 'hex')],
    ];
    for (const [name, bytes] of damaged) {
      await writeFile(`${b.dir}/bad`, bytes);
      const importing = b.images.importTar(`${b.dir}/bad`, 'box', [], signal());
      await assert.rejects(importing, { code: 'INVALID_ARGUMENT' }, name);
    }
    assertNothingStored(b);
  });

  test('refuses bad references and changes before it opens anything', async (t) => {
    const b = await bench(t);
    const missingFile = `${b.dir}/none`;
    const bad: readonly [string, string[]][] = [
      ['Box', []],
      [`box@sha256:${'a'.repeat(64)}`, []],
      ['box', ['RUN x']],
    ];
    for (const [reference, changes] of bad) {
      await assert.rejects(b.images.importTar(missingFile, reference, changes, signal()), { code: 'INVALID_ARGUMENT' });
    }
  });
});

describe('ImageStore.importTar and hostile archives', { skip: missing('root') }, () => {
  const refused = { code: 'INVALID_ARGUMENT', message: /^archive: / };

  async function withCanary(t: TestScope): Promise<Bench & { readonly canary: string; intact(): Promise<void> }> {
    const b = await bench(t);
    const canary = `${b.dir}/canary`;
    await mkdir(canary);
    await writeFile(`${canary}/shadow`, 'secret', { mode: 0o600 });
    const before = await stat(`${canary}/shadow`);
    const intact = async (): Promise<void> => {
      assert.deepEqual(await readdir(canary), ['shadow']);
      const { nlink, mode, uid, mtimeMs } = await stat(`${canary}/shadow`);
      assert.deepEqual([nlink, mode, uid, mtimeMs], [1, before.mode, before.uid, before.mtimeMs]);
      assert.equal(await readFile(`${canary}/shadow`, 'utf8'), 'secret');
      assertNothingStored(b);
    };
    return { ...b, canary, intact };
  }

  // K03
  test('nothing is written through a link or outside the root', async (t) => {
    const b = await withCanary(t);
    const link: TarEntry = { name: 'a', type: 'symlink', linkname: b.canary };
    const up = '../../../../canary';
    const cases: readonly (readonly TarEntry[])[] = [
      [link, { name: 'a/x', content: 'x' }],
      [link, { name: 'a/shadow', content: 'x' }],
      [link, { name: 'a', type: 'directory', mode: 0o777 }],
      [link, { name: 'a/d', type: 'directory' }],
      [link, { name: 'a/s', type: 'symlink', linkname: 'x' }],
      [
        { name: 'a', type: 'symlink', linkname: up },
        { name: 'a/x', content: 'x' },
      ],
      [
        { name: 'd', type: 'directory' },
        { name: 'd/a', type: 'symlink', linkname: `../${up}` },
        { name: 'd/a/x', content: 'x' },
      ],
      [{ name: 'b', type: 'symlink', linkname: 'a' }, link, { name: 'b/x', content: 'x' }],
      [{ name: `${up}/x`, content: 'x' }],
      [{ name: 'd/../../x', content: 'x' }],
      [{ name: '..', type: 'directory' }],
      [{ name: `${b.canary}/x`, content: 'x' }],
      [{ name: '/abs', content: 'x' }],
      [{ name: 'ok', content: 'x', pax: { path: '../../x' } }],
      [{ name: './', type: 'symlink', linkname: b.canary }],
      [{ name: '.', content: 'x' }],
    ];
    for (const entries of cases) {
      await assert.rejects(importEntries(b, entries), refused, JSON.stringify(entries));
      await b.intact();
    }
  });

  test('a file in the place of a link replaces the link', async (t) => {
    const b = await withCanary(t);
    const layer = await importEntries(b, [
      { name: 'a', type: 'symlink', linkname: `${b.canary}/shadow` },
      { name: 'a', content: 'inside', mode: 0o644 },
    ]);
    assert.equal(await readFile(`${layer}/a`, 'utf8'), 'inside');
    await b.images.remove('box', unused, signal());
    await b.intact();
  });

  // K04
  test('hard links lead to files of the archive only', async (t) => {
    const b = await withCanary(t);
    const shadow = `${b.canary}/shadow`;
    const cases: readonly (readonly TarEntry[])[] = [
      [{ name: 'h', type: 'link', linkname: shadow }],
      [{ name: 'h', type: 'link', linkname: '../../../../canary/shadow' }],
      [{ name: 'h', type: 'link', linkname: 'none' }],
      [{ name: 'h', type: 'link', linkname: '.' }],
      [
        { name: 'a', type: 'symlink', linkname: b.canary },
        { name: 'h', type: 'link', linkname: 'a/shadow' },
      ],
      [
        { name: 's', type: 'symlink', linkname: shadow },
        { name: 'h', type: 'link', linkname: 's' },
      ],
      [
        { name: 'd', type: 'directory' },
        { name: 'h', type: 'link', linkname: 'd' },
      ],
      [
        { name: 'f', content: 'x' },
        { name: 'a', type: 'symlink', linkname: b.canary },
        { name: 'a/h', type: 'link', linkname: 'f' },
      ],
    ];
    for (const entries of cases) {
      await assert.rejects(importEntries(b, entries), refused, JSON.stringify(entries));
      await b.intact();
    }
  });

  test('a hard link to itself is no link', async (t) => {
    const b = await bench(t);
    const layer = await importEntries(b, [
      { name: 'f', content: 'x' },
      { name: './f', type: 'link', linkname: 'f' },
    ]);
    assert.equal(await readFile(`${layer}/f`, 'utf8'), 'x');
  });

  // K05
  test('whiteouts have no place in a root file system', async (t) => {
    const b = await withCanary(t);
    for (const name of ['.wh..', '.wh...', '.wh.', '.wh.x', 'd/.wh..wh..opq', 'd/../.wh.x', '.wh.d/x']) {
      await assert.rejects(importEntries(b, [{ name, content: '' }]), refused, name);
    }
    const link: TarEntry = { name: 'a', type: 'symlink', linkname: b.canary };
    await assert.rejects(importEntries(b, [link, { name: 'a/.wh..wh..opq', content: '' }]), refused);
    await b.intact();
  });

  test('attributes that would steer overlayfs, sparse files, odd names and odd owners are refused', async (t) => {
    const b = await withCanary(t);
    const cases: readonly TarEntry[] = [
      { name: 'x', content: '', pax: { 'SCHILY.xattr.trusted.overlay.redirect': '/etc' } },
      { name: 'x', content: '', pax: { 'SCHILY.xattr.user.overlay.opaque': 'y' } },
      { name: 'x', content: '', pax: { 'GNU.sparse.size': '99999999999' } },
      { name: 'x'.repeat(300), content: '' },
      { name: 'x', content: '', pax: { path: 'a\0b' } },
      { name: 'x', content: '', pax: { uid: '4294967296' } },
      { name: 'x', content: '', pax: { gid: '-1' } },
      { name: 'x', content: '', pax: { uid: '0x0' } },
      { name: 'x', type: 'symlink', linkname: 't'.repeat(5000) },
    ];
    for (const entry of cases) await assert.rejects(importEntries(b, [entry]), refused, JSON.stringify(entry.pax));
    await b.intact();
  });

  // K06
  test('a small archive that unpacks to too much is cut off in bounded memory, and its remains go', async (t) => {
    const b = await bench(t);
    await writeFile(`${b.dir}/zeros`, '');
    await truncate(`${b.dir}/zeros`, 200 * 1024 * 1024);
    const before = process.memoryUsage.rss();
    const watch = rssWatch(t);
    for (const pack of ['-czf', '-cf']) {
      await hostCommand('tar', ['-C', b.dir, pack, `${b.dir}/bomb.tar`, 'zeros'], signal());
      const limits = pack === '-czf' ? {} : { maxBytes: 64 * 1024 * 1024 };
      await assert.rejects(b.open({ maxRatio: 500, ...limits }).importTar(`${b.dir}/bomb.tar`, 'box', [], signal()), {
        code: 'RESOURCE_EXHAUSTED',
      });
      assertNothingStored(b);
    }
    assert.ok(watch() - before <= 128 * 1024 * 1024, `${watch() - before} bytes more`);
  });

  test('more entries than the limit are too many', async (t) => {
    const b = await bench(t, { maxEntries: 5000 });
    function* files(): Generator<TarEntry> {
      for (let n = 0; n < 10_000; n += 1) yield { name: `d${n % 200}/${n}`, content: '' };
    }
    await writeTar(`${b.dir}/many.tar`, files(), 'gzip');
    const before = process.memoryUsage.rss();
    const watch = rssWatch(t);
    await assert.rejects(b.images.importTar(`${b.dir}/many.tar`, 'box', [], signal()), { code: 'RESOURCE_EXHAUSTED' });
    assert.ok(watch() - before <= 128 * 1024 * 1024, `${watch() - before} bytes more`);
    assertNothingStored(b);
  });

  test('paths that are too long or too deep, and what they would make on the way, are too much', async (t) => {
    const b = await bench(t, { maxEntries: 500 });
    const deep = (first: string): TarEntry => ({ name: `${first}/${'d/'.repeat(200)}`, type: 'directory' });
    const cases: readonly (readonly TarEntry[])[] = [
      [{ name: 'd/'.repeat(3000), type: 'directory' }],
      [{ name: 'd/'.repeat(300), type: 'directory' }],
      [deep('a'), deep('b'), deep('c'), { name: 'last', content: '' }],
    ];
    for (const entries of cases) await assert.rejects(importEntries(b, entries), { code: 'RESOURCE_EXHAUSTED' });
    assertNothingStored(b);
  });

  test('extended records without number are refused', async (t) => {
    const b = await bench(t);
    const pax = Object.fromEntries(Array.from({ length: 2000 }, (_, n) => [`k${n}`, 'v']));
    await assert.rejects(importEntries(b, [{ name: 'x', content: '', pax }]), refused);
  });

  test('no damage to an archive does more than refuse it', async (t) => {
    const b = await withCanary(t);
    const seed = randomInt(2 ** 31);
    const random = repeatable(seed);
    const whole = await readFile(
      await writeTar(`${b.dir}/whole.tar`, [
        { name: 'd', type: 'directory' },
        { name: 'a', type: 'symlink', linkname: 'd' },
        { name: 'd/f', content: 'x'.repeat(700), pax: { mtime: '1.5', uid: '7' } },
        { name: 'h', type: 'link', linkname: 'd/f' },
        { name: 'n'.repeat(150), content: 'y' },
      ]),
    );
    for (let round = 0; round < 100; round += 1) {
      const bytes = Buffer.from(whole);
      for (let flips = 0; flips < 4; flips += 1) damage(bytes, random);
      await writeFile(`${b.dir}/bad.tar`, bytes);
      const label = `seed ${seed}, round ${round}`;
      try {
        await b.images.importTar(`${b.dir}/bad.tar`, 'box', [], signal());
        await b.images.remove('box', unused, signal());
      } catch (error) {
        assert.ok(error instanceof RuntimeError, label);
        assert.ok(['INVALID_ARGUMENT', 'RESOURCE_EXHAUSTED'].includes(error.code), `${label}: ${error.message}`);
      }
    }
    await b.intact();
  });

  test('a full disk is told as such and leaves nothing', async (t) => {
    const b = await bench(t);
    await mkdir(`${b.dir}/small/images`, { recursive: true });
    cleanup(t, () => hostCommand('umount', [`${b.dir}/small`], signal()));
    await hostCommand('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', `${b.dir}/small`], signal());
    const images = new ImageStore({ store: b.store, rootDir: `${b.dir}/small`, log });
    await writeTar(`${b.dir}/big.tar`, [{ name: 'big', content: Buffer.alloc(4 * 1024 * 1024, 1) }]);
    await assert.rejects(images.importTar(`${b.dir}/big.tar`, 'box', [], signal()), { code: 'RESOURCE_EXHAUSTED' });
    assert.deepEqual(await readdir(`${b.dir}/small/images/staging`), []);
  });
});

describe('ImageStore', { skip: missing('root') }, () => {
  test('finds images by any form of their reference and by the beginning of their id', async (t) => {
    const b = await bench(t);
    await importEntries(b, [{ name: 'a', content: 'x' }], 'reg.example:5000/team/app');
    await importEntries(b, [{ name: 'b', content: 'x' }], 'box');
    const image = b.images.get('docker.io/library/box:latest');
    assert.equal(image.reference, 'box:latest');
    const hex = image.id.slice('sha256:'.length);
    for (const ref of ['box', image.id, hex, hex.slice(0, 12), `sha256:${hex.slice(0, 8)}`]) {
      assert.equal(b.images.get(ref).id, image.id, ref);
    }
    for (const ref of ['none', 'box:other', 'sha256:0000000000', '0123456789ab']) {
      assert.throws(() => b.images.get(ref), { code: 'NOT_FOUND', message: /berth image import/ }, ref);
    }
    assert.throws(() => b.images.get('../x'), { code: 'INVALID_ARGUMENT' });
  });

  test('a layer stays until its last reference is removed', async (t) => {
    const b = await bench(t);
    const layer = await importEntries(b, [{ name: 'a', content: 'x' }], 'one');
    await importEntries(b, [{ name: 'a', content: 'x' }], 'two');
    const { id } = b.images.get('one');
    await assert.rejects(b.images.remove(id, unused, signal()), { code: 'FAILED_PRECONDITION', message: /one:latest/ });
    await assert.rejects(
      b.images.remove('one', (used) => used === id, signal()),
      { code: 'FAILED_PRECONDITION' },
    );
    await b.images.remove('one', unused, signal());
    assert.ok(existsSync(layer));
    await b.images.remove(id, unused, signal());
    assert.equal(existsSync(layer), false);
    await assert.rejects(b.images.remove('one', unused, signal()), { code: 'NOT_FOUND' });
  });

  test('recover removes what a crash left in staging and layers without a record', async (t) => {
    const b = await bench(t);
    const layer = await importEntries(b, [{ name: 'a', content: 'x' }]);
    const { staging, layers } = { staging: `${b.dir}/root/images/staging`, layers: `${b.dir}/root/images/layers` };
    await mkdir(`${staging}/deadbeef/etc`, { recursive: true });
    await appendFile(`${staging}/deadbeef/etc/passwd`, 'half');
    await mkdir(`${layers}/${'0'.repeat(64)}/etc`, { recursive: true });
    await b.open().recover(signal());
    assert.deepEqual(await readdir(staging), []);
    assert.deepEqual(
      (await readdir(layers)).map((hex) => `${layers}/${hex}`),
      [layer],
    );
  });

  test('removes no layer while a record cannot be read', async (t) => {
    const b = await bench(t);
    const layer = await importEntries(b, [{ name: 'a', content: 'x' }]);
    b.store.remove('box:latest');
    await mkdir(`${b.dir}/root/containers/${'0'.repeat(32)}`);
    await writeFile(`${b.dir}/root/containers/${'0'.repeat(32)}/image.json`, '{');
    await b.open().recover(signal());
    assert.ok(existsSync(layer));
  });

  test('records survive a restart and are checked when they are read', async (t) => {
    const b = await bench(t);
    await importEntries(b, [{ name: 'a', content: 'x' }]);
    const image = b.images.get('box');
    assert.deepEqual(decodeImageRecord(JSON.parse(JSON.stringify(image))), image);
    assert.throws(() => decodeImageRecord({ ...image, layers: ['sha256:../../x'] }));
    assert.throws(() => decodeImageRecord({ ...image, id: 'x' }));
  });
});

/** Changes one byte of a header and mends the header's checksum, so that the change is believed. */
function damage(tar: Buffer, random: () => number): void {
  const header = tar.subarray(512 * Math.floor(random() * (tar.length / 512)));
  const interesting = [0, 0x2f, 0x2e, 0x30, 0x31, 0x32, 0x35, 0x37, 0x53, 0x78, 0x80, 0xff];
  header[Math.floor(random() * 512)] = interesting[Math.floor(random() * interesting.length)] ?? 0;
  header.fill(0x20, 148, 156);
  const sum = header.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
}

/** Numbers in [0, 1) that are the same ones for the same seed: a linear congruence, of which the upper bits are used. */
function repeatable(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return (state >>> 8) / 2 ** 24;
  };
}

/** The largest resident set seen since. */
function rssWatch(t: TestScope): () => number {
  let most = 0;
  const look = (): number => {
    most = Math.max(most, process.memoryUsage.rss());
    return most;
  };
  const timer = setInterval(look, 10);
  cleanup(t, () => clearInterval(timer));
  return look;
}
