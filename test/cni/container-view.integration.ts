import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { ContainerRecord } from '../../src/runtime/container.ts';
import { mergeContributions } from '../../src/runtime/contribution.ts';
import type { Contribution } from '../../src/runtime/isolator.ts';
import { ociSpec } from '../../src/runtime/oci-spec.ts';
import { busyboxRootfs } from '../support/busybox-rootfs.ts';
import { cleanup } from '../support/cleanup.ts';
import { missing } from '../support/needs.ts';
import { assertClean } from '../support/oracle.ts';
import { CniFixture, soon } from './cni-fixture.ts';

const lacks = missing('root', 'cni', 'iptables', 'ip', 'unshare', 'crun', 'busybox');

const HOST_SETTING = '/proc/sys/net/ipv4/ip_unprivileged_port_start';

/** What a container with this contribution prints when it runs a piece of shell. */
async function inside(
  fixture: CniFixture,
  { id }: ContainerRecord,
  contribution: Contribution,
  shell: string,
): Promise<string> {
  const bundle = join(fixture.dir, id);
  mkdirSync(bundle);
  const rootfs = join(bundle, 'rootfs');
  await busyboxRootfs(rootfs);
  const own: Contribution = { rootfs, process: { args: ['/bin/sh', '-c', shell], env: ['PATH=/bin'] } };
  writeFileSync(join(bundle, 'config.json'), JSON.stringify(ociSpec(id, mergeContributions([own, contribution]))));
  const result = spawnSync('crun', ['run', '--bundle', bundle, id], { encoding: 'utf8' });
  return result.stdout + result.stderr;
}

describe('a container on a network', { skip: lacks }, () => {
  test('sees its address, its names and a resolver, and can write none of the files', async (t) => {
    const fixture = await CniFixture.create(t);
    fixture.bridgeNetwork(t, 'view', 18);
    const container = fixture.container({ network: ['view'], hostname: 'looker', name: 'watcher' });
    const isolator = fixture.isolator();
    cleanup(t, () => isolator.cleanup(container.id, soon()));
    const contribution = await isolator.prepare(container, soon());
    await isolator.isolate(container, soon());
    const said = await inside(
      fixture,
      container,
      contribution,
      `hostname; cat /etc/hostname; grep looker /etc/hosts; cat /etc/resolv.conf; ip -4 -o addr show eth0
       for file in hosts hostname resolv.conf; do echo x >>/etc/$file || echo "cannot write $file"; done
       ip -4 route`,
    );
    const [address = ''] = isolator.status(container.id).networks?.[0]?.addresses ?? [];
    const [ip = ''] = address.split('/');
    assert.match(said, /^looker\nlooker\n/);
    assert.ok(said.includes(`${ip}\tlooker watcher\n`), said);
    assert.ok(said.includes(`inet ${address} `), said);
    for (const file of ['hosts', 'hostname', 'resolv.conf']) assert.ok(said.includes(`cannot write ${file}\n`), said);
    assert.match(said, /default via 10\.87\.18\.1 dev eth0/);
    assert.match(fixture.file(container, 'resolv.conf'), /^(nameserver \S+\n|search .*\n|options .*\n|#.*\n)+$/);
    await isolator.cleanup(container.id, soon());
    await assertClean(fixture.scope);
  });

  test('takes no router advertisements, and lets every user listen on low ports and ask for echoes', async (t) => {
    const fixture = await CniFixture.create(t);
    fixture.bridgeNetwork(t, 'view', 18);
    const container = fixture.container({ network: ['view'] });
    const host = readFileSync(HOST_SETTING, 'utf8');
    const isolator = fixture.isolator();
    cleanup(t, () => isolator.cleanup(container.id, soon()));
    const contribution = await isolator.prepare(container, soon());
    await isolator.isolate(container, soon());
    const shell = `cd /proc/sys/net; cat ipv4/ip_unprivileged_port_start ipv4/ping_group_range
      [ ! -e ipv6 ] || cat ipv6/conf/eth0/accept_ra`;
    assert.match(await inside(fixture, container, contribution, shell), /^0\n0\t2147483647\n(0\n)?$/);
    assert.equal(readFileSync(HOST_SETTING, 'utf8'), host, 'the host keeps its own');
  });
});
