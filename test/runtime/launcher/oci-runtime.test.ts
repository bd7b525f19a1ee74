import assert from 'node:assert/strict';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { type Code, RuntimeError } from '../../../src/errors.ts';
import { parseMountInfo } from '../../../src/mountinfo.ts';
import { type CgroupLayout, readCgroupLayout } from '../../../src/runtime/cgroup-layout.ts';
import { hostChecks } from '../../../src/runtime/launcher/host-checks.ts';
import { crunObjection, selectRuntime } from '../../../src/runtime/launcher/oci-runtime.ts';
import { runtimeWords } from '../../../src/runtime/launcher/runtime-command.ts';
import { tempDir } from '../../support/temp-dir.ts';

const { signal } = new AbortController();

function hasCode(code: Code): (error: unknown) => boolean {
  return (error) => error instanceof RuntimeError && error.code === code;
}

function hybrid(unified: readonly string[]): CgroupLayout {
  return {
    mode: 'hybrid',
    hierarchies: [
      { mountPoint: '/sys/fs/cgroup/memory', kind: 'v1', controllers: ['memory'] },
      { mountPoint: '/sys/fs/cgroup/unified', kind: 'v2', controllers: unified },
    ],
  };
}

describe('selectRuntime', () => {
  test('takes a path at its word, and says what it is', async (t) => {
    const path = join(await tempDir(t), 'myruntime');
    writeFileSync(path, '#!/bin/sh\necho "myruntime version 7"\necho more\n');
    chmodSync(path, 0o755);
    const found = await selectRuntime(path, signal);
    assert.deepEqual({ ...found, reason: '' }, { name: 'myruntime', path, version: 'myruntime version 7', reason: '' });
  });

  test('refuses what is no runtime, is not there, or does not run', async (t) => {
    const dir = await tempDir(t);
    const path = join(dir, 'broken');
    writeFileSync(path, '#!/bin/sh\nexit 1\n');
    chmodSync(path, 0o755);
    for (const requested of ['', '../runc', 'a b', '-v', 'runc\n']) {
      await assert.rejects(selectRuntime(requested, signal), hasCode('INVALID_ARGUMENT'), JSON.stringify(requested));
    }
    for (const requested of ['no-such-runtime', join(dir, 'absent'), dir]) {
      await assert.rejects(selectRuntime(requested, signal), hasCode('NOT_FOUND'), requested);
    }
    await assert.rejects(selectRuntime(path, signal), hasCode('FAILED_PRECONDITION'));
  });
});

describe('crunObjection', () => {
  test('is about controllers in the v2 tree of a hybrid host', () => {
    assert.match(crunObjection(hybrid(['hugetlb']), true) ?? '', /hugetlb/);
    assert.equal(crunObjection(hybrid([]), false), undefined);
    assert.ok(crunObjection({ mode: 'none', hierarchies: [] }, true) !== undefined);
  });

  test('is about locked memory where cgroups are v2', () => {
    const unified: CgroupLayout = { mode: 'v2', hierarchies: hybrid(['memory']).hierarchies.slice(1) };
    assert.equal(crunObjection(unified, true), undefined);
    assert.match(crunObjection(unified, false) ?? '', /locked memory/);
  });
});

describe('readCgroupLayout', () => {
  test('tells v1, hybrid and v2 apart, and forgets what a later mount hides', () => {
    const v1 = '31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory';
    const unified = '32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw';
    const cover = '33 30 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw';
    const modeOf = (...lines: string[]): string => readCgroupLayout(parseMountInfo(lines.join('\n'))).mode;
    assert.equal(modeOf(), 'none');
    assert.equal(modeOf(v1), 'v1');
    assert.equal(modeOf(v1, unified), 'hybrid');
    assert.equal(modeOf(cover), 'v2');
    assert.equal(modeOf(v1, unified, cover), 'v2');
  });
});

describe('runtimeWords', () => {
  test('takes the messages out of JSON lines and leaves other text as it is', () => {
    const lines = ['{"level":"warning","msg":"first"}', 'plain text', '{"broken', '', '{"msg":"last\\n"}'];
    assert.equal(runtimeWords(lines.join('\n')), 'first; plain text; {"broken; last');
    assert.equal(runtimeWords('\n'), 'it gave no reason');
  });
});

describe('hostChecks', () => {
  test('says what is there, and how to mend what is not', async () => {
    const checks = await hostChecks(
      { runtime: new RuntimeError('NOT_FOUND', 'no OCI runtime'), conmonPath: '/nonexistent/conmon' },
      signal,
    );
    const failing = checks.filter(({ state }) => state !== 'ok');
    assert.ok(failing.every(({ remedy }) => remedy !== undefined && remedy !== ''));
    const names = failing.filter(({ state }) => state === 'fail').map(({ name }) => name);
    assert.ok(names.includes('OCI runtime') && names.includes('conmon'));
    assert.ok(checks.some(({ area }) => area === 'cgroups') && checks.some(({ area }) => area === 'kernel'));
  });
});
