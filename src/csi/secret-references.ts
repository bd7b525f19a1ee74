/**
 * Where the secrets of calls come from: references, never values. A file `CONF/secrets/DRIVER.toml` has a table for each
 * kind of call, and `default` for the calls whose kind has none:
 *
 *   [default.keys]
 *   user = { env = "STORAGE_USER" }                    the environment of berthd
 *   password = { file = "/etc/berth/keys/storage" }    the text of a file, less one line feed at its end
 *
 *   [node-stage]
 *   provider = "/usr/libexec/storage-secrets"          prints a JSON object of text; its arguments are driver and RPC
 *
 * Nothing here reads anything: secret-resolver.ts does.
 */
import { parse } from 'smol-toml';
import * as z from 'zod';
import { invalid, RuntimeError } from '../errors.ts';
import type { Rpc, StreamRpc } from './protocol.ts';

/** Kinds of calls that take secrets, by the words of the file. */
export const SECRET_KINDS: Readonly<Record<string, readonly (Rpc | StreamRpc)[]>> = {
  provisioner: ['CreateVolume', 'DeleteVolume', 'ValidateVolumeCapabilities'],
  'controller-publish': ['ControllerPublishVolume', 'ControllerUnpublishVolume'],
  'controller-expand': ['ControllerExpandVolume'],
  modify: ['ControllerModifyVolume'],
  'node-stage': ['NodeStageVolume'],
  'node-publish': ['NodePublishVolume'],
  'node-expand': ['NodeExpandVolume'],
  snapshot: ['CreateSnapshot', 'DeleteSnapshot', 'ListSnapshots', 'GetSnapshot'],
  'snapshot-metadata': ['GetMetadataAllocated', 'GetMetadataDelta'],
  'group-snapshot': ['CreateVolumeGroupSnapshot', 'DeleteVolumeGroupSnapshot', 'GetVolumeGroupSnapshot'],
};

/** Where one value is. */
export type ValueReference = { readonly env: string } | { readonly file: string };

/** Where the values for a kind of call are. */
export interface SecretReference {
  readonly keys: ReadonlyMap<string, ValueReference>;
  /** Absolute path of a program; what `keys` names wins over what it prints. */
  readonly provider?: string | undefined;
}

/** References by kind, `default` among them. */
export type SecretReferences = ReadonlyMap<string, SecretReference>;

const absolute: z.ZodString = z.string().regex(/^\/.+/, 'must be an absolute path');
const value: z.ZodType<ValueReference> = z.union([
  z.strictObject({ env: z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/, 'must be the name of a variable') }),
  z.strictObject({ file: absolute }),
]);
const kind = z.strictObject({
  // CSI "Secrets Requirements".
  keys: z
    .record(z.string().regex(/^[A-Za-z0-9_.-]+$/, 'must have letters, digits, "-", "_" and "." only'), value)
    .optional(),
  provider: absolute.optional(),
});
const kinds = z.partialRecord(z.enum(['default', ...Object.keys(SECRET_KINDS)]), kind);

/**
 * The meaning of a file's text.
 * @throws {RuntimeError} INVALID_ARGUMENT naming the key; never what stands there
 */
export function parseSecretReferences(text: string): SecretReferences {
  const parsed = kinds.safeParse(tables(text));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const at = issue?.path.join('.') ?? '';
    // A value written where a reference belongs must not be repeated in an error.
    throw invalid(
      at === '' ? 'file' : at,
      'must be { file = "/path" } or { env = "NAME" } in a table [KIND.keys], or provider = "/path" in [KIND]',
    );
  }
  const entries = Object.entries(parsed.data).flatMap(([name, one]) =>
    one === undefined
      ? []
      : [[name, { keys: new Map(Object.entries(one.keys ?? {})), provider: one.provider }] as const],
  );
  return new Map(entries);
}

/** TOML's own messages quote the text. */
function tables(text: string): unknown {
  try {
    return parse(text);
  } catch (error) {
    const line = error instanceof Error && 'line' in error ? ` at line ${String(error.line)}` : '';
    throw new RuntimeError('INVALID_ARGUMENT', `file: not TOML${line}`);
  }
}

/** What a file says about a call. */
export function referenceFor(references: SecretReferences, rpc: Rpc | StreamRpc): SecretReference | undefined {
  const [name = 'default'] = Object.entries(SECRET_KINDS).find(([, calls]) => calls.includes(rpc)) ?? [];
  return references.get(name) ?? references.get('default');
}
