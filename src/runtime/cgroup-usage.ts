/** What a cgroup uses and what happened to it, read from the kernel's own files on v1 and v2. Missing files are no data. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { systemCode } from '../errors.ts';
import { type CgroupLayout, hierarchyOf, readCgroupLayout } from './cgroup-layout.ts';
import type { Usage } from './isolator.ts';

/** v1 writes "no limit" as the largest page-aligned number. */
const UNLIMITED_BYTES = 2 ** 62;

/** Usage of the cgroup `path` ("/berth/ID"); fields the host cannot tell are absent. */
export function readUsage(path: string, layout: CgroupLayout = readCgroupLayout()): Usage {
  const memory = new ControllerFiles(layout, 'memory', path);
  const memoryBytes = memory.number('memory.usage_in_bytes', 'memory.current');
  const limit = memory.number('memory.limit_in_bytes', 'memory.max');
  const memoryLimitBytes = limit !== undefined && limit < UNLIMITED_BYTES ? limit : undefined;
  const pids = new ControllerFiles(layout, 'pids', path).number('pids.current', 'pids.current');
  const cpuUsageNanos = cpuNanos(layout, path);
  return {
    ...(memoryBytes === undefined ? {} : { memoryBytes }),
    ...(memoryLimitBytes === undefined ? {} : { memoryLimitBytes }),
    ...(cpuUsageNanos === undefined ? {} : { cpuUsageNanos }),
    ...(pids === undefined ? {} : { pids }),
  };
}

/** True when the kernel killed a process of this cgroup for lack of memory. */
export function hadOomKill(path: string, layout: CgroupLayout = readCgroupLayout()): boolean {
  const count = new ControllerFiles(layout, 'memory', path).entry('memory.oom_control', 'memory.events', 'oom_kill');
  return count !== undefined && count > 0n;
}

function cpuNanos(layout: CgroupLayout, path: string): bigint | undefined {
  const v1 = new ControllerFiles(layout, 'cpuacct', path).text('cpuacct.usage', undefined)?.trim();
  if (v1 !== undefined && /^\d+$/.test(v1)) return BigInt(v1);
  // v2 counts CPU time in every cgroup, controller or not.
  const v2 = layout.hierarchies.find((hierarchy) => hierarchy.kind === 'v2');
  if (v2 === undefined) return undefined;
  const micros = flatKeyed(readText(join(v2.mountPoint, path, 'cpu.stat')) ?? '', 'usage_usec');
  return micros === undefined ? undefined : micros * 1000n;
}

/** Files of one controller, which have other names on v1 and v2. */
class ControllerFiles {
  readonly #directory: string | undefined;
  readonly #isV1: boolean;

  constructor(layout: CgroupLayout, controller: string, path: string) {
    const hierarchy = hierarchyOf(layout, controller);
    this.#directory = hierarchy === undefined ? undefined : join(hierarchy.mountPoint, path);
    this.#isV1 = hierarchy?.kind === 'v1';
  }

  text(v1Name: string | undefined, v2Name: string | undefined): string | undefined {
    const name = this.#isV1 ? v1Name : v2Name;
    if (this.#directory === undefined || name === undefined) return undefined;
    return readText(join(this.#directory, name));
  }

  number(v1Name: string, v2Name: string): number | undefined {
    const text = this.text(v1Name, v2Name)?.trim();
    return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;
  }

  entry(v1Name: string, v2Name: string, key: string): bigint | undefined {
    return flatKeyed(this.text(v1Name, v2Name) ?? '', key);
  }
}

/** A value of a "key value" file (cgroup-v2.rst, "flat keyed"). */
function flatKeyed(text: string, key: string): bigint | undefined {
  const line = text.split('\n').find((candidate) => candidate.startsWith(`${key} `));
  const value = line?.slice(key.length + 1).trim();
  return value !== undefined && /^\d+$/.test(value) ? BigInt(value) : undefined;
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    const code = systemCode(error) ?? '';
    if (['ENOENT', 'ENODEV', 'ENOTSUP', 'EOPNOTSUPP'].includes(code)) return undefined;
    throw error;
  }
}
