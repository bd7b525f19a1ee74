/** Berth itself: one warm daemon, asked through its API by a warm client, and through the command line. */
import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ApiClient } from '../../test/support/daemon-api.ts';
import { DaemonProcess } from '../../test/support/daemon-process.ts';
import { type AttachRow, attachCost, type ParallelAttaches, parallelAttaches } from './attach-cost.ts';
import { command } from './command.ts';
import type { Contestant } from './contestant.ts';
import { CGROUP, type Place } from './place.ts';

const REFERENCE = 'busybox:bench';
const CLI = fileURLToPath(new URL('../../bin/berth', import.meta.url));

/** The two rows of Berth, over one daemon. */
export interface BerthContestants {
  readonly api: Contestant;
  readonly cli: Contestant;
  /** The daemon's IPAM plugin. */
  readonly ipamPlugin: string;
  /** Attaching a running container beside the bare plugin executions. */
  attachCost(rounds: number): Promise<AttachRow[]>;
  /** So many containers attached at once. */
  parallelAttaches(count: number): Promise<ParallelAttaches>;
  close(): Promise<void>;
}

/** Starts the built daemon (`npm run build` first) in the bench's place. */
export async function berth(place: Place, runtime: string): Promise<BerthContestants> {
  process.env['BERTH_TEST_DIST'] = '1';
  const [dir, network] = [await place.directory('berth'), await place.network(0)];
  const [own, bare] = [await place.network(2), await place.network(3)];
  await mkdir(join(dir, 'csi.d'));
  // In memory, as the default is.
  const run = await place.runDirectory('berth');
  const flags = [
    ['--root', join(dir, 'root')],
    ['--run', run],
    ['--cni-conf-dir', network.confDir],
    ['--cni-conf-dir', own.confDir],
    ['--csi-conf-dir', join(dir, 'csi.d')],
    ['--cgroup-parent', CGROUP],
    ['--runtime', runtime],
  ].flat();
  const daemon = new DaemonProcess(flags, [], () => undefined);
  await daemon.line((line) => line.msg === 'listening', 30_000);
  const socket = join(run, 'berthd.sock');
  const api = new ApiClient(socket);
  await api.images.call('Import', { sourcePath: place.rootfsTar, reference: REFERENCE });
  const { version } = await api.system.call('Version', {});
  const close = async (): Promise<void> => {
    api.close();
    await daemon.end('SIGTERM');
  };
  const attach = { api, image: REFERENCE, own, bare };
  return {
    api: {
      name: 'berth, API',
      versions: { berth: version },
      async run(argv) {
        const name = `bench-${randomBytes(6).toString('hex')}`;
        const begunMs = performance.now();
        const spec = { name, image: REFERENCE, command: [...argv], networks: [network.name], autoRemove: true };
        const { exitCode, removed, stdout, stderr } = await api.run(spec);
        const totalMs = performance.now() - begunMs;
        if (exitCode !== 0 || !removed) throw new Error(`container ${name} ended with ${exitCode}: ${stderr}`);
        return { totalMs, output: stdout };
      },
      close: async () => undefined,
    },
    cli: {
      name: 'berth run --rm',
      versions: { berth: version },
      async run(argv) {
        const begunMs = performance.now();
        const args = ['run', '--rm', '--network', network.name, REFERENCE, '--', ...argv];
        const output = await command(CLI, args, { env: { BERTH_HOST: `unix://${socket}` } });
        return { totalMs: performance.now() - begunMs, output };
      },
      close: async () => undefined,
    },
    ipamPlugin: join(dir, 'root/cni-bin/berth-ipam'),
    attachCost: (rounds) => attachCost(attach, rounds),
    parallelAttaches: (count) => parallelAttaches(attach, count),
    close,
  };
}
