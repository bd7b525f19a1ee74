/**
 * What the plugins of a network say of themselves (CNI 1.1.0 §2 "STATUS"). For people only: nothing is ever kept from
 * being tried because of it, least of all DEL.
 */
import type { CniRuntime } from './cni-runtime.ts';
import { atLeast } from './cni-version.ts';
import type { NetworkConfigs, NetworkSummary } from './network-config.ts';
import { CniError, CODE_LIMITED, CODE_UNAVAILABLE } from './protocol.ts';

/**
 * not-asked: it is not ready, or of a version below 1.1.0. unavailable: no container can be added (code 50). limited:
 * nor may those that are attached be reached (code 51). unknown: a plugin failed otherwise.
 */
export type NetworkCondition = 'not-asked' | 'available' | 'unavailable' | 'limited' | 'unknown';

/** A condition with the plugin's words; they are empty when it is good. */
export interface ConditionReport {
  readonly condition: NetworkCondition;
  readonly reason: string;
}

/** Asks the plugins of a network. Never throws: what goes wrong is the answer. */
export async function conditionOf(
  { name, state, cniVersion }: NetworkSummary,
  { cni, configs }: { readonly cni: CniRuntime; readonly configs: NetworkConfigs },
  signal: AbortSignal,
): Promise<ConditionReport> {
  if (state !== 'ready' || !atLeast(cniVersion, '1.1.0')) return { condition: 'not-asked', reason: '' };
  try {
    await cni.status(configs.load(name), signal);
    return { condition: 'available', reason: '' };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return { condition: error instanceof CniError ? conditionOfCode(error.cniCode) : 'unknown', reason };
  }
}

function conditionOfCode(cniCode: number): NetworkCondition {
  switch (cniCode) {
    case CODE_UNAVAILABLE:
      return 'unavailable';
    case CODE_LIMITED:
      return 'limited';
    default:
      return 'unknown';
  }
}
