/** The judge of CSI call logs finds what it is there to find. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type JournalEntry, judge } from './fake-csi-ledger.ts';

const RUNGS = ['volume', 'attachment', 'stage', 'target'] as const;
const UP = ['CreateVolume', 'ControllerPublishVolume', 'NodeStageVolume', 'NodePublishVolume'];
const DOWN = ['NodeUnpublishVolume', 'NodeUnstageVolume', 'ControllerUnpublishVolume', 'DeleteVolume'];
const KILLED: JournalEntry = { at: 'killed', who: 'caller' };
const INTERNAL = 13;
const INVALID_ARGUMENT = 3;

/** A log written short: "RPC" is answered OK, "RPC 13" with a code, "RPC ?" by nobody, "RPC +" is not over. */
function log(...words: readonly (string | JournalEntry)[]): JournalEntry[] {
  return words.flatMap((word, call): JournalEntry[] => {
    if (typeof word !== 'string') return [word];
    const [rpc = '', end = '0'] = word.split(' ');
    const target = /^Node(Unp|P)ublish/.test(rpc) ? '/t' : '';
    const entry = {
      plugin: 'p',
      life: 1,
      call,
      rpc,
      volume: 'v',
      target,
    };
    const arrived: JournalEntry = { ...entry, at: 'arrived' };
    if (end === '+') return [arrived];
    if (end === '?') return [arrived, { ...entry, at: 'gone' }];
    return [arrived, { ...entry, at: 'answered', code: Number(end) }];
  });
}

describe('judge', () => {
  const lawful: readonly (readonly [string, readonly (string | JournalEntry)[]])[] = [
    ['the whole way', [...UP, ...DOWN]],
    ['a step that was refused and not reversed', [UP[0] ?? '', `${UP[1]} ${INVALID_ARGUMENT}`, 'DeleteVolume']],
    ['a step of unknown outcome that is repeated', [`${UP[0]} ?`, ...UP, ...DOWN]],
    ['a step that failed and is reversed', [...UP.slice(0, 3), `${UP[3]} ${INTERNAL}`, ...DOWN]],
    ['a step repeated after its caller was killed', [...UP, KILLED, `${DOWN[0]} +`, KILLED, ...DOWN]],
  ];
  for (const [title, words] of lawful) {
    test(`has nothing against ${title}`, () => assert.deepEqual(judge(log(...words), RUNGS), []));
  }

  const wrong: readonly (readonly [string, readonly (string | JournalEntry)[], RegExp])[] = [
    ['a volume that is left', UP.slice(0, 1), /volume is up at the end/],
    [
      'a target of unknown outcome that is left',
      [...UP.slice(0, 3), `${UP[3]} ?`, ...DOWN.slice(1)],
      /target \/t is unknown/,
    ],
    [
      'a target published before the volume is staged',
      [...UP.slice(0, 2), UP[3] ?? ''],
      /NodePublish.* while stage is down/,
    ],
    ['unstaging under a target', [...UP, ...DOWN.slice(1)], /NodeUnstage.* while target \/t is up/],
    [
      'detaching while the outcome of unstaging is unknown',
      [...UP, DOWN[0] ?? '', `${DOWN[1]} ?`, DOWN[2] ?? ''],
      /while stage is unknown/,
    ],
    ['two calls side by side', [`${UP[0]} +`, UP[1] ?? ''], /arrived while CreateVolume/],
    ['a step sent again after it had succeeded', [UP[0] ?? '', UP[0] ?? '', 'DeleteVolume'], /sent again/],
    ['a volume deleted while attached', [...UP.slice(0, 2), 'DeleteVolume'], /DeleteVolume .*attachment is up/],
  ];
  for (const [title, words, found] of wrong) {
    test(`finds ${title}`, () => assert.match(judge(log(...words), RUNGS).join('\n'), found));
  }
});
