import assert from 'node:assert/strict';
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { ContainerFiles } from '../../src/cni/container-files.ts';
import { mergeDns, type OwnDns, parseResolvConf, resolvConf } from '../../src/cni/resolver.ts';
import { tempDir } from '../support/temp-dir.ts';

const HOST = {
  nameservers: ['127.0.0.53', '10.87.20.1', '::1', 'fd00::1'],
  search: ['host.example'],
  options: ['edns0'],
};
const ID = '0123456789abcdef0123456789abcdef';

describe('resolver settings', () => {
  test('come from the networks in their order, each value once', () => {
    const merged = mergeDns(
      [
        { nameservers: ['10.87.10.1', '10.87.10.2'], domain: 'a.example', search: ['b.example'] },
        { nameservers: ['10.87.10.2', '10.87.10.3', '10.87.10.4'], search: ['a.example'], options: ['ndots:2'] },
      ],
      HOST,
    );
    assert.deepEqual(merged, {
      nameservers: ['10.87.10.1', '10.87.10.2', '10.87.10.3'],
      search: ['a.example', 'b.example'],
      options: ['ndots:2'],
    });
  });

  test('of the request come before those of the networks, each kind for itself', () => {
    const none: OwnDns = { dnsServers: [], dnsSearch: [], dnsOptions: [] };
    const networks = [{ nameservers: ['10.0.0.1'], search: ['net.example'], options: ['ndots:1'] }];
    const host = { nameservers: ['10.9.9.9'], search: ['host.example'], options: ['rotate'] };
    const merged = (own: Partial<OwnDns>, from: typeof networks = networks) => {
      const { nameservers, search, options } = mergeDns(from, host, { ...none, ...own });
      return [nameservers.join(), search.join(), options.join()];
    };
    assert.deepEqual(merged({}), ['10.0.0.1', 'net.example', 'ndots:1']);
    assert.deepEqual(merged({ dnsServers: ['192.0.2.1', '192.0.2.1'] }), ['192.0.2.1', 'net.example', 'ndots:1']);
    assert.deepEqual(merged({ dnsSearch: ['own.example'] }), ['10.0.0.1', 'own.example', 'ndots:1']);
    assert.deepEqual(merged({ dnsSearch: ['.'] }), ['10.0.0.1', '', 'ndots:1']);
    assert.deepEqual(merged({ dnsSearch: ['.'] }, []), ['10.9.9.9', '', 'rotate']);
    assert.deepEqual(merged({ dnsOptions: ['edns0'] }, []), ['10.9.9.9', 'host.example', 'edns0']);
    assert.deepEqual(merged({ dnsServers: ['192.0.2.1'] }, []), ['192.0.2.1', '', '']);
  });

  test('come from the host otherwise, less what is on its loopback', () => {
    assert.deepEqual(mergeDns([{}, { search: ['own.example'] }], HOST), {
      nameservers: ['10.87.20.1', 'fd00::1'],
      search: ['own.example'],
      options: ['edns0'],
    });
  });

  test('of a plugin that are none are refused (K20)', () => {
    const bad = [
      { nameservers: ['1.1.1.1\nnameserver 6.6.6.6'] },
      { nameservers: ['dns.example'] },
      { nameservers: ['1.1.1.1 '] },
      { domain: 'a b' },
      { search: ['x\noptions rotate'] },
      { search: ['x'.repeat(300)] },
      { options: ['ndots:2\nnameserver 6.6.6.6'] },
      { options: ['a b'] },
      { search: Array.from({ length: 33 }, (_, index) => `s${index}`) },
    ];
    for (const dns of bad) {
      assert.throws(() => mergeDns([dns], HOST), { code: 'INVALID_ARGUMENT', message: /^dns: / }, JSON.stringify(dns));
    }
  });

  test('are written as one line a server', () => {
    const text = resolvConf({ nameservers: ['10.0.0.1', 'fd00::1'], search: ['a', 'b'], options: ['x'] });
    assert.equal(text, 'nameserver 10.0.0.1\nnameserver fd00::1\nsearch a b\noptions x\n');
    assert.match(resolvConf({ nameservers: [], search: [], options: [] }), /^#.*\n$/);
  });

  test('of the host are read as a resolver reads them', () => {
    const text =
      '# x\nnameserver 10.0.0.1\nnameserver  fe80::1%eth0 \nnameserver no\ndomain old\nsearch a b\nsearch c\noptions ndots:1 rotate\n';
    assert.deepEqual(parseResolvConf(text), {
      nameservers: ['10.0.0.1', 'fe80::1%eth0'],
      search: ['c'],
      options: ['ndots:1', 'rotate'],
    });
  });
});

describe('ContainerFiles', () => {
  test('are filled in place: what is bound into the container stays the same file', async (t) => {
    const dir = join(await tempDir(t), 'files');
    const files = new ContainerFiles(dir);
    files.create(ID, { hostname: 'box\n' });
    const hosts = join(dir, ID, 'hosts');
    const before = statSync(hosts);
    files.fill(ID, { hosts: '127.0.0.1\tlocalhost\n' });
    assert.equal(statSync(hosts).ino, before.ino);
    assert.equal(readFileSync(hosts, 'utf8'), '127.0.0.1\tlocalhost\n');
    assert.equal(readFileSync(join(dir, ID, 'hostname'), 'utf8'), 'box\n');
    assert.deepEqual(files.list(), [ID]);
    files.remove(ID);
    files.remove(ID);
    assert.deepEqual(files.list(), []);
  });

  test('are whole at every moment, for whoever has one open', async (t) => {
    const dir = await tempDir(t);
    const files = new ContainerFiles(dir);
    files.create(ID, {});
    const long = '10.87.10.200\tsome-long-name\n'.repeat(50);
    files.fill(ID, { hosts: long });
    const fd = openSync(join(dir, ID, 'hosts'), 'r');
    t.after(() => closeSync(fd));
    const now = () => {
      const buffer = Buffer.alloc(8192);
      return buffer.toString('utf8', 0, readSync(fd, buffer, 0, buffer.length, 0));
    };
    assert.equal(now(), long);
    files.fill(ID, { hosts: '127.0.0.1\tlocalhost\n' });
    assert.equal(now(), '127.0.0.1\tlocalhost\n');
    files.fill(ID, { hosts: long });
    assert.equal(now(), long);
  });

  test('are never written through a link', async (t) => {
    const base = await tempDir(t);
    const canary = join(base, 'canary');
    writeFileSync(canary, 'alive');
    const files = new ContainerFiles(join(base, 'files'));
    files.create(ID, {});
    rmSync(join(base, 'files', ID, 'hosts'));
    symlinkSync(canary, join(base, 'files', ID, 'hosts'));
    assert.throws(() => files.fill(ID, { hosts: 'x' }), { name: 'RuntimeError' });
    rmSync(join(base, 'files', ID), { recursive: true });
    mkdirSync(join(base, 'elsewhere'));
    symlinkSync(join(base, 'elsewhere'), join(base, 'files', ID));
    files.create(ID, { hosts: 'x' });
    assert.equal(readFileSync(canary, 'utf8'), 'alive');
    assert.equal(statSync(join(base, 'files', ID)).isDirectory(), true);
  });

  test('are bound read-only, and not where the user mounts something else', async (t) => {
    const files = new ContainerFiles(await tempDir(t));
    const mounts = files.mounts(ID, new Set(['/etc/resolv.conf']));
    assert.deepEqual(
      mounts.map(({ destination }) => destination),
      ['/etc/hosts', '/etc/hostname'],
    );
    for (const { options } of mounts) assert.ok(options.includes('ro'));
  });

  test('belong to ids only', async (t) => {
    const files = new ContainerFiles(await tempDir(t));
    for (const id of ['../x', 'a/b', '', '.', '..', 'a\nb']) {
      assert.throws(() => files.create(id, {}), { code: 'INVALID_ARGUMENT' }, id);
      assert.throws(() => files.remove(id), { code: 'INVALID_ARGUMENT' }, id);
    }
  });
});
