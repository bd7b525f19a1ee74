/**
 * What an attachment costs: `network connect` and `disconnect` of a running container through a warm daemon, beside the
 * bare executions of the same plugins for the same kind of network, in turn; and fifty containers attached at once.
 */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { ApiClient } from '../../test/support/daemon-api.ts';
import { CNI_BIN_DIRS } from '../../test/support/needs.ts';
import { command } from './command.ts';
import type { BenchNetwork } from './place.ts';
import { type Figures, figures } from './statistics.ts';

/** The row of one side. */
export interface AttachRow {
  readonly name: string;
  /** Attach and detach together. */
  readonly both: Figures;
  readonly attach: Figures;
  readonly detach: Figures;
}

/** Containers that were attached at the same time. */
export interface ParallelAttaches {
  readonly count: number;
  readonly failed: number;
  readonly totalMs: number;
}

export const OWN_ATTACH = 'network connect, disconnect';
export const BARE_ATTACH = 'bare plugin executions';

/** A network that the daemon knows, one that only the bare executions use, and the container's image. */
export interface AttachOptions {
  readonly api: ApiClient;
  readonly image: string;
  readonly own: BenchNetwork;
  readonly bare: BenchNetwork;
}

/** One container keeps running while it is attached and detached again and again. */
export async function attachCost({ api, image, own, bare }: AttachOptions, rounds: number): Promise<AttachRow[]> {
  const name = `bench-${randomBytes(6).toString('hex')}`;
  await api.start({ name, image, command: ['sleep', '1000'], networks: ['none'] });
  await command('ip', ['netns', 'add', name]);
  const sides = [
    {
      name: OWN_ATTACH,
      attach: () => api.networks.call('Connect', { network: own.name, container: name }),
      detach: () => api.networks.call('Disconnect', { network: own.name, container: name }),
      attachMs: [] as number[],
      detachMs: [] as number[],
    },
    {
      name: BARE_ATTACH,
      attach: () => plugin(bare, 'ADD', name),
      detach: () => plugin(bare, 'DEL', name),
      attachMs: [] as number[],
      detachMs: [] as number[],
    },
  ];
  try {
    for (let round = -3; round < rounds; round += 1) {
      for (const side of round % 2 === 0 ? sides : sides.toReversed()) {
        const [attachMs, detachMs] = [await timed(side.attach), await timed(side.detach)];
        if (round < 0) continue;
        side.attachMs.push(attachMs);
        side.detachMs.push(detachMs);
      }
    }
  } finally {
    await command('ip', ['netns', 'delete', name]);
    await api.containers.call('Remove', { ref: name, force: true });
  }
  return sides.map(({ name: side, attachMs, detachMs }) => ({
    name: side,
    both: figures(attachMs.map((ms, index) => ms + (detachMs[index] ?? 0))),
    attach: figures(attachMs),
    detach: figures(detachMs),
  }));
}

/** Starts so many containers on one network at once, counts those that did not come up, and removes them all. */
export async function parallelAttaches(options: AttachOptions, count: number): Promise<ParallelAttaches> {
  const { api, image, own } = options;
  const names = Array.from({ length: count }, () => `bench-${randomBytes(6).toString('hex')}`);
  const begunMs = performance.now();
  const started = await Promise.allSettled(
    names.map((name) =>
      api.start({ name, image, command: ['sleep', '1000'], networks: [own.name] }, { timeoutMs: 300_000 }),
    ),
  );
  const totalMs = performance.now() - begunMs;
  const failed = started.filter(({ status }) => status === 'rejected');
  for (const failure of failed) process.stderr.write(`attach: ${'reason' in failure ? String(failure.reason) : ''}\n`);
  await Promise.all(
    names
      .filter((_name, index) => started[index]?.status === 'fulfilled')
      .map((ref) => api.containers.call('Remove', { ref, force: true }, { timeoutMs: 300_000 })),
  );
  return { count, failed: failed.length, totalMs };
}

async function plugin(network: BenchNetwork, verb: 'ADD' | 'DEL', namespace: string): Promise<void> {
  const [conf] = network.config.plugins;
  const file = CNI_BIN_DIRS.map((dir) => join(dir, String(conf?.['type']))).find(existsSync);
  if (file === undefined) throw new Error(`no plugin ${String(conf?.['type'])}`);
  const { cniVersion, name } = network.config;
  await command(file, [], {
    input: JSON.stringify({ cniVersion, name, ...conf }),
    env: {
      CNI_COMMAND: verb,
      CNI_CONTAINERID: namespace,
      CNI_NETNS: `/run/netns/${namespace}`,
      CNI_IFNAME: 'eth0',
      CNI_PATH: CNI_BIN_DIRS.join(':'),
    },
  });
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const begunMs = performance.now();
  await work();
  return performance.now() - begunMs;
}
