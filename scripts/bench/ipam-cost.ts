/** What one call of an IPAM plugin costs: berth-ipam, which asks a warm daemon, beside host-local, in turn. */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { CNI_BIN_DIRS } from '../../test/support/needs.ts';
import { command } from './command.ts';
import { type Figures, figures } from './statistics.ts';

/** The row of one plugin. */
export interface IpamRow {
  readonly name: string;
  readonly add: Figures;
  readonly del: Figures;
}

const SUBNET = '10.87.209.0/24';

/** `dataDir` is host-local's; both plugins begin with an empty range. */
export async function ipamCost(berthIpam: string, dataDir: string, rounds: number): Promise<IpamRow[]> {
  const hostLocal = CNI_BIN_DIRS.map((dir) => join(dir, 'host-local')).find((path) => existsSync(path));
  const plugins = [
    { name: 'berth-ipam', file: berthIpam, add: [] as number[], del: [] as number[] },
    ...(hostLocal === undefined
      ? []
      : [{ name: 'host-local', file: hostLocal, add: [] as number[], del: [] as number[] }]),
  ];
  const ipam = { dataDir, ranges: [[{ subnet: SUBNET }]], routes: [{ dst: '0.0.0.0/0' }] };
  for (let round = -3; round < rounds; round += 1) {
    for (const plugin of round % 2 === 0 ? plugins : plugins.toReversed()) {
      const input = JSON.stringify({ cniVersion: '1.0.0', name: 'ipam-cost', ipam: { type: plugin.name, ...ipam } });
      const containerId = randomBytes(16).toString('hex');
      const addMs = await timed(plugin.file, 'ADD', containerId, input);
      const delMs = await timed(plugin.file, 'DEL', containerId, input);
      if (round < 0) continue;
      plugin.add.push(addMs);
      plugin.del.push(delMs);
    }
  }
  return plugins.map(({ name, add, del }) => ({ name, add: figures(add), del: figures(del) }));
}

async function timed(file: string, verb: 'ADD' | 'DEL', containerId: string, input: string): Promise<number> {
  const begunMs = performance.now();
  const env = {
    CNI_COMMAND: verb,
    CNI_CONTAINERID: containerId,
    CNI_NETNS: '/none',
    CNI_IFNAME: 'eth0',
    CNI_PATH: '/none',
  };
  await command(file, [], { input, env });
  return performance.now() - begunMs;
}
