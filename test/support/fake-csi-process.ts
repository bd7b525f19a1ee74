/**
 * Fake CSI plugins as a process of their own, which can be killed: started by fake-csi-remote.ts, told what to do over
 * the channel to it. Every call about a volume is written down before it is served and when it ends.
 */
import { appendFileSync, existsSync, unlinkSync } from 'node:fs';
import { FakeCsi, type FakeCsiOptions } from './fake-csi.ts';
import { Chaos } from './fake-csi-chaos.ts';
import { behaviourOf, type Fault, type Release } from './fake-csi-faults.ts';
import { type JournalEntry, readJournal } from './fake-csi-ledger.ts';

/** The first message: which plugins to be. */
export interface Orders {
  readonly plugins: readonly Omit<FakeCsiOptions, 'journal' | 'usually' | 'volumeId'>[];
  readonly journalFile: string;
  /** Every call may meet a fault, chosen by this seed; see fake-csi-chaos.ts. */
  readonly seed?: number | undefined;
}

/** What the test says later. */
export type Command =
  | { readonly kind: 'next'; readonly plugin: string; readonly rpc: string; readonly faults: readonly Fault[] }
  | { readonly kind: 'heal' }
  | { readonly kind: 'release'; readonly plugin: string; readonly how: Release }
  | { readonly kind: 'look' };

/** What the process says. */
export type Report =
  | { readonly kind: 'ready' }
  | { readonly kind: 'held'; readonly plugin: string; readonly rpc: string }
  | { readonly kind: 'aborted'; readonly plugin: string }
  | { readonly kind: 'tables'; readonly plugins: Readonly<Record<string, Tables>> };

/** What a plugin has now. */
export interface Tables {
  readonly volumes: readonly string[];
  readonly attached: readonly string[];
  readonly violations: readonly string[];
}

const plugins = new Map<string, FakeCsi>();
const holding = new Map<string, (how: Release) => void>();

function say(report: Report): void {
  process.send?.(report);
}

async function begin({ plugins: wanted, journalFile, seed }: Orders): Promise<void> {
  const chaos = seed === undefined ? undefined : new Chaos(seed, readJournal(journalFile));
  for (const options of wanted) {
    const journal = (entry: JournalEntry): void => {
      appendFileSync(journalFile, `${JSON.stringify(entry)}\n`);
      // ABORTED is 10: a call came while another one is held.
      if (entry.at === 'answered' && entry.code === 10) say({ kind: 'aborted', plugin: entry.plugin });
    };
    // The socket of the process before, which was killed.
    if (existsSync(options.socketPath)) unlinkSync(options.socketPath);
    const plugin = new FakeCsi({
      ...options,
      journal,
      usually: (rpc, volume) => {
        const fault = chaos?.faultFor(rpc, volume);
        return fault && behaviourOf(fault, () => Promise.resolve('go'));
      },
    });
    plugins.set(plugin.name, plugin);
    await plugin.start();
  }
  say({ kind: 'ready' });
}

function obey(command: Command): void {
  switch (command.kind) {
    case 'next': {
      const held = (): Promise<Release> => {
        const { promise, resolve } = Promise.withResolvers<Release>();
        holding.set(command.plugin, resolve);
        say({ kind: 'held', plugin: command.plugin, rpc: command.rpc });
        return promise;
      };
      plugins.get(command.plugin)?.next(command.rpc, ...command.faults.map((fault) => behaviourOf(fault, held)));
      return;
    }
    case 'heal':
      for (const plugin of plugins.values()) plugin.heal();
      return;
    case 'release':
      holding.get(command.plugin)?.(command.how);
      return;
    case 'look': {
      const tables = [...plugins.values()].map(({ name, volumes, attached, violations }): [string, Tables] => [
        name,
        { volumes: [...volumes.keys()], attached: [...attached.keys()], violations: [...violations] },
      ]);
      say({ kind: 'tables', plugins: Object.fromEntries(tables) });
    }
  }
}

process.once('message', (orders: Orders) => {
  process.on('message', obey);
  begin(orders).catch((error: unknown) => {
    console.error(error);
    process.exit(1);
  });
});
process.once('disconnect', () => process.exit(0));
