import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { RuntimeError } from '../../../src/errors.ts';
import {
  CapabilitiesIsolator,
  DEFAULT_CAPABILITIES,
  effectiveCapabilities,
} from '../../../src/runtime/isolators/capabilities.ts';
import { NamespacesIsolator } from '../../../src/runtime/isolators/namespaces.ts';
import { RlimitsIsolator } from '../../../src/runtime/isolators/rlimits.ts';
import { ID, recordOf } from './isolator-fixture.ts';

describe('CapabilitiesIsolator', () => {
  test("gives docker's set less NET_RAW, MKNOD and AUDIT_WRITE", () => {
    const names = effectiveCapabilities({ capAdd: [], capDrop: [] });
    assert.deepEqual(names.toSorted(), DEFAULT_CAPABILITIES.map((name) => `CAP_${name}`).toSorted());
    for (const name of ['CAP_NET_RAW', 'CAP_SYS_ADMIN', 'CAP_MKNOD']) assert.ok(!names.includes(name), name);
  });

  test('adds and drops; a drop wins over an addition, an addition survives "drop ALL"', () => {
    assert.ok(effectiveCapabilities({ capAdd: ['NET_RAW'], capDrop: [] }).includes('CAP_NET_RAW'));
    assert.ok(!effectiveCapabilities({ capAdd: [], capDrop: ['CHOWN'] }).includes('CAP_CHOWN'));
    assert.ok(!effectiveCapabilities({ capAdd: ['NET_RAW'], capDrop: ['NET_RAW'] }).includes('CAP_NET_RAW'));
    assert.deepEqual(effectiveCapabilities({ capAdd: ['KILL'], capDrop: ['ALL'] }), ['CAP_KILL']);
    assert.deepEqual(effectiveCapabilities({ capAdd: [], capDrop: ['ALL'] }), []);
  });

  test('refuses names the kernel does not have', () => {
    for (const change of [{ capAdd: ['GOD_MODE'] }, { capDrop: ['NOTHING'] }]) {
      const refused = (error: unknown): boolean => error instanceof RuntimeError && error.code === 'INVALID_ARGUMENT';
      assert.throws(() => new CapabilitiesIsolator().validate(recordOf(change)), refused);
    }
  });

  test('"add ALL" gives what berthd itself may hand on and no more', () => {
    const bounding = BigInt(`0x${/^CapBnd:\s*(\S+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]}`);
    const given = effectiveCapabilities({ capAdd: ['ALL'], capDrop: [] });
    const expected = bounding.toString(2).replaceAll('0', '').length;
    assert.ok(given.length >= expected && given.length <= expected + DEFAULT_CAPABILITIES.length);
  });
});

describe('NamespacesIsolator', () => {
  test('asks for fresh namespaces and the host name', async () => {
    const { namespaces, hostname } = await new NamespacesIsolator().prepare(recordOf({ hostname: 'box.example' }));
    assert.deepEqual(namespaces?.map(({ type }) => type).toSorted(), ['cgroup', 'ipc', 'mount', 'pid', 'uts']);
    assert.ok(namespaces?.every(({ path }) => path === undefined));
    assert.equal(hostname, 'box.example');
    assert.equal((await new NamespacesIsolator().prepare(recordOf())).hostname, ID.slice(0, 12));
  });
});

describe('RlimitsIsolator', () => {
  test('never asks for more than berthd may hand on', async () => {
    const { rlimits } = await new RlimitsIsolator().prepare();
    const own = /^Max open files\s+\S+\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1];
    for (const { soft, hard } of rlimits ?? []) {
      assert.ok(soft <= hard);
      assert.ok(own === 'unlimited' || hard <= Number(own));
    }
  });
});
