/** Faults as data, so that they can be sent to a fake CSI plugin in another process, and what they make it do. */
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Code } from '../../src/errors.ts';
import type { Behaviour } from './fake-csi.ts';
import { FakeStatus } from './fake-status.ts';

/** `done`: the plugin does its work before the fault. */
export type Fault =
  | { readonly kind: 'error'; readonly code: Code; readonly done?: boolean }
  /** Answers as it should, late; after `ms` by the clock, whether or not anybody waits. */
  | { readonly kind: 'delay'; readonly ms: number }
  /** No answer for as long as anybody waits. */
  | { readonly kind: 'hang'; readonly done?: boolean }
  /** The process is killed with all that it remembers. */
  | { readonly kind: 'crash'; readonly done?: boolean }
  /** Says that the call is held and waits to be told how to go on. */
  | { readonly kind: 'hold'; readonly done?: boolean };

/** How a held call goes on: it is done now if it was not, or never. */
export type Release = 'go' | 'drop';

/** What a fault makes a plugin do; `held` tells of a held call and waits. */
export function behaviourOf(fault: Fault, held: () => Promise<Release>): Behaviour {
  return async (_request, effect, gone) => {
    const early = fault.kind !== 'delay' && fault.done === true ? await effect() : undefined;
    switch (fault.kind) {
      case 'error':
        throw new FakeStatus(fault.code, `scripted ${fault.code}`);
      case 'delay':
        await sleep(fault.ms);
        return effect();
      case 'hang':
        if (!gone.aborted) await once(gone, 'abort');
        throw new FakeStatus('CANCELLED', 'nobody waits');
      case 'crash':
        process.kill(process.pid, 'SIGKILL');
        return new Promise(() => undefined);
      case 'hold':
        if ((await held()) === 'drop') throw new FakeStatus('UNAVAILABLE', 'dropped');
        return early ?? effect();
    }
  };
}
