import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { BARE_ATTACH, OWN_ATTACH } from '../../scripts/bench/attach-cost.ts';
import type { Contestant } from '../../scripts/bench/contestant.ts';
import { inTurn, type Row, throughput } from '../../scripts/bench/measure.ts';
import {
  attachGoalsOf,
  formatReport,
  goalsOf,
  ipamGoalsOf,
  type Report,
  volumeGoalsOf,
} from '../../scripts/bench/report.ts';
import { figures } from '../../scripts/bench/statistics.ts';
import { BARE_VOLUME, OWN_VOLUME } from '../../scripts/bench/volume-cost.ts';

describe('figures', () => {
  test('are those of the sorted series, whatever order it has', () => {
    assert.deepEqual(figures([30, 10, 20]), { count: 3, minMs: 10, medianMs: 20, p99Ms: 30 });
    assert.deepEqual(figures([4, 1, 3, 2]), { count: 4, minMs: 1, medianMs: 2.5, p99Ms: 4 });
    const hundreds = Array.from({ length: 200 }, (_, index) => 200 - index);
    assert.equal(figures(hundreds).p99Ms, 198);
    assert.throws(() => figures([]), /no measurement/);
  });
});

/** A contestant that takes no time, tells its runs to `runs`, and says the clock where it is asked for. */
function contestant(name: string, runs: string[], totalMs: number): Contestant {
  return {
    name,
    versions: {},
    run: async (argv) => {
      runs.push(`${name} ${argv.join(' ')}`);
      const now = Date.now();
      const output = `time.tv_sec:  ${Math.floor(now / 1000)}\ntime.tv_usec: ${(now % 1000) * 1000}\n`;
      return { totalMs, output };
    },
    close: async () => undefined,
  };
}

describe('inTurn', () => {
  test('runs every contestant each round, begins with another one each time, and leaves warm-up rounds out', async () => {
    const runs: string[] = [];
    const rows = await inTurn([contestant('a', runs, 10), contestant('b', runs, 20)], 2, 1);
    assert.deepEqual(
      rows.map(({ name, lifecycle }) => [name, lifecycle.count, lifecycle.medianMs]),
      [
        ['a', 2, 10],
        ['b', 2, 20],
      ],
    );
    const order = runs.filter((run) => run.endsWith(' true')).map((run) => run[0]);
    assert.deepEqual(order, ['a', 'b', 'b', 'a', 'a', 'b']);
  });

  test('refuses a container that does not tell the time', async () => {
    const mute: Contestant = { ...contestant('mute', [], 1), run: async () => ({ totalMs: 1, output: '' }) };
    await assert.rejects(inTurn([mute], 1, 0), /mute: the container did not tell the time/);
  });
});

test('throughput has as many lifecycles under way as asked for, and no more in all', async () => {
  let now = 0;
  let most = 0;
  let all = 0;
  const counting: Contestant = {
    ...contestant('c', [], 1),
    run: async () => {
      now += 1;
      all += 1;
      most = Math.max(most, now);
      await new Promise((resolve) => setImmediate(resolve));
      now -= 1;
      return { totalMs: 1, output: '' };
    },
  };
  const { concurrency, lifecycles, perSecond } = await throughput(counting, 3, 10);
  assert.deepEqual([most, all, concurrency, lifecycles], [3, 10, 3, 10]);
  assert.ok(perSecond > 0);
});

describe('goals', () => {
  const row = (name: string, medianMs: number): Row => {
    const series = { count: 1, minMs: medianMs, medianMs, p99Ms: medianMs };
    return { name, lifecycle: series, firstInstruction: series, versions: {} };
  };

  test('compare the API with each peer that was measured', () => {
    const rows = [row('berth, API', 80), row('raw sequence', 100), row('podman run --rm', 100)];
    assert.deepEqual(
      goalsOf(rows).map(({ against, atMost, ratio, reached }) => [against, atMost, ratio, reached]),
      [
        ['raw sequence', 0.85, 0.8, true],
        ['podman run --rm', 0.55, 0.8, false],
      ],
    );
    assert.deepEqual(goalsOf([row('raw sequence', 100)]), []);
  });

  test('are told with medians, ratios, p99, rates and what was skipped', () => {
    const rows = [row('berth, API', 80), row('raw sequence', 100)];
    const cost = (medianMs: number) => ({ count: 1, minMs: medianMs, medianMs, p99Ms: medianMs });
    const ipam = [
      { name: 'berth-ipam', add: cost(6), del: cost(3) },
      { name: 'host-local', add: cost(2), del: cost(1) },
    ];
    const attach = [
      { name: OWN_ATTACH, both: cost(112), attach: cost(60), detach: cost(52) },
      { name: BARE_ATTACH, both: cost(100), attach: cost(50), detach: cost(50) },
    ];
    const parallelAttaches = { count: 50, failed: 1, totalMs: 2500 };
    const volume = [
      { name: OWN_VOLUME, publish: cost(64), unpublish: cost(30) },
      { name: BARE_VOLUME, publish: cost(50), unpublish: cost(25) },
    ];
    const parallelVolumes = { count: 20, atOnce: 4, failed: 0, totalMs: 4200 };
    const report: Report = {
      at: '2026-01-31T00:00:00.000Z',
      host: {},
      rounds: 1,
      rows,
      throughput: [{ name: 'berth, API', concurrency: 4, lifecycles: 16, perSecond: 12.34 }],
      ipam,
      attach,
      parallelAttaches,
      volume,
      parallelVolumes,
      absent: [{ name: 'ctr run --rm --cni', reason: 'not installed' }],
      goals: [
        ...goalsOf(rows),
        ...ipamGoalsOf(ipam),
        ...attachGoalsOf(attach, parallelAttaches),
        ...volumeGoalsOf(volume, parallelVolumes),
      ],
    };
    const text = formatReport(report);
    assert.match(text, /berth-ipam +6\.0 +6\.0 +3\.0 +3\.0/);
    assert.match(text, /MISSED: 3\.00 x host-local, at most 2 x/);
    for (const part of [/raw sequence +100 +100 +100 +0\.80 x/, /4 at once/, /12\.3/, /skipped: ctr.*not installed/]) {
      assert.match(text, part);
    }
    for (const part of [
      /MISSED: 1\.12 x bare plugin executions, at most 1\.1 x is/,
      /MISSED: 1 failures of 50 attaches at once, at most 0 failures are/,
      /reached: 14\.0 ms over a publish by hand, at most 15 ms are/,
      /reached: 0 failures of 20 volumes, 4 at once/,
      /50 containers attached at once: 2\.5 s, 1 failed/,
      /20 volumes made, used and removed, 4 at once: 4\.2 s, 0 failed/,
    ]) {
      assert.match(text, part);
    }
    assert.match(text, /reached: 0\.80 x raw sequence, at most 0\.85 x/);
  });
});
