/** Turns on one network: shared, capped, alone. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { NetworkGate } from '../../src/cni/network-gate.ts';

const never = new AbortController().signal;

/** Work that says when it began and ends when told. */
class Piece {
  readonly #gate: NetworkGate;
  readonly #end = Promise.withResolvers<void>();
  begun = false;

  constructor(gate: NetworkGate) {
    this.#gate = gate;
  }

  run(kind: 'share' | 'alone', network = 'net', signal: AbortSignal = never): Promise<void> {
    const work = async (): Promise<void> => {
      this.begun = true;
      await this.#end.promise;
    };
    return this.#gate[kind](network, work, signal);
  }

  end(): void {
    this.#end.resolve();
  }
}

describe('NetworkGate', () => {
  test('lets as many share a network as it was told, the rest in their order', async () => {
    const gate = new NetworkGate(() => 2);
    const pieces = [1, 2, 3, 4].map(() => new Piece(gate));
    const runs = pieces.map((piece) => piece.run('share'));
    const begun = (): boolean[] => pieces.map((piece) => piece.begun);
    await turn();
    assert.deepEqual(begun(), [true, true, false, false]);
    pieces[1]?.end();
    await turn();
    assert.deepEqual(begun(), [true, true, true, false]);
    for (const piece of pieces) piece.end();
    await Promise.all(runs);
    assert.deepEqual(begun(), [true, true, true, true]);
  });

  test('gives a network to one alone when all others have ended, and holds back who comes later', async () => {
    const gate = new NetworkGate();
    const [first, alone, later] = [new Piece(gate), new Piece(gate), new Piece(gate)];
    const runs = [first.run('share'), alone.run('alone'), later.run('share')];
    await turn();
    assert.deepEqual([first.begun, alone.begun, later.begun], [true, false, false]);
    first.end();
    await turn();
    assert.deepEqual([alone.begun, later.begun], [true, false]);
    alone.end();
    await turn();
    assert.equal(later.begun, true);
    later.end();
    await Promise.all(runs);
  });

  test('keeps networks apart', async () => {
    const gate = new NetworkGate(() => 1);
    const [one, other] = [new Piece(gate), new Piece(gate)];
    const runs = [one.run('alone', 'a'), other.run('share', 'b')];
    await turn();
    assert.deepEqual([one.begun, other.begun], [true, true]);
    one.end();
    other.end();
    await Promise.all(runs);
  });

  test('goes on after work that failed and after one that left before its turn', async () => {
    const gate = new NetworkGate(() => 1);
    await assert.rejects(
      gate.share('net', () => Promise.reject(new Error('broken')), never),
      /broken/,
    );
    const [holder, leaver, last] = [new Piece(gate), new Piece(gate), new Piece(gate)];
    const leaving = new AbortController();
    const held = holder.run('share');
    const left = leaver.run('alone', 'net', leaving.signal);
    const lasting = last.run('share');
    leaving.abort(new Error('no patience'));
    await assert.rejects(left, /no patience/);
    holder.end();
    await held;
    last.end();
    await lasting;
    assert.deepEqual([leaver.begun, last.begun], [false, true]);
    await assert.rejects(
      gate.share('net', () => Promise.resolve(), AbortSignal.abort(new Error('late'))),
      /late/,
    );
  });
});
