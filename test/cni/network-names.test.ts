import assert from 'node:assert/strict';
import { readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { ContainerFiles } from '../../src/cni/container-files.ts';
import { NetworkNames } from '../../src/cni/network-names.ts';
import { decodeNetworkRecord, type NetworkRecord, type RecordedAttachment } from '../../src/cni/network-record.ts';
import type { Naming } from '../../src/runtime/container.ts';
import { Database, type Store } from '../../src/store.ts';
import { cleanup, type TestScope } from '../support/cleanup.ts';
import { tempDir } from '../support/temp-dir.ts';
import { silent } from './cni-fixture.ts';

const SILENT: Naming = { aliases: [], dnsServers: [], dnsSearch: [], dnsOptions: [], extraHosts: [] };

/** A few containers that are attached, without plugins: records and files only. */
class Members {
  readonly dir: string;
  readonly store: Store<NetworkRecord>;
  readonly names: NetworkNames;
  readonly #files: ContainerFiles;
  #count = 0;

  private constructor(dir: string, store: Store<NetworkRecord>) {
    this.dir = dir;
    this.store = store;
    this.#files = new ContainerFiles(join(dir, 'files'));
    this.names = new NetworkNames({ store, files: this.#files, log: silent });
  }

  static async create(t: TestScope): Promise<Members> {
    const dir = await tempDir(t);
    const database = new Database(join(dir, 'test.db'));
    cleanup(t, () => database.close());
    return new Members(dir, database.store('network', decodeNetworkRecord));
  }

  /** A container by its name, with an address on each network. Its host name is the name with "-host". */
  join(name: string, networks: Readonly<Record<string, string>>, naming?: Partial<Naming>): string {
    this.#count += 1;
    const id = String(this.#count).padStart(32, '0');
    const attachments = Object.entries(networks).map(([network, address], index) => entry(network, index, address));
    const said = naming === undefined ? {} : { naming: { ...SILENT, ...naming } };
    const names = { hostname: `${name}-host`, name, ...said };
    this.store.create(id, { mode: 'networks', bootId: 'b', netnsPath: '/ns', attachments, names }, 'process');
    this.#files.create(id, {});
    return id;
  }

  record(id: string): NetworkRecord {
    const record = this.store.read(id);
    assert.ok(record !== undefined);
    return record;
  }

  file(id: string): string {
    return join(this.dir, 'files', id, 'hosts');
  }

  /** Lines of a hosts file, less the four about localhost that every one begins with. */
  hosts(id: string): readonly string[] {
    return readFileSync(this.file(id), 'utf8').trimEnd().split('\n').slice(4);
  }
}

function entry(network: string, index: number, address: string): RecordedAttachment {
  const config = { name: network, cniVersion: '1.0.0', disableCheck: false, disableGC: false, owned: false };
  return {
    network: { ...config, plugins: [{ type: 'x' }] },
    interfaceName: `eth${index}`,
    args: [],
    capabilityArgs: {},
    state: 'added',
    result: { cniVersion: '1.0.0', ips: [{ address: `${address}/24`, gateway: '10.0.0.1' }] },
  };
}

describe('NetworkNames', () => {
  test('tells all members of a network about each other, and nobody else', async (t) => {
    const members = await Members.create(t);
    const web = members.join('web', { front: '10.0.0.2' });
    const app = members.join('app', { front: '10.0.0.3', back: '10.0.1.3' }, { aliases: ['api', 'v1.api'] });
    const db = members.join('db', { back: '10.0.1.4' });
    const alone = members.join('alone', { other: '10.0.2.2' });
    await members.names.refresh(['front', 'back']);
    assert.deepEqual(members.hosts(web), ['10.0.0.2\tweb-host web', '10.0.0.3\tapp api v1.api']);
    assert.deepEqual(members.hosts(app), [
      '10.0.0.3\tapp-host app api v1.api',
      '10.0.1.3\tapp-host app api v1.api',
      '10.0.0.2\tweb',
      '10.0.1.4\tdb',
    ]);
    assert.deepEqual(members.hosts(db), ['10.0.1.4\tdb-host db', '10.0.1.3\tapp api v1.api']);
    assert.equal(readFileSync(members.file(alone), 'utf8'), '', 'nothing changed for it');
  });

  test('takes out who is leaving, and takes in who was connected, with the names it has there', async (t) => {
    const members = await Members.create(t);
    const web = members.join('web', { net: '10.0.0.2' });
    const db = members.join('db', { net: '10.0.0.3' });
    await members.names.refresh(['net']);
    assert.deepEqual(members.hosts(web).slice(1), ['10.0.0.3\tdb']);
    const record = members.record(db);
    const leaving = record.attachments.map((one) => ({ ...one, state: 'deleting' as const }));
    members.store.write(db, { ...record, attachments: leaving }, 'process');
    await members.names.refresh(['net']);
    assert.deepEqual(members.hosts(web).slice(1), []);
    const connected = { ...entry('net', 1, '10.0.0.9'), capabilityArgs: { aliases: ['sql'] } };
    members.store.write(db, { ...record, attachments: [connected] }, 'process');
    await members.names.refresh(['net']);
    assert.deepEqual(members.hosts(web).slice(1), ['10.0.0.9\tdb sql']);
  });

  test('makes nobody localhost, nor what a container is called itself or was told to know', async (t) => {
    const members = await Members.create(t);
    const extraHosts = [
      { name: 'registry', address: '192.0.2.7' },
      { name: 'up', address: 'host-gateway' },
    ];
    const web = members.join('web', { net: '10.0.0.2' }, { extraHosts });
    const aliases = ['LocalHost', 'web', 'WEB-host', 'Registry', 'fine'];
    members.join('localhost', { net: '10.0.0.3' }, { aliases });
    members.join('ip6-allnodes', { net: '10.0.0.4' });
    await members.names.refresh(['net']);
    assert.deepEqual(members.hosts(web), [
      '10.0.0.2\tweb-host web',
      '192.0.2.7\tregistry',
      '10.0.0.1\tup',
      '10.0.0.3\tfine',
    ]);
  });

  test('writes in place, never through a link, and goes on where one file cannot be written', async (t) => {
    const members = await Members.create(t);
    const first = members.join('a', { net: '10.0.0.2' });
    const second = members.join('b', { net: '10.0.0.3' });
    const third = members.join('c', { net: '10.0.0.4' });
    const before = statSync(members.file(first)).ino;
    const canary = join(members.dir, 'canary');
    writeFileSync(canary, 'alive');
    rmSync(members.file(second));
    symlinkSync(canary, members.file(second));
    await members.names.refresh(['net']);
    assert.equal(statSync(members.file(first)).ino, before);
    assert.equal(members.hosts(third).length, 3);
    assert.equal(readFileSync(canary, 'utf8'), 'alive');
  });

  test('serves calls of one moment together', async (t) => {
    const members = await Members.create(t);
    const first = members.join('a', { one: '10.0.0.2' });
    const second = members.join('b', { two: '10.0.1.2' });
    const rounds = [members.names.refresh(['one']), members.names.refresh(['two'])];
    assert.equal(rounds[0], rounds[1]);
    await Promise.all(rounds);
    assert.deepEqual([members.hosts(first).length, members.hosts(second).length], [1, 1]);
    await members.names.refresh([]);
  });

  test('refuses to fill in a gateway where no network has one', async (t) => {
    const members = await Members.create(t);
    const id = members.join('a', {}, { extraHosts: [{ name: 'up', address: 'host-gateway' }] });
    assert.throws(() => members.names.fill(id, members.record(id)), {
      code: 'FAILED_PRECONDITION',
      message: /^add-host: .* up$/,
    });
  });

  test('leaves records of earlier versions alone', async (t) => {
    const members = await Members.create(t);
    const old = members.join('old', { net: '10.0.0.2' });
    const { names: _, ...before } = members.record(old);
    members.store.write(old, before, 'process');
    const fresh = members.join('fresh', { net: '10.0.0.3' });
    await members.names.refresh(['net']);
    assert.equal(readFileSync(members.file(old), 'utf8'), '');
    assert.deepEqual(members.hosts(fresh), ['10.0.0.3\tfresh-host fresh']);
  });
});
