/**
 * Takes away what a daemon left on the machine, by what the oracle finds in its scope. For the end of tests that killed
 * a daemon or failed: the machine is as it was, whatever the daemon did.
 */
import { spawnSync } from 'node:child_process';
import { rmdirSync, rmSync } from 'node:fs';
import { mountsBelow } from '../../src/mountinfo.ts';
import { identify, signalProcess } from '../../src/process-identity.ts';
import { type Scope, type Snapshot, snapshot } from './oracle.ts';

/** Rounds, since ending a process frees mounts and unmounting frees loop devices. */
const ROUNDS = 20;
const MIN_ID_LENGTH = 12;

/** Removes everything of the scope but files and records, which go with the test's directory. */
export async function sweep(scope: Scope): Promise<void> {
  const vague = [...scope.ids].find((id) => id.length < MIN_ID_LENGTH);
  // Whatever holds it would be ended: half of the machine, for one letter.
  if (vague !== undefined) throw new Error(`${JSON.stringify(vague)} is too short to tell what belongs to it`);
  // Command lines that may be restarted are named without pid; here every process is wanted with it.
  const all: Scope = { ...scope, restartable: () => false };
  for (let round = 0; round < ROUNDS; round += 1) {
    const found = snapshot(all);
    if (isEmpty(found)) break;
    endProcesses(found);
    for (const dir of scope.dirs) {
      for (const { mountPoint } of mountsBelow(dir)) run('umount', '--lazy', mountPoint);
    }
    for (const path of found['netns file']) removeNamespace(path);
    for (const name of found['loop device']) run('losetup', '--detach', name.split(' ')[0] ?? '');
    for (const name of found.interface) run('ip', 'link', 'delete', name.split(' ')[0] ?? '');
    removeRules(found['firewall rule']);
    for (const path of [...found.cgroup].sort().reverse()) removeCgroup(path);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  removeCgroup(`/sys/fs/cgroup/${scope.cgroupParent}`);
  for (const mount of cgroupMounts()) removeCgroup(`${mount}/${scope.cgroupParent}`);
}

function isEmpty(found: Snapshot): boolean {
  const kinds = ['process', 'mount', 'netns file', 'loop device', 'interface', 'firewall rule', 'cgroup'] as const;
  return kinds.every((kind) => found[kind].length === 0);
}

/** The oracle names a process "conmon 1234: conmon --cid ...". */
function endProcesses(found: Snapshot): void {
  for (const name of found.process) {
    const pid = Number(/ (\d+): /.exec(name)?.[1]);
    const identity = Number.isInteger(pid) ? identify(pid) : undefined;
    if (identity !== undefined) signalProcess(identity, 'SIGKILL');
  }
}

function removeNamespace(path: string): void {
  run('umount', '--lazy', path);
  rmSync(path, { force: true });
}

/** "ip nat -A POSTROUTING ..." or "ip6 filter :CHAIN - [0:0]": rules go before the chains they name. */
export function removeRules(names: readonly string[]): void {
  for (const program of ['ip', 'ip6']) {
    for (const table of ['nat', 'filter']) {
      const prefix = `${program} ${table} `;
      const lines = names.filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length));
      if (lines.length === 0) continue;
      const chains = lines.filter((line) => line.startsWith(':CNI-')).map((line) => line.slice(1).split(' ')[0]);
      const rules = lines.filter((line) => line.startsWith('-A ')).map((line) => `-D${line.slice(2)}`);
      const steps = [...rules, ...chains.map((chain) => `-F ${chain}`), ...chains.map((chain) => `-X ${chain}`)];
      // One transaction each: a rule that is gone already must not keep the others.
      for (const step of steps) {
        spawnSync(`${program}tables-restore`, ['--noflush', '--wait'], { input: `*${table}\n${step}\nCOMMIT\n` });
      }
    }
  }
}

function removeCgroup(path: string): void {
  try {
    rmdirSync(path);
  } catch {
    // Still busy or gone already: the next round or the caller's check tells.
  }
}

function cgroupMounts(): string[] {
  return mountsBelow('/sys/fs/cgroup')
    .filter((entry) => entry.fsType === 'cgroup' || entry.fsType === 'cgroup2')
    .map((entry) => entry.mountPoint);
}

function run(file: string, ...args: readonly string[]): void {
  spawnSync(file, args, { stdio: 'ignore' });
}
