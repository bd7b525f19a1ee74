import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { RuntimeError } from '../../../src/errors.ts';
import { SeccompIsolator } from '../../../src/runtime/isolators/seccomp.ts';
import { defaultSeccompProfile } from '../../../src/runtime/isolators/seccomp-default-profile.ts';
import { parseSeccompProfile, resolveSeccompProfile } from '../../../src/runtime/isolators/seccomp-profile.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { recordOf } from './isolator-fixture.ts';

const isolator = new SeccompIsolator();

/** Calls that a resolved filter lets through without looking at arguments. */
function allowed(capabilities: readonly string[], arch = 'x64'): Set<unknown> {
  const filter = JSON.parse(JSON.stringify(resolveSeccompProfile(defaultSeccompProfile(), { capabilities, arch })));
  return new Set(
    filter.syscalls
      .filter((rule: { action: string; args?: unknown }) => rule.action === 'SCMP_ACT_ALLOW' && rule.args === undefined)
      .flatMap((rule: { names: string[] }) => rule.names),
  );
}

describe('SeccompIsolator', () => {
  test('gives a filter when the request names none', async () => {
    isolator.validate(recordOf());
    const { seccomp } = await isolator.prepare(recordOf());
    assert.ok(typeof seccomp === 'object');
    assert.equal(seccomp['defaultAction'], 'SCMP_ACT_ERRNO');
  });

  test('refuses a profile that is missing, broken, no file or too long', async (t) => {
    const dir = await tempDir(t);
    writeFileSync(join(dir, 'broken'), '{"defaultAction":');
    writeFileSync(join(dir, 'other'), '[]');
    writeFileSync(join(dir, 'action'), '{"defaultAction":"SCMP_ACT_MAYBE","syscalls":[]}');
    writeFileSync(
      join(dir, 'rule'),
      '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[],"action":"SCMP_ACT_ERRNO"}]}',
    );
    writeFileSync(join(dir, 'long'), ' '.repeat(2 ** 20 + 1));
    mkdirSync(join(dir, 'directory'));
    for (const name of ['missing', 'broken', 'other', 'action', 'rule', 'long', 'directory']) {
      const record = recordOf({ seccompProfile: join(dir, name) });
      const refused = (error: unknown): boolean =>
        error instanceof RuntimeError && error.code === 'INVALID_ARGUMENT' && error.message.startsWith('seccomp');
      assert.throws(() => isolator.validate(record), refused, name);
      await assert.rejects(isolator.prepare(record), refused, name);
    }
  });

  test('takes a profile from a file', async (t) => {
    const path = join(await tempDir(t), 'profile.json');
    writeFileSync(
      path,
      '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"mkdir","action":"SCMP_ACT_ERRNO","errnoRet":28}]}',
    );
    const { seccomp } = await isolator.prepare(recordOf({ seccompProfile: path }));
    assert.deepEqual(seccomp, {
      defaultAction: 'SCMP_ACT_ALLOW',
      syscalls: [{ names: ['mkdir'], action: 'SCMP_ACT_ERRNO', errnoRet: 28 }],
    });
  });

  test('switches the filter off on the explicit word only', async () => {
    assert.deepEqual(await isolator.prepare(recordOf({ seccompProfile: 'unconfined' })), { seccomp: 'unconfined' });
  });
});

describe('the default profile', () => {
  const dangerous = ['mount', 'umount2', 'unshare', 'setns', 'bpf', 'keyctl', 'add_key', 'request_key', 'init_module'];
  const more = ['kexec_load', 'io_uring_setup', 'userfaultfd', 'reboot', 'swapon', 'open_by_handle_at', 'pivot_root'];

  test('lets nothing through that reaches beyond a container', () => {
    const calls = allowed([]);
    for (const call of [...dangerous, ...more, 'clone3', 'perf_event_open', 'settimeofday']) {
      assert.equal(calls.has(call), false, call);
    }
  });

  test('lets through what programs need', () => {
    const calls = allowed([]);
    for (const call of ['execve', 'openat', 'futex', 'connect', 'epoll_wait', 'statx', 'getrandom', 'rseq', 'mmap']) {
      assert.ok(calls.has(call), call);
    }
  });

  test('gives a call with the capability that governs it', () => {
    assert.ok(allowed(['CAP_SYS_ADMIN']).has('mount'));
    assert.ok(allowed(['CAP_SYS_CHROOT']).has('chroot'));
    assert.ok(!allowed(['CAP_SYS_CHROOT']).has('mount'));
  });

  test('names the architectures of the machine', () => {
    const filterOf = (arch: string): unknown =>
      resolveSeccompProfile(defaultSeccompProfile(), { capabilities: [], arch })['architectures'];
    assert.deepEqual(filterOf('x64'), ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86']);
    assert.deepEqual(filterOf('arm64'), ['SCMP_ARCH_AARCH64', 'SCMP_ARCH_ARM']);
  });

  test('has the format that profiles from files have', () => {
    const profile = defaultSeccompProfile();
    assert.equal(parseSeccompProfile(JSON.stringify(profile)).syscalls.length, profile.syscalls.length);
  });
});
