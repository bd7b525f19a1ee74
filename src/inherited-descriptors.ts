/**
 * Descriptors that whoever started the daemon left open. They would go on to every plugin, supervisor and container
 * (CVE-2024-21626 began that way). What Node itself opens is marked close-on-exec, so whatever is not came from outside.
 */
import { closeSync, readdirSync, readFileSync } from 'node:fs';
import { RuntimeError, systemCode } from './errors.ts';

/** O_CLOEXEC as /proc/PID/fdinfo shows it, octal. */
const CLOEXEC = 0o2000000;

/** Descriptors above 2 that a child process would get. */
export function inheritedDescriptors(): number[] {
  return readdirSync('/proc/self/fd')
    .map(Number)
    .filter((fd) => fd > 2 && isInheritable(fd));
}

/** Closes them. Due at the start of the process, before anything else is opened. */
export function closeInheritedDescriptors(): void {
  for (const fd of inheritedDescriptors()) closeSync(fd);
}

function isInheritable(fd: number): boolean {
  try {
    const flags = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1];
    return flags !== undefined && (Number.parseInt(flags, 8) & CLOEXEC) === 0;
  } catch (error) {
    // The descriptor of the listing itself is closed by now.
    if (systemCode(error) === 'ENOENT') return false;
    throw RuntimeError.from(error, `look at descriptor ${fd}`);
  }
}
