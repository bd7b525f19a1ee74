/**
 * One concern of a container: its root file system, its networks, its volumes, its limits. Isolators are a list; the
 * list order is policy and stands in main. What an isolator wants of the process it says as a Contribution.
 *
 * The life of one run, as an isolator sees it:
 *
 *   prepare   before any process exists; all isolators side by side
 *   isolate   beside launcher.create; the process may exist, user code has not run
 *   watch     while it runs
 *   cleanup   no process of the run is left; reverse list order; due once `prepare` was called, also if it failed,
 *             and possible for ids the isolator has never seen
 *   remove    the container itself goes: what outlives a run (writable layer) is given back
 */
import type { ContainerId, ContainerRecord, Resources } from './container.ts';

/** A mount inside the container, in the words of the OCI runtime spec. */
export interface Mount {
  readonly destination: string;
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

/** A device node inside the container and the right to use it. */
export interface Device {
  readonly path: string;
  readonly type: 'b' | 'c';
  readonly major: number;
  readonly minor: number;
  readonly fileMode: number;
  readonly uid: number;
  readonly gid: number;
  /** Letters of "rwm". */
  readonly access: string;
}

/** The process to run, in the words of the OCI runtime spec. */
export interface ProcessContribution {
  readonly args?: readonly string[];
  readonly env?: readonly string[];
  readonly cwd?: string;
  readonly user?: { readonly uid: number; readonly gid: number; readonly additionalGids: readonly number[] };
}

/** Names of Linux namespaces as the OCI runtime spec writes them. */
export type NamespaceType = 'pid' | 'network' | 'mount' | 'ipc' | 'uts' | 'user' | 'cgroup';

/**
 * What an isolator adds to the process about to be created. Contributions are merged in list order: lists are
 * concatenated, single values of later isolators win, namespaces are replaced by type.
 */
export interface Contribution {
  /** Absolute path of the mounted root file system. */
  readonly rootfs?: string;
  readonly readOnlyRootfs?: boolean;
  readonly process?: ProcessContribution;
  readonly hostname?: string;
  readonly mounts?: readonly Mount[];
  readonly devices?: readonly Device[];
  /** The right to use every device there is. */
  readonly allDevices?: boolean;
  /** "shared": mounts that ask for it are seen outside; "private" unless given. */
  readonly mountPropagation?: 'shared' | 'private';
  /** New namespace when `path` is absent. */
  readonly namespaces?: readonly { readonly type: NamespaceType; readonly path?: string }[];
  /** Path below each cgroup hierarchy: "/berth/ID". */
  readonly cgroupsPath?: string;
  readonly resources?: Resources;
  /** Full names, "CAP_CHOWN": bounding, effective and permitted sets. */
  readonly capabilities?: readonly string[];
  /** An OCI `linux.seccomp` object; "unconfined" switches the filter off. */
  readonly seccomp?: Readonly<Record<string, unknown>> | 'unconfined';
  readonly rlimits?: readonly { readonly type: string; readonly soft: number; readonly hard: number }[];
  readonly sysctl?: Readonly<Record<string, string>>;
  readonly maskedPaths?: readonly string[];
  readonly readonlyPaths?: readonly string[];
  readonly noNewPrivileges?: boolean;
  readonly oomScoreAdj?: number;
}

/** A limit that was hit, and so the reason why a container is stopped. */
export interface Limitation {
  readonly isolator: string;
  readonly resource: string;
  readonly message: string;
}

/** What a running container uses right now. */
export interface Usage {
  readonly memoryBytes?: number;
  readonly memoryLimitBytes?: number;
  readonly cpuUsageNanos?: bigint;
  readonly pids?: number;
}

/** An address a container has on a network, for lists and inspect. */
export interface NetworkStatus {
  readonly network: string;
  readonly interfaceName: string;
  /** "10.86.0.5/16" */
  readonly addresses: readonly string[];
  readonly gateways: readonly string[];
  readonly mac?: string;
}

/** A volume a container has mounted or published, for lists and inspect. */
export interface VolumeStatus {
  readonly volume: string;
  readonly driver: string;
  readonly target: string;
  readonly readOnly: boolean;
}

/** What an isolator tells people about a container. */
export interface IsolatorStatus {
  readonly networks?: readonly NetworkStatus[];
  readonly volumes?: readonly VolumeStatus[];
}

/** See the module's head for the order of calls. Calls for one container never overlap. */
export interface Isolator {
  /** Durable key, for example "network/cni": never renamed. */
  readonly name: string;

  /**
   * Refuses a request that can be known to fail before any side effect: unknown network, unknown volume, bad user.
   * Called when a container is created, when it has no id yet (""), and again before each launch.
   * @throws {RuntimeError} INVALID_ARGUMENT, NOT_FOUND or FAILED_PRECONDITION naming the field
   */
  validate?(container: ContainerRecord): void;

  /**
   * Start of the daemon: rebuilds what it needs for the `running` ids and releases everything it holds for a run of
   * any other id. `existing` are all containers that have a record: what outlives a run is kept for those only.
   */
  recover(running: ReadonlySet<ContainerId>, existing: ReadonlySet<ContainerId>, signal: AbortSignal): Promise<void>;

  prepare?(container: ContainerRecord, signal: AbortSignal): Promise<Contribution>;
  isolate?(container: ContainerRecord, signal: AbortSignal): Promise<void>;
  /** Settles when a limit is hit; rejects with the signal's reason when aborted. */
  watch?(id: ContainerId, signal: AbortSignal): Promise<Limitation>;
  usage?(id: ContainerId, signal: AbortSignal): Promise<Usage>;
  status?(id: ContainerId): IsolatorStatus;

  /** Ids for which something is still held though their run is over: `cleanup` is due for them. */
  pending?(): ReadonlySet<ContainerId>;

  /** Idempotent. Throws when something is left: it is called again later, until it succeeds. */
  cleanup(id: ContainerId, signal: AbortSignal): Promise<void>;
  /** Idempotent. The container's record goes after this; `cleanup` has succeeded before. */
  remove?(id: ContainerId, signal: AbortSignal): Promise<void>;
}
