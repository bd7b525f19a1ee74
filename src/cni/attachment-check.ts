/**
 * CHECK of a container's networks (CNI 1.1.0 §2 "CHECK"), with what was recorded at ADD. Advisory: it tells, and nothing
 * is done about it, since plugins report failures that are none.
 */
import { RuntimeError } from '../errors.ts';
import type { CniRuntime } from './cni-runtime.ts';
import { atLeast } from './cni-version.ts';
import { attachmentOf, type NetworkRecord, type RecordedAttachment } from './network-record.ts';

/** What CHECK said of one attachment. */
export interface AttachmentCheck {
  readonly network: string;
  readonly interfaceName: string;
  /** skipped: the configuration forbids CHECK or is of a version that has none. */
  readonly outcome: 'passed' | 'failed' | 'skipped';
  /** Empty when it passed. */
  readonly reason: string;
}

/**
 * Checks one attachment after the other, each of them whatever became of those before.
 * @param entries attachments of `record`
 */
export async function checkAttachments(
  cni: CniRuntime,
  { id, record }: { readonly id: string; readonly record: NetworkRecord },
  entries: readonly RecordedAttachment[],
  signal: AbortSignal,
): Promise<AttachmentCheck[]> {
  const checks: AttachmentCheck[] = [];
  for (const entry of entries) {
    const reason = await check(cni, id, record, entry, signal);
    checks.push({ network: entry.network.name, interfaceName: entry.interfaceName, ...reason });
  }
  return checks;
}

async function check(
  cni: CniRuntime,
  id: string,
  { netnsPath }: NetworkRecord,
  entry: RecordedAttachment,
  signal: AbortSignal,
): Promise<Pick<AttachmentCheck, 'outcome' | 'reason'>> {
  const { network, state, result } = entry;
  if (state !== 'added' || result === undefined) return { outcome: 'failed', reason: `the attachment is ${state}` };
  if (network.disableCheck) return { outcome: 'skipped', reason: 'the configuration says disableCheck' };
  if (!atLeast(network.cniVersion, '0.4.0')) {
    return { outcome: 'skipped', reason: `version ${network.cniVersion} has no CHECK` };
  }
  try {
    await cni.check(attachmentOf(id, entry, netnsPath), result, signal);
    return { outcome: 'passed', reason: '' };
  } catch (error) {
    signal.throwIfAborted();
    return { outcome: 'failed', reason: RuntimeError.from(error, 'CHECK').message };
  }
}
