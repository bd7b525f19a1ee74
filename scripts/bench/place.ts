/**
 * Where the bench keeps everything: one directory with the root file system, the image in two forms and a
 * configuration directory for each contestant, all with the same conflist but for bridge and subnet.
 */
import { createHash } from 'node:crypto';
import { rmSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { busyboxRootfs } from '../../test/support/busybox-rootfs.ts';
import { sweep } from '../../test/support/daemon-sweep.ts';
import { command } from './command.ts';

/** Name of the cgroup below which every contestant's containers are. */
export const CGROUP = 'berth-bench';
/** Holds the subnets of all contestants. */
const SUBNETS = '10.87.200.0/21';

export const IMAGE = 'docker.io/library/busybox:bench';

/** A network of one contestant. */
export interface BenchNetwork {
  readonly name: string;
  readonly bridge: string;
  readonly subnet: string;
  /** Directory that holds nothing but this network's configuration. */
  readonly confDir: string;
  readonly config: BenchConfig;
}

/** The conflist that everybody uses. */
export interface BenchConfig {
  readonly cniVersion: string;
  readonly name: string;
  readonly plugins: readonly Readonly<Record<string, unknown>>[];
}

export interface Place {
  readonly dir: string;
  readonly rootfs: string;
  /** Tar file of the root file system. */
  readonly rootfsTar: string;
  /** The same as an OCI image in a tar file. */
  readonly imageTar: string;
  /** Makes a directory of a contestant. */
  directory(name: string): Promise<string>;
  /** Makes a directory of a contestant in memory, where /run is on most hosts. */
  runDirectory(name: string): Promise<string>;
  /** The network of the contestant with this number, 0 to 9: 10.87.200.0/24 to 10.87.209.0/24. */
  network(number: number): Promise<BenchNetwork>;
  /** Removes the bridges, the directory, and whatever a contestant left: ctr forgets its masquerading rules. */
  close(): Promise<void>;
}

export async function makePlace(): Promise<Place> {
  const dir = await mkdtemp('/var/tmp/berth-bench-');
  const runDir = await mkdtemp('/run/berth-bench-');
  await command('mount', ['-t', 'tmpfs', '-o', 'mode=711', 'berth-bench', runDir]);
  const bridges = new Set<string>();
  const rootfs = await busyboxRootfs(join(dir, 'rootfs'));
  const rootfsTar = join(dir, 'rootfs.tar');
  await command('tar', ['--create', '--owner=0', '--group=0', `--file=${rootfsTar}`, '-C', rootfs, '.']);
  return {
    dir,
    rootfs,
    rootfsTar,
    imageTar: await ociArchive(dir, rootfsTar),
    async directory(name) {
      await mkdir(join(dir, name), { recursive: true });
      return join(dir, name);
    },
    async runDirectory(name) {
      await mkdir(join(runDir, name));
      return join(runDir, name);
    },
    async network(number) {
      const bridge = `berthbench${number}`;
      bridges.add(bridge);
      const subnet = `10.87.${200 + number}.0/24`;
      const confDir = join(dir, `net-${number}`);
      const config = conflist(`bench${number}`, bridge, subnet, join(dir, 'leases'));
      await mkdir(confDir, { recursive: true });
      await writeFile(join(confDir, '10-bench.conflist'), JSON.stringify(config, undefined, 2));
      return { name: config.name, bridge, subnet, confDir, config };
    },
    async close() {
      await sweep({
        dirs: [dir, runDir],
        cgroupParent: CGROUP,
        bridges: [...bridges],
        networks: [...bridges],
        subnets: [SUBNETS],
        leaseDirs: [],
        ids: new Set(),
      });
      for (const bridge of bridges) await command('ip', ['link', 'delete', bridge]).catch(() => undefined);
      for (const path of [dir, runDir]) rmSync(path, { recursive: true, force: true });
    },
  };
}

function conflist(name: string, bridge: string, subnet: string, dataDir: string): BenchConfig {
  const ipam = { type: 'host-local', dataDir, ranges: [[{ subnet }]], routes: [{ dst: '0.0.0.0/0' }] };
  return {
    cniVersion: '1.0.0',
    name,
    plugins: [{ type: 'bridge', bridge, isGateway: true, ipMasq: true, ipam }],
  };
}

/** An OCI image of one uncompressed layer. */
async function ociArchive(dir: string, layerFile: string): Promise<string> {
  const layout = join(dir, 'oci');
  const blobs = join(layout, 'blobs/sha256');
  await mkdir(blobs, { recursive: true });
  const layerDigest = hex(await readFile(layerFile));
  await cp(layerFile, join(blobs, layerDigest));
  const put = async (mediaType: string, content: object, more: object = {}): Promise<object> => {
    const bytes = JSON.stringify(content);
    await writeFile(join(blobs, hex(bytes)), bytes);
    return { mediaType, digest: `sha256:${hex(bytes)}`, size: bytes.length, ...more };
  };
  const config = await put('application/vnd.oci.image.config.v1+json', {
    architecture: process.arch === 'x64' ? 'amd64' : process.arch,
    os: 'linux',
    config: { Env: ['PATH=/bin:/sbin'], Cmd: ['/bin/sh'] },
    rootfs: { type: 'layers', diff_ids: [`sha256:${layerDigest}`] },
  });
  const layer = {
    mediaType: 'application/vnd.oci.image.layer.v1.tar',
    digest: `sha256:${layerDigest}`,
    size: (await stat(layerFile)).size,
  };
  const mediaType = 'application/vnd.oci.image.manifest.v1+json';
  const annotations = { 'io.containerd.image.name': IMAGE, 'org.opencontainers.image.ref.name': IMAGE };
  const manifest = await put(mediaType, { schemaVersion: 2, mediaType, config, layers: [layer] }, { annotations });
  await writeFile(join(layout, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [manifest] }));
  await writeFile(join(layout, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
  const archive = join(dir, 'image.tar');
  await command('tar', ['--create', `--file=${archive}`, '-C', layout, '.']);
  return archive;
}

function hex(content: string | Uint8Array): string {
  return createHash('sha256').update(content).digest('hex');
}
