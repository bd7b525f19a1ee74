/**
 * Plugins registered by a command: checked and met before they are recorded, registered again at each start of the
 * daemon. A record is found by the name the plugin gave itself.
 */
import * as z from 'zod';
import { RuntimeError } from '../errors.ts';
import { Serial } from '../serial.ts';
import type { Store } from '../store.ts';
import { checkSocketFile } from './plugin-connection.ts';
import { checkSocketPath, type PluginRegistration, type PluginSocket } from './plugin-registration.ts';
import type { PluginRegistry, PluginSummary } from './plugin-registry.ts';
import { checkPluginName } from './protocol.ts';

/** A plugin that was registered by a command. */
export interface EnrolledPlugin {
  readonly name: string;
  readonly sockets: readonly PluginSocket[];
  readonly registeredAt: string;
}

const recordSchema: z.ZodType<EnrolledPlugin> = z.strictObject({
  name: z.string().transform((name) => checkPluginName('name', name)),
  sockets: z
    .array(
      z.strictObject({ path: z.string(), role: z.enum(['controller', 'node']).optional() }).transform(
        ({ path, role }): PluginSocket => ({
          path: checkSocketPath('socket', path),
          ...(role === undefined ? {} : { role }),
        }),
      ),
    )
    .min(1),
  registeredAt: z.string(),
});

/** Decodes a record of the store. */
export function decodeEnrolledPlugin(value: unknown): EnrolledPlugin {
  return recordSchema.parse(value);
}

/** What somebody asks for; addresses are "unix:///path" or "/path". */
export interface EnrolmentRequest {
  readonly socket: string;
  /** The name the plugin must give itself; any when empty. */
  readonly name: string;
  /** Where the controller listens when it is elsewhere; empty when it is not. */
  readonly controllerSocket: string;
}

export interface PluginEnrolmentOptions {
  readonly registry: PluginRegistry;
  readonly store: Store<EnrolledPlugin>;
  /** Names of volumes of a plugin that are in use. */
  readonly inUse: (plugin: string) => readonly string[];
  /** How long a plugin may take to answer; 10,000 unless given. */
  readonly answerMs?: number;
}

const ANSWER_MS = 10_000;

/** See the module's head. */
export class PluginEnrolment {
  readonly #options: PluginEnrolmentOptions;
  readonly #lane = new Serial();

  constructor(options: PluginEnrolmentOptions) {
    this.#options = options;
  }

  /** Registers what is on record. */
  recover(): void {
    const { registry, store } = this.#options;
    for (const record of store.entries().values()) registry.register(registrationOf(record.sockets, record.name));
    for (const [name, reason] of store.damaged()) {
      registry.report({ key: `damaged:${name}`, source: 'command', origin: name, name, reason: `record: ${reason}` });
    }
  }

  /**
   * Registers a plugin that answers. The same request may be repeated.
   * @throws {RuntimeError} INVALID_ARGUMENT, NOT_FOUND or UNAVAILABLE when there is no plugin at the socket, ALREADY_EXISTS
   * when the name is another's: nothing is registered then
   */
  async register(request: EnrolmentRequest, signal: AbortSignal): Promise<PluginSummary> {
    const sockets = socketsOf(request);
    const name = request.name === '' ? undefined : checkPluginName('name', request.name);
    return this.#lane.run('enrolment', () => this.#enrol(sockets, name, signal), signal);
  }

  /**
   * Forgets a plugin that {@link register} recorded; the plugin goes on running.
   * @throws {RuntimeError} NOT_FOUND, FAILED_PRECONDITION when something else registers it, or when volumes of it are in
   * use and `force` is not given
   */
  async unregister(name: string, force: boolean, signal: AbortSignal): Promise<void> {
    await this.#lane.run('enrolment', async () => this.#forget(name, force), signal);
  }

  async #enrol(
    sockets: readonly PluginSocket[],
    wanted: string | undefined,
    signal: AbortSignal,
  ): Promise<PluginSummary> {
    const { registry, store, answerMs = ANSWER_MS } = this.#options;
    const same = [...store.entries().values()].find((record) => keyOf(record.sockets) === keyOf(sockets));
    if (same !== undefined && JSON.stringify(same.sockets) === JSON.stringify(sockets)) {
      if (wanted === undefined || wanted === same.name) return registry.inspect(same.name);
    }
    if (same !== undefined) {
      const advice = `berth csi unregister ${same.name} first`;
      throw new RuntimeError('ALREADY_EXISTS', `${same.sockets[0]?.path} is registered as ${same.name}: ${advice}`);
    }
    for (const { path } of sockets) checkSocketFile(path);
    const registration = registrationOf(sockets, wanted);
    registry.register(registration);
    try {
      const patience = AbortSignal.any([signal, AbortSignal.timeout(answerMs)]);
      const name = await registry.settled(registration.key, patience);
      store.create(name, { name, sockets, registeredAt: new Date().toISOString() });
      registry.register(registrationOf(sockets, name));
      return registry.inspect(name);
    } catch (error) {
      registry.deregister(registration.key);
      throw error;
    }
  }

  #forget(name: string, force: boolean): void {
    const { registry, store, inUse } = this.#options;
    const damaged = store.damaged().has(name);
    const record = damaged ? undefined : store.read(name);
    if (record === undefined && !damaged) throw this.#notOurs(name);
    const volumes = inUse(name);
    if (volumes.length > 0 && !force) {
      const shown = volumes.slice(0, 5).join(', ') + (volumes.length > 5 ? ', ...' : '');
      const advice = 'remove the containers that use them, or use --force: they stay as they are until it is back';
      throw new RuntimeError('FAILED_PRECONDITION', `CSI plugin ${name} has volumes in use (${shown}): ${advice}`);
    }
    store.remove(name);
    registry.unreport(`damaged:${name}`);
    if (record !== undefined) registry.deregister(keyOf(record.sockets));
  }

  /** Says who registers a plugin that no command did. @throws {RuntimeError} NOT_FOUND */
  #notOurs(name: string): RuntimeError {
    const [first] = this.#options.registry.inspect(name).registrations;
    if (first === undefined) return new RuntimeError('NOT_FOUND', `CSI plugin ${name} is not registered`);
    const { source, origin } = first;
    const how = {
      file: `a file: rm ${origin}`,
      directory: `its socket: stop the plugin, or rm ${origin}`,
      registrar: `its registrar: stop that, or rm ${origin}`,
      berthd: 'berthd, which runs it',
      command: `a command under the name ${origin}: berth csi unregister ${origin}`,
    }[source];
    return new RuntimeError('FAILED_PRECONDITION', `CSI plugin ${name} is registered by ${how}`);
  }
}

function socketsOf({ socket, controllerSocket }: EnrolmentRequest): readonly PluginSocket[] {
  const path = checkSocketPath('socket', socket);
  if (controllerSocket === '') return [{ path }];
  const controller = checkSocketPath('controllerSocket', controllerSocket);
  if (controller === path) return [{ path }];
  return [
    { path, role: 'node' },
    { path: controller, role: 'controller' },
  ];
}

function keyOf(sockets: readonly PluginSocket[]): string {
  return `command:${sockets[0]?.path ?? ''}`;
}

function registrationOf(sockets: readonly PluginSocket[], name: string | undefined): PluginRegistration {
  const key = keyOf(sockets);
  const origin = name ?? sockets[0]?.path ?? '';
  return { key, source: 'command', origin, ...(name === undefined ? {} : { name }), sockets };
}
