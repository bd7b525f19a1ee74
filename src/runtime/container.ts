/**
 * What a container is: the validated request (ContainerSpec), the durable facts about it (ContainerRecord), and the
 * state that follows from those facts. No state is stored: it is read off the instants.
 *
 *   created --launch--> starting --started--> running --exit or stop--> stopping --released--> exited
 *      ^                    |                                                                    |
 *      |                    +--failure: the same teardown------------------------------> exited  |
 *      +--(launch again: same writable layer, new run)-------------------------------------------+
 *   any of them --remove--> removing --everything released--> gone
 */
import * as z from 'zod';
import type { ProcessIdentity } from '../process-identity.ts';
import { stringMap } from '../string-map.ts';

/** 32 lower-case hex digits, made by Berth: safe as a file name, a cgroup name and a CNI container id. */
export type ContainerId = string;

/** Limits of a container; an absent field means no limit. */
export interface Resources {
  readonly memoryBytes?: number | undefined;
  /** Thousandths of a CPU: 1500 is one and a half. */
  readonly cpuMillis?: number | undefined;
  /** Most processes and threads. */
  readonly pidsLimit?: number | undefined;
}

/** A port of the host that leads to a port of the container (CNI capability portMappings). */
export interface PortMapping {
  readonly hostPort: number;
  readonly containerPort: number;
  readonly protocol: 'tcp' | 'udp' | 'sctp';
  /** Address on the host, all when absent. */
  readonly hostIp?: string | undefined;
}

/** A CSI volume or a host path that appears inside the container. */
export type MountRequest =
  | { readonly kind: 'volume'; readonly volume: string; readonly target: string; readonly readOnly: boolean }
  | { readonly kind: 'bind'; readonly source: string; readonly target: string; readonly readOnly: boolean };

/** A CSI block volume that appears as a device node. */
export interface DeviceRequest {
  readonly volume: string;
  /** Path of the node inside the container: "/dev/xvdb". */
  readonly path: string;
  readonly readOnly: boolean;
}

/** In place of an address: the gateway of the container's first network that has one. */
export const HOST_GATEWAY = 'host-gateway';

/** What a container is called by others, and how it finds them. Empty lists say nothing. */
export interface Naming {
  /** Further names on all of its networks. */
  readonly aliases: readonly string[];
  /** In place of what its networks say. */
  readonly dnsServers: readonly string[];
  /** In place of what its networks say; "." alone searches nowhere. */
  readonly dnsSearch: readonly string[];
  /** In place of what its networks say: "ndots:2". */
  readonly dnsOptions: readonly string[];
  /** Lines of its hosts file. */
  readonly extraHosts: readonly ExtraHost[];
}

/** A name and its address, or {@link HOST_GATEWAY}. */
export interface ExtraHost {
  readonly name: string;
  readonly address: string;
}

/** A place of the host as it is, mounts below it included. */
export interface HostMount {
  /** Absolute path on the host. */
  readonly source: string;
  readonly target: string;
  readonly readOnly: boolean;
  /** Where mounts made below it later are seen, too: "slave" in the container those of the host, "shared" both ways. */
  readonly propagation: 'private' | 'slave' | 'shared';
}

/**
 * What a container of Berth's own gets that works on the host, such as a CSI plugin: all devices, the host's /dev, a
 * /sys that can be written to, and mounts that reach the host. No request of a user leads to it.
 */
export interface HostAccess {
  readonly mounts: readonly HostMount[];
}

/** What plugins of the container's networks are told beside what Berth tells them (docs/cni.md). */
export interface NetworkOption {
  /** Name of one of its networks; empty: each of them. */
  readonly network: string;
  /** A pair of CNI_ARGS, or a member of `runtimeConfig`. */
  readonly kind: 'argument' | 'capability';
  readonly name: string;
  /** Text of an argument, JSON of a capability. */
  readonly value: string;
}

/** A validated request for a container. Immutable: it is stored and never changed. */
export interface ContainerSpec {
  readonly name: string;
  /** Image reference as the user wrote it. */
  readonly image: string;
  /** Replaces the image's command when not empty. */
  readonly command: readonly string[];
  /** Replaces the image's entrypoint when present; `[]` clears it. */
  readonly entrypoint?: readonly string[] | undefined;
  /** "KEY=value", later ones win over earlier ones and over the image's. */
  readonly env: readonly string[];
  readonly workingDir?: string | undefined;
  /** "uid[:gid]" or "name[:group]". */
  readonly user?: string | undefined;
  readonly hostname?: string | undefined;
  readonly labels: Readonly<Record<string, string>>;
  readonly resources: Resources;
  readonly readOnlyRootfs: boolean;
  /** Capability names without CAP_, or "ALL". */
  readonly capAdd: readonly string[];
  readonly capDrop: readonly string[];
  /** Path of a profile on the host, or "unconfined"; Berth's own profile when absent. */
  readonly seccompProfile?: string | undefined;
  /** "none", "host", or the names of networks in order: eth0, eth1, ... */
  readonly network: 'none' | 'host' | readonly string[];
  readonly naming?: Naming | undefined;
  readonly networkOptions?: readonly NetworkOption[] | undefined;
  readonly ports: readonly PortMapping[];
  readonly mounts: readonly MountRequest[];
  readonly devices: readonly DeviceRequest[];
  /** Only for containers that Berth makes for itself. */
  readonly hostAccess?: HostAccess | undefined;
  /** Remove the container when it exits. */
  readonly autoRemove: boolean;
}

