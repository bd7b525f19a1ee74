/**
 * Where volumes of this driver can be reached: on the node that has the data directory. Its name is taken from the node
 * id once and kept with the data, so that a node that is renamed still reaches its volumes.
 */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { invalid, RuntimeError, systemCode } from '../../errors.ts';
import type { Topology__Output } from '../generated/csi/v1/Topology.ts';
import type { TopologyRequirement__Output } from '../generated/csi/v1/TopologyRequirement.ts';
import type { StringMap } from '../protocol.ts';
import { writeDurably } from './durable-file.ts';

export const TOPOLOGY_KEY = 'topology.local.csi.berth/node';
/** CSI "Topology": values of segments. */
const SEGMENT_VALUE = /^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/;

export class Topology {
  readonly segments: StringMap;

  private constructor(node: string) {
    this.segments = { [TOPOLOGY_KEY]: node };
  }

  /** @throws {RuntimeError} DATA_LOSS when the name on disk is none */
  static async open(dataDir: string, nodeId: string): Promise<Topology> {
    const path = `${dataDir}/topology-node`;
    const kept = await readFile(path, 'utf8').catch((error: unknown) => {
      if (systemCode(error) === 'ENOENT') return undefined;
      throw RuntimeError.from(error, `read ${path}`);
    });
    const name = kept?.trim() ?? segmentOf(nodeId);
    if (!SEGMENT_VALUE.test(name)) throw new RuntimeError('DATA_LOSS', `${path}: is no topology segment, remove it`);
    if (kept === undefined) await writeDurably(path, `${name}\n`);
    return new Topology(name);
  }

  /**
   * Checks CreateVolume's accessibility_requirements. With no requisite topologies any will do (CSI).
   * @throws {RuntimeError} RESOURCE_EXHAUSTED when the volume must not lie here, INVALID_ARGUMENT when nothing is said
   */
  check(requirement: TopologyRequirement__Output | null): void {
    if (requirement === null) return;
    const { requisite, preferred } = requirement;
    if (requisite.length === 0 && preferred.length === 0) throw invalid('accessibility_requirements', 'are empty');
    if (requisite.length === 0 || requisite.some((entry) => this.includes(entry))) return;
    const wanted = requisite.map(({ segments }) => JSON.stringify(segments)).join(' or ');
    const reason = `accessibility_requirements: ${wanted} are asked for, this node is ${JSON.stringify(this.segments)}`;
    throw new RuntimeError('RESOURCE_EXHAUSTED', reason);
  }

  /** True when this node lies in it. */
  includes({ segments }: Topology__Output): boolean {
    const here = new Map(Object.entries(this.segments).map(([key, value]) => [key.toLowerCase(), value]));
    return Object.entries(segments).every(([key, value]) => here.get(key.toLowerCase()) === value);
  }
}

function segmentOf(nodeId: string): string {
  return SEGMENT_VALUE.test(nodeId) ? nodeId : createHash('sha256').update(nodeId).digest('hex').slice(0, 32);
}
