/** The table of reactions against the specification's, as facts in test/fixtures/csi.json. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { z } from 'zod';
import { GENERAL_REACTIONS, isRepeatable, REACTIONS, RPC_REACTIONS } from '../../src/csi/error-reactions.ts';
import { CsiError } from '../../src/csi/protocol.ts';

const row = z.object({ code: z.string(), reaction: z.string() });
const { errors } = z
  .object({
    errors: z.object({
      reactions: z.record(z.string(), z.string()),
      general: z.array(row),
      perRpc: z.record(z.string(), z.array(row)),
    }),
  })
  .parse(JSON.parse(readFileSync(new URL('../fixtures/csi.json', import.meta.url), 'utf8')));

/** Of two causes for one code the first counts. */
function firsts(rows: readonly z.infer<typeof row>[]): Record<string, string> {
  return Object.fromEntries([...rows].reverse().map(({ code, reaction }) => [code, reaction]));
}

describe('reactions to failed calls', () => {
  test('are those of the specification, call by call and code by code', () => {
    assert.deepEqual(GENERAL_REACTIONS, firsts(errors.general));
    const expected = Object.entries(errors.perRpc).filter(([, rows]) => rows.length > 0);
    assert.deepEqual(RPC_REACTIONS, Object.fromEntries(expected.map(([rpc, rows]) => [rpc, firsts(rows)])));
  });

  test('each is said to people', () => {
    assert.deepEqual(Object.keys(REACTIONS).sort(), Object.keys(errors.reactions).sort());
  });

  test('a call is repeated where its code asks for it, never where it is final', () => {
    const failed = (rpc: CsiError['rpc'], code: CsiError['code']): CsiError => new CsiError(code, 'p', rpc, 'x');
    assert.ok(isRepeatable(failed('NodeStageVolume', 'ABORTED')));
    assert.ok(isRepeatable(failed('NodeUnstageVolume', 'DEADLINE_EXCEEDED')));
    assert.ok(!isRepeatable(failed('NodeStageVolume', 'DEADLINE_EXCEEDED')));
    assert.ok(!isRepeatable(failed('ListVolumes', 'ABORTED')));
    assert.ok(!isRepeatable(failed('NodeExpandVolume', 'FAILED_PRECONDITION')));
  });
});