/** How a run ended. */
export interface Exit {
  /** 0 to 255; 128 + signal number when a signal ended it. -1 when nobody could tell (conmon was killed). */
  readonly code: number;
  readonly oomKilled: boolean;
  readonly exitedAt: string;
}

/** A step of teardown that failed and is being retried. */
export interface CleanupFailure {
  /** Isolator name, "launcher", or "containerizer". */
  readonly step: string;
  readonly message: string;
  readonly failedAt: string;
}

/** One run of a container: from the intent to launch to the last resource released. */
export interface Run {
  /** The intent, recorded before any effect. */
  readonly launchedAt: string;
  /** Boot the run belongs to: after a reboot pids, mounts and namespaces are void. */
  readonly bootId: string;
  readonly init?: ProcessIdentity | undefined;
  readonly startedAt?: string | undefined;
  readonly exit?: Exit | undefined;
  /** Why the launch failed, if it did. */
  readonly launchError?: string | undefined;
  /** Teardown was begun and is due until `releasedAt`. */
  readonly destroyedAt?: string | undefined;
  /** Nothing of the run is left. */
  readonly releasedAt?: string | undefined;
}

/** The durable facts about a container. */
export interface ContainerRecord {
  readonly id: ContainerId;
  readonly spec: ContainerSpec;
  readonly createdAt: string;
  /** The record exists only for a launch under way: a launch that does not finish removes it. */
  readonly provisional: boolean;
  readonly run?: Run | undefined;
  readonly removedAt?: string | undefined;
  readonly cleanupFailures: readonly CleanupFailure[];
}

export type ContainerState = 'created' | 'starting' | 'running' | 'stopping' | 'exited' | 'removing';

/** The state that follows from the recorded facts. */
export function stateOf(record: ContainerRecord): ContainerState {
  if (record.removedAt !== undefined) return 'removing';
  const run = record.run;
  if (run === undefined) return 'created';
  if (run.releasedAt !== undefined) return 'exited';
  if (run.destroyedAt !== undefined || run.exit !== undefined) return 'stopping';
  return run.startedAt === undefined ? 'starting' : 'running';
}

const instant: z.ZodISODateTime = z.iso.datetime();

const exitSchema = z.object({ code: z.int(), oomKilled: z.boolean(), exitedAt: instant });

/** Decodes a stored {@link Naming}. */
export const namingSchema: z.ZodType<Naming> = z.object({
  aliases: z.array(z.string()),
  dnsServers: z.array(z.string()),
  dnsSearch: z.array(z.string()),
  dnsOptions: z.array(z.string()),
  extraHosts: z.array(z.object({ name: z.string(), address: z.string() })),
});

const specSchema = z.object({
  name: z.string(),
  image: z.string(),
  command: z.array(z.string()),
  entrypoint: z.array(z.string()).optional(),
  env: z.array(z.string()),
  workingDir: z.string().optional(),
  user: z.string().optional(),
  hostname: z.string().optional(),
  labels: stringMap,
  resources: z.object({
    memoryBytes: z.int().optional(),
    cpuMillis: z.int().optional(),
    pidsLimit: z.int().optional(),
  }),
  readOnlyRootfs: z.boolean(),
  capAdd: z.array(z.string()),
  capDrop: z.array(z.string()),
  seccompProfile: z.string().optional(),
  network: z.union([z.literal('none'), z.literal('host'), z.array(z.string())]),
  naming: namingSchema.optional(),
  networkOptions: z
    .array(
      z.object({
        network: z.string(),
        kind: z.enum(['argument', 'capability']),
        name: z.string(),
        value: z.string(),
      }),
    )
    .optional(),
  ports: z.array(
    z.object({
      hostPort: z.int(),
      containerPort: z.int(),
      protocol: z.enum(['tcp', 'udp', 'sctp']),
      hostIp: z.string().optional(),
    }),
  ),
  mounts: z.array(
    z.discriminatedUnion('kind', [
      z.object({ kind: z.literal('volume'), volume: z.string(), target: z.string(), readOnly: z.boolean() }),
      z.object({ kind: z.literal('bind'), source: z.string(), target: z.string(), readOnly: z.boolean() }),
    ]),
  ),
  devices: z.array(z.object({ volume: z.string(), path: z.string(), readOnly: z.boolean().default(false) })),
  hostAccess: z
    .object({
      mounts: z.array(
        z.object({
          source: z.string(),
          target: z.string(),
          readOnly: z.boolean(),
          propagation: z.enum(['private', 'slave', 'shared']),
        }),
      ),
    })
    .optional(),
  autoRemove: z.boolean(),
});

const recordSchema = z.object({
  id: z.string().regex(/^[0-9a-f]{32}$/),
  spec: specSchema,
  createdAt: instant,
  provisional: z.boolean(),
  run: z
    .object({
      launchedAt: instant,
      bootId: z.string(),
      init: z.object({ pid: z.int(), startTicks: z.int() }).optional(),
      startedAt: instant.optional(),
      exit: exitSchema.optional(),
      launchError: z.string().optional(),
      destroyedAt: instant.optional(),
      releasedAt: instant.optional(),
    })
    .optional(),
  removedAt: instant.optional(),
  cleanupFailures: z.array(z.object({ step: z.string(), message: z.string(), failedAt: instant })),
});

/** Decodes a stored record. @throws when the value does not have the shape of one */
export function decodeContainerRecord(value: unknown): ContainerRecord {
  return recordSchema.parse(value);
}
