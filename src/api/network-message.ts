/** Networks, their attachments and what was found out about them, from the words of src/cni to the wire. */
import type { AttachmentCheck } from '../cni/attachment-check.ts';
import type { NetworkState } from '../cni/config-look.ts';
import type { CollectedNetwork } from '../cni/network-collector.ts';
import type { ConditionReport, NetworkCondition } from '../cni/network-condition.ts';
import type { NetworkSummary } from '../cni/network-config.ts';
import type { NetworkAttachment } from '../cni/network-isolator.ts';
import type { ReloadedAttachment } from '../networks/network-reload.ts';
import type { CollectedNetwork as CollectedMessage } from './generated/berth/v1/CollectedNetwork.ts';
import type { ContainerAttachment } from './generated/berth/v1/ContainerAttachment.ts';
import type { Network } from './generated/berth/v1/Network.ts';
import type { NetworkCheck } from './generated/berth/v1/NetworkCheck.ts';
import type { ReloadedAttachment as ReloadedMessage } from './generated/berth/v1/ReloadedAttachment.ts';

const STATES = {
  ready: 'NETWORK_STATE_READY',
  'missing-plugin': 'NETWORK_STATE_MISSING_PLUGIN',
  invalid: 'NETWORK_STATE_INVALID',
  shadowed: 'NETWORK_STATE_SHADOWED',
} as const satisfies Record<NetworkState, string>;

const CONDITIONS = {
  'not-asked': 'NETWORK_CONDITION_UNSPECIFIED',
  available: 'NETWORK_CONDITION_AVAILABLE',
  unavailable: 'NETWORK_CONDITION_UNAVAILABLE',
  limited: 'NETWORK_CONDITION_LIMITED',
  unknown: 'NETWORK_CONDITION_UNKNOWN',
} as const satisfies Record<NetworkCondition, string>;

const OUTCOMES = {
  passed: 'CHECK_OUTCOME_PASSED',
  failed: 'CHECK_OUTCOME_FAILED',
  skipped: 'CHECK_OUTCOME_SKIPPED',
} as const satisfies Record<AttachmentCheck['outcome'], string>;

export function networkMessage(summary: NetworkSummary, report?: ConditionReport): Network {
  const { name, reason, isDefault, plugins, cniVersion, file, owned } = summary;
  return {
    ...{ name, state: STATES[summary.state], reason, isDefault, plugins: [...plugins], cniVersion, file, owned },
    condition: CONDITIONS[report?.condition ?? 'not-asked'],
    conditionReason: report?.reason ?? '',
  };
}

/** An attachment as `network inspect` shows it. */
export function containerAttachmentMessage(network: string, held: NetworkAttachment): ContainerAttachment {
  const { containerId, state, addresses, gateways, ...rest } = held;
  const attachment = { ...rest, network, addresses: [...addresses], gateways: [...gateways] };
  return { containerId, state, attachment };
}

export function checkMessage({ network, interfaceName, outcome, reason }: AttachmentCheck): NetworkCheck {
  return { network, interfaceName, outcome: OUTCOMES[outcome], reason };
}

export function collectedMessage({ name, released, asked, error }: CollectedNetwork): CollectedMessage {
  return { name, released: [...released], asked, error };
}

export function reloadedMessage({ restored, ...attachment }: ReloadedAttachment): ReloadedMessage {
  return { ...attachment, restored: [...restored] };
}
