/**
 * One interface of one container on one network: everything ADD is given. It is recorded before ADD, so that DEL and
 * CHECK are given the very same. What goes into the environment or the request of a plugin is checked here, whoever
 * made it.
 */
import { invalid } from '../errors.ts';
import type { ResolvedNetwork } from './network.ts';
import { CNI_NAME, type JsonObject, printable } from './protocol.ts';

/** See the module's head. */
export interface Attachment {
  readonly containerId: string;
  /** Path of the named namespace; empty when it is gone. */
  readonly netnsPath: string;
  /** "eth0": 1 to 15 bytes */
  readonly interfaceName: string;
  readonly network: ResolvedNetwork;
  /** CNI_ARGS, pairs in order. */
  readonly args: readonly (readonly [key: string, value: string])[];
  /** What the runtime offers, by capability name; each plugin gets those it declares. */
  readonly capabilityArgs: JsonObject;
  /** Labels of the container, for plugins that look at `args.cni.labels`. */
  readonly labels?: readonly Label[] | undefined;
}

/** A label as the convention writes it (CNI conventions, "args"). */
export interface Label {
  readonly key: string;
  readonly value: string;
}

/** Names an attachment for GC. */
export interface AttachmentKey {
  readonly containerId: string;
  readonly interfaceName: string;
}

/** What a pair of CNI_ARGS or a value for a plugin's rules must not hold: it would be read as more than one. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const SEPARATOR = /[;=\u0000-\u001f\u007f]/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const CONTROL = /[\u0000-\u001f\u007f]/;
const MAX_DEPTH = 8;

/**
 * Refuses an attachment that ADD must not be given (CNI 1.1.0 §2 "Parameters").
 * @throws {RuntimeError} INVALID_ARGUMENT naming the field and the reason
 */
export function validateAttachment(attachment: Attachment): void {
  const { containerId, netnsPath, interfaceName, network, args, capabilityArgs } = attachment;
  if (!CNI_NAME.test(containerId))
    throw invalid('container id', `${quoted(containerId)} must match ${CNI_NAME.source}`);
  if (!CNI_NAME.test(network.name)) throw invalid('network', `${quoted(network.name)} must match ${CNI_NAME.source}`);
  if (!netnsPath.startsWith('/') || CONTROL.test(netnsPath)) {
    throw invalid('network namespace', `${quoted(netnsPath)} must be an absolute path`);
  }
  checkInterfaceName(interfaceName);
  for (const [key, value] of args) {
    if (key === '') throw invalid('CNI argument', 'a key is empty');
    for (const text of [key, value]) checkValue('CNI argument', text);
  }
  checkValues('capability argument', capabilityArgs);
}

/** @throws {RuntimeError} INVALID_ARGUMENT unless the kernel and plugins would take the name */
export function checkInterfaceName(name: string): void {
  const bytes = Buffer.byteLength(name);
  const bad = name === '.' || name === '..' || /[/:\s]/.test(name) || CONTROL.test(name);
  if (bytes < 1 || bytes > 15 || bad) {
    throw invalid('interface name', `${quoted(name)} must be 1 to 15 bytes without "/", ":" and white space`);
  }
}

/**
 * Every text in a value, keys included.
 * @throws {RuntimeError} INVALID_ARGUMENT for what a plugin's rules or arguments could be split at
 */
export function checkValues(field: string, value: unknown, depth = 0): void {
  if (depth > MAX_DEPTH) throw invalid(field, `is nested deeper than ${MAX_DEPTH}`);
  if (typeof value === 'string') checkValue(field, value);
  if (typeof value !== 'object' || value === null) return;
  for (const [key, member] of Object.entries(value)) {
    checkValue(field, key);
    checkValues(field, member, depth + 1);
  }
}

function checkValue(field: string, text: string): void {
  if (SEPARATOR.test(text)) {
    throw invalid(field, `${quoted(text)} holds ";", "=" or a control character`);
  }
}

function quoted(text: string): string {
  return JSON.stringify(printable(text).slice(0, 100));
}
