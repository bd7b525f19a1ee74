/**
 * One line of `berth doctor`: what was looked at, what was found, and how to mend it. Each concern checks its own part
 * of the host; the API gathers the lines.
 */
export interface Check {
  /** "runtime", "cgroups", "kernel", "network", "volumes", "host" */
  readonly area: string;
  readonly name: string;
  /** fail: something Berth needs is missing. warn: something works with less. */
  readonly state: 'ok' | 'warn' | 'fail';
  readonly detail: string;
  /** The command that mends it; present on every line that is not ok. */
  readonly remedy?: string;
}
