import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { Attachment } from '../../src/cni/attachment.ts';
import { ResultCache } from '../../src/cni/result-cache.ts';
import { tempDir } from '../support/temp-dir.ts';

const ID = '0123456789abcdef0123456789abcdef';
const PLUGINS = [{ type: 'bridge', bridge: 'br<0>' }, { type: 'tuning' }];

const attachment: Attachment = {
  containerId: ID,
  netnsPath: '/run/netns/box',
  interfaceName: 'eth0',
  network: {
    name: 'my-net',
    cniVersion: '0.4.0',
    disableCheck: true,
    disableGC: false,
    owned: false,
    plugins: PLUGINS,
  },
  args: [['IgnoreUnknown', '1']],
  capabilityArgs: { portMappings: [{ hostPort: 80, containerPort: 80, protocol: 'tcp' }] },
};
const RESULT = { cniVersion: '0.4.0', ips: [{ address: '10.87.10.2/24' }] };

describe('ResultCache', () => {
  test("writes what libcni would, in libcni's order, for root alone", async (t) => {
    const dir = join(await tempDir(t), 'cni');
    new ResultCache(dir).write(attachment, RESULT);
    const file = join(dir, 'results', `my-net-${ID}-eth0`);
    const text = readFileSync(file, 'utf8');
    const entry = JSON.parse(text);
    const { config, ...rest } = entry;
    assert.deepEqual(Object.keys(entry), [
      ...['kind', 'containerId', 'config', 'ifName', 'networkName', 'netns', 'cniArgs', 'capabilityArgs', 'result'],
    ]);
    assert.deepEqual(rest, {
      kind: 'cniCacheV1',
      containerId: ID,
      ifName: 'eth0',
      networkName: 'my-net',
      netns: '/run/netns/box',
      cniArgs: [['IgnoreUnknown', '1']],
      capabilityArgs: attachment.capabilityArgs,
      result: { cniVersion: '0.4.0', ips: [{ address: '10.87.10.2/24', version: '4' }], dns: {} },
    });
    assert.deepEqual(JSON.parse(Buffer.from(config, 'base64').toString()), {
      cniVersion: '0.4.0',
      name: 'my-net',
      disableCheck: true,
      plugins: PLUGINS,
    });
    assert.equal(statSync(file).mode & 0o777, 0o600);
    assert.equal(statSync(join(dir, 'results')).mode & 0o777, 0o700);
    assert.deepEqual(readdirSync(dir), ['results'], 'nothing half made is left');
  });

  test('leaves out what is empty, and replaces an entry', async (t) => {
    const dir = await tempDir(t);
    const cache = new ResultCache(dir);
    cache.write(attachment, RESULT);
    cache.write({ ...attachment, args: [], capabilityArgs: {}, netnsPath: '' }, RESULT);
    const entry = JSON.parse(readFileSync(join(dir, 'results', `my-net-${ID}-eth0`), 'utf8'));
    assert.deepEqual(Object.keys(entry), ['kind', 'containerId', 'config', 'ifName', 'networkName', 'result']);
    assert.deepEqual(readdirSync(join(dir, 'results')).length, 1);
  });

  test('removes the entry and nothing else, as often as it is asked', async (t) => {
    const dir = await tempDir(t);
    const cache = new ResultCache(dir);
    cache.remove(attachment);
    cache.write(attachment, RESULT);
    cache.write({ ...attachment, interfaceName: 'eth1' }, RESULT);
    cache.remove(attachment);
    cache.remove(attachment);
    assert.deepEqual(readdirSync(join(dir, 'results')), [`my-net-${ID}-eth1`]);
  });

  test('never writes through a link', async (t) => {
    const dir = await tempDir(t);
    mkdirSync(join(dir, 'results'));
    writeFileSync(join(dir, 'victim'), 'kept');
    symlinkSync(join(dir, 'victim'), join(dir, 'results', `my-net-${ID}-eth0`));
    new ResultCache(dir).write(attachment, RESULT);
    assert.equal(readFileSync(join(dir, 'victim'), 'utf8'), 'kept');
  });
});
