/**
 * Hardware addresses of bridges without an address of the host. Such a bridge takes the lowest hardware address of its
 * ports, so it changes with every container that comes or goes, and CHECK of the bridge plugin, which compares it with
 * that of ADD, would fail for containers that are well. An address that was set stays. Where the host has an address in
 * the bridge the plugin sets one itself.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ResolvedNetwork } from '../cni/network.ts';
import { RuntimeError } from '../errors.ts';
import { hostCommand } from '../host-command.ts';
import type { RunProgram } from '../run-program.ts';

const NET = '/sys/class/net';
/** NET_ADDR_SET of the kernel's addr_assign_type. */
const SET = '3';
/** Names that can be a bridge of a created network or of a file: no path, no option of ip. */
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$/;

/** Gives the bridges of a network of Berth's own a hardware address that stays. Idempotent. */
export async function steadyBridges(network: ResolvedNetwork, run: RunProgram, signal: AbortSignal): Promise<void> {
  for (const bridge of unsteadyBridges(network)) await steady(bridge, run, signal);
}

/** Bridges that the plugin gives no hardware address. */
export function unsteadyBridges({ owned, plugins }: ResolvedNetwork): readonly string[] {
  if (!owned) return [];
  return plugins.flatMap(({ type, bridge, isGateway, isDefaultGateway }) => {
    const set = isGateway === true || isDefaultGateway === true;
    return type === 'bridge' && !set && typeof bridge === 'string' && NAME.test(bridge) ? [bridge] : [];
  });
}

async function steady(bridge: string, run: RunProgram, signal: AbortSignal): Promise<void> {
  const dir = join(NET, bridge);
  const ip = (...args: readonly string[]): Promise<string> => hostCommand('ip', ['link', ...args], signal, { run });
  if (!existsSync(dir)) {
    const address = `02:${randomBytes(5)
      .toString('hex')
      .replace(/..(?=.)/g, '$&:')}`;
    try {
      await ip('add', 'name', bridge, 'address', address, 'type', 'bridge');
      return;
    } catch (error) {
      // Another container of the network was faster.
      if (!existsSync(dir)) throw RuntimeError.from(error, `make bridge ${bridge}`);
    }
  }
  if (read(dir, 'addr_assign_type') !== SET) await ip('set', 'dev', bridge, 'address', read(dir, 'address'));
}

function read(dir: string, name: string): string {
  try {
    return readFileSync(join(dir, name), 'utf8').trim();
  } catch (error) {
    throw RuntimeError.from(error, `read ${join(dir, name)}`);
  }
}
