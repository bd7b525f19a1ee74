/** The System service: which daemon this is, what it chose, and what the host offers it. */
import type { Check } from '../check.ts';
import type { DoctorResponse } from './generated/berth/v1/DoctorResponse.ts';
import type { InfoResponse } from './generated/berth/v1/InfoResponse.ts';
import type { SystemDefinition } from './generated/berth/v1/System.ts';
import type { VersionResponse } from './generated/berth/v1/VersionResponse.ts';
import { API_VERSION, type Call, type ServiceMethods } from './protocol.ts';

/** One fact about the daemon, under a name to look it up by. */
export interface Fact {
  readonly key: string;
  readonly value: string;
}

export interface SystemServiceOptions {
  /** Version of berthd. */
  readonly version: string;
  /** Instant at which it began to serve. */
  readonly startedAt: string;
  /** In the order in which they are shown. */
  readonly facts: () => readonly Fact[];
  readonly checks: (signal: AbortSignal) => Promise<readonly Check[]>;
}

const CHECK_STATES = {
  ok: 'CHECK_STATE_OK',
  warn: 'CHECK_STATE_WARN',
  fail: 'CHECK_STATE_FAIL',
} as const satisfies Record<Check['state'], string>;

export class SystemService implements ServiceMethods<SystemDefinition> {
  readonly #options: SystemServiceOptions;

  constructor(options: SystemServiceOptions) {
    this.#options = options;
  }

  async version(): Promise<VersionResponse> {
    const { version, startedAt } = this.#options;
    return { version, apiVersion: API_VERSION, nodeVersion: process.versions.node, startedAt };
  }

  async info(): Promise<InfoResponse> {
    return { facts: this.#options.facts().map(({ key, value }) => ({ key, value })) };
  }

  async doctor(_request: unknown, { signal }: Call): Promise<DoctorResponse> {
    const checks = await this.#options.checks(signal);
    return { checks: checks.map((check) => ({ ...check, state: CHECK_STATES[check.state] })) };
  }
}
