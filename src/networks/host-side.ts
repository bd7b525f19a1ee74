/** What the host has to be given beside what plugins do, put together in one place. */
import type { HostSide } from '../cni/attacher.ts';
import type { RunProgram } from '../run-program.ts';
import { finishDel } from './masquerade-leftovers.ts';
import { steadyBridges } from './steady-bridges.ts';

export function hostSide(run: RunProgram): HostSide {
  return {
    prepareAdd: ({ network }, signal) => steadyBridges(network, run, signal),
    finishDel: finishDel(run),
  };
}
