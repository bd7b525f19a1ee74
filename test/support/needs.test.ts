import assert from 'node:assert/strict';
import test, { describe } from 'node:test';
import { missing, needs } from './needs.ts';

// No host has both layouts, so this pair is missing everywhere.
const IMPOSSIBLE = ['cgroup-v1', 'cgroup-v2'] as const;

/** Runs `call` with REQUIRE set to `value`. */
function requiring<T>(value: string, call: () => T): T {
  const before = process.env['REQUIRE'];
  process.env['REQUIRE'] = value;
  try {
    return call();
  } finally {
    if (before === undefined) delete process.env['REQUIRE'];
    else process.env['REQUIRE'] = before;
  }
}

describe('needs', () => {
  test('lets the test run when the host has everything', () => {
    assert.equal(needs({ skip: () => assert.fail('skipped') }, 'netns'), true);
  });

  test('skips and says what is missing', () => {
    const reasons: (string | undefined)[] = [];
    const ran = requiring('', () => needs({ skip: (reason) => reasons.push(reason) }, ...IMPOSSIBLE));
    assert.equal(ran, false);
    assert.equal(reasons.length, 1);
    assert.match(reasons[0] ?? '', /cgroup/);
  });

  test('fails instead of skipping when REQUIRE names what is missing', () => {
    const skip = () => assert.fail('skipped');
    for (const value of ['all', 'cgroup-v1,cgroup-v2', 'root cgroup-v1 cgroup-v2']) {
      requiring(value, () => assert.throws(() => needs({ skip }, ...IMPOSSIBLE), /required here .*cgroup/));
    }
  });

  test('skips when REQUIRE names only other needs', () => {
    assert.equal(typeof requiring('root', () => missing(...IMPOSSIBLE)), 'string');
  });
});
