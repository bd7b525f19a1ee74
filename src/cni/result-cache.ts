/**
 * libcni's cache of results, written for others to read (cnitool, debugging tools): Berth itself never looks at it, it
 * has its own records.
 *
 *   DIR/results/NETWORK-CONTAINER-IFNAME     0600, kind "cniCacheV1", in a directory of mode 0700
 *
 * A file appears whole, after ADD, and goes after DEL.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { RuntimeError } from '../errors.ts';
import type { Attachment } from './attachment.ts';
import type { ResolvedNetwork } from './network.ts';
import type { CniResult } from './protocol.ts';
import { writeResult } from './result-conversion.ts';

/** What names an entry. */
type Key = Pick<Attachment, 'containerId' | 'interfaceName'> & { readonly network: Pick<ResolvedNetwork, 'name'> };

/** See the module's head. */
export class ResultCache {
  readonly #dir: string;

  /** @param dir `/var/lib/cni` for libcni; two daemons must not share one */
  constructor(dir: string) {
    this.#dir = dir;
  }

  /** Writes the entry of an attachment, or replaces it. */
  write(attachment: Attachment, result: CniResult): void {
    const path = this.#path(attachment);
    // Not among the entries: whoever lists them would read it half written.
    const draft = join(this.#dir, `.${randomBytes(8).toString('hex')}`);
    try {
      mkdirSync(join(this.#dir, 'results'), { recursive: true, mode: 0o700 });
      writeFileSync(draft, JSON.stringify(entryOf(attachment, result)), { flag: 'wx', mode: 0o600 });
      renameSync(draft, path);
    } catch (error) {
      rmSync(draft, { force: true });
      throw RuntimeError.from(error, `write ${path}`);
    }
  }

  /** Removes the entry. Idempotent. */
  remove(key: Key): void {
    const path = this.#path(key);
    try {
      rmSync(path, { force: true });
    } catch (error) {
      throw RuntimeError.from(error, `remove ${path}`);
    }
  }

  /** All three were validated before ADD: none holds a slash. */
  #path({ network, containerId, interfaceName }: Key): string {
    return join(this.#dir, 'results', `${network.name}-${containerId}-${interfaceName}`);
  }
}

/** Keys in libcni's order; it leaves the last four out when they are empty. */
function entryOf(attachment: Attachment, result: CniResult): object {
  const { containerId, interfaceName, network, netnsPath, args, capabilityArgs } = attachment;
  return {
    kind: 'cniCacheV1',
    containerId,
    config: Buffer.from(JSON.stringify(listOf(network))).toString('base64'),
    ifName: interfaceName,
    networkName: network.name,
    ...(netnsPath === '' ? {} : { netns: netnsPath }),
    ...(args.length === 0 ? {} : { cniArgs: args }),
    ...(Object.keys(capabilityArgs).length === 0 ? {} : { capabilityArgs }),
    result: writeResult(result, result.cniVersion || network.cniVersion),
  };
}

/** The list as it was run, plugins of its folder included: a DEL by this text misses none. */
function listOf({ name, cniVersion, disableCheck, disableGC, plugins }: ResolvedNetwork): object {
  return {
    cniVersion,
    name,
    ...(disableCheck ? { disableCheck } : {}),
    ...(disableGC ? { disableGC } : {}),
    plugins,
  };
}
