/**
 * What one plugin is given: its object on stdin and its variables (CNI 1.1.0 §2, §3). Pure; the chain and its order are
 * cni-runtime.ts.
 */
import type { Attachment, Label } from './attachment.ts';
import { atLeast } from './cni-version.ts';
import { capabilitiesOf, type ResolvedNetwork } from './network.ts';
import { type CniCommand, type CniResult, type JsonObject, jsonObject, type OldCniResult } from './protocol.ts';
import { writeResult } from './result-conversion.ts';

/** What one plugin gets on stdin, less `prevResult` (CNI 1.1.0 §3 "Deriving request configuration"). */
export function pluginRequest(
  plugin: JsonObject,
  network: ResolvedNetwork,
  { capabilityArgs = {}, labels = [] }: Partial<Pick<Attachment, 'capabilityArgs' | 'labels'>> = {},
): JsonObject {
  const own = Object.entries(plugin).filter(([key]) => key !== 'capabilities' && !key.startsWith('cni.dev/'));
  const declared = capabilitiesOf(plugin);
  const offered = Object.entries(capabilityArgs).filter(([name]) => declared.has(name));
  return {
    ...Object.fromEntries(own),
    cniVersion: network.cniVersion,
    name: network.name,
    ...(labels.length === 0 ? {} : { args: withLabels(plugin['args'], labels) }),
    ...(offered.length === 0 ? {} : { runtimeConfig: Object.fromEntries(offered) }),
  };
}

/** `args` of the file, with the container's labels after those it has (CNI conventions, "args"). */
function withLabels(args: unknown, labels: readonly Label[]): JsonObject {
  const { cni, ...others } = objectOr(args);
  const { labels: own, ...more } = objectOr(cni);
  return { ...others, cni: { ...more, labels: [...(Array.isArray(own) ? own : []), ...labels] } };
}

function objectOr(value: unknown): {
  readonly [key: string]: unknown;
  readonly cni?: unknown;
  readonly labels?: unknown;
} {
  const parsed = jsonObject.safeParse(value);
  return parsed.success ? parsed.data : {};
}

/** `prevResult` in the version of the configuration; DEL knows it from 0.4.0 on, the first plugin of ADD has none. */
export function previousResult(
  command: CniCommand,
  network: ResolvedNetwork,
  result: CniResult | undefined,
): CniResult | OldCniResult | undefined {
  if (result === undefined) return undefined;
  if (command === 'DEL' && !atLeast(network.cniVersion, '0.4.0')) return undefined;
  return writeResult(result, network.cniVersion);
}

/** Variables of one attachment, the same for every plugin of the chain (CNI 1.1.0 §2 "Parameters"). */
export function environment(attachment: Attachment): Record<string, string> {
  const { args } = attachment;
  return {
    CNI_CONTAINERID: attachment.containerId,
    CNI_NETNS: attachment.netnsPath,
    CNI_IFNAME: attachment.interfaceName,
    ...(args.length === 0 ? {} : { CNI_ARGS: args.map(([key, value]) => `${key}=${value}`).join(';') }),
  };
}
