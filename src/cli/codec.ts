/**
 * Messages of Berth's API as bytes, straight from the descriptor that was made at build time. A verb speaks a few of
 * them only, so only those are built: building all takes longer than the call.
 */
import protobuf, { type AnyNestedObject, type IType, type Type } from 'protobufjs/light.js';
import { descriptor } from '../api/generated/descriptor.ts';

const PACKAGE = 'berth.v1';
/** int64 and enum values are strings, absent fields have their defaults, `event` says which member of a oneof is set. */
const CONVERSION = { longs: String, enums: String, defaults: true, oneofs: true } as const;

/** How one method is spoken. */
export interface Codec<Q, R> {
  /** "/berth.v1.System/Version" */
  readonly path: string;
  readonly encode: (request: Q) => Buffer;
  readonly decode: (bytes: Buffer) => R;
}

/** The codec of a method. `Q` and `R` are its generated types: descriptor and types come from the same file. */
export function codecOf<Q, R>(service: string, method: string): Codec<Q, R> {
  const definition = definitions()[service];
  const names = definition !== undefined && 'methods' in definition ? definition.methods[method] : undefined;
  if (names === undefined) throw new Error(`${service} has no method ${method}`);
  const types = new Map<string, AnyNestedObject>();
  gather(names.requestType, types);
  gather(names.responseType, types);
  const root = protobuf.Root.fromJSON({ nested: Object.fromEntries(types) });
  const request: Type = root.lookupType(names.requestType);
  const response: Type = root.lookupType(names.responseType);
  return {
    path: `/${PACKAGE}.${service}/${method}`,
    encode: (message) => Buffer.from(request.encode(request.fromObject(Object(message))).finish()),
    // The one place where bytes become a typed message.
    decode: (bytes) => response.toObject(response.decode(bytes), CONVERSION) as R,
  };
}

/** Adds a message or enum, and what its fields are made of. */
function gather(name: string, types: Map<string, AnyNestedObject>): void {
  const definition = definitions()[name];
  if (definition === undefined || types.has(name)) return;
  types.set(name, definition);
  if (isMessage(definition)) for (const field of Object.values(definition.fields)) gather(field.type, types);
}

function isMessage(definition: AnyNestedObject): definition is IType {
  return 'fields' in definition;
}

function definitions(): Readonly<Record<string, AnyNestedObject>> {
  let at: AnyNestedObject | undefined = descriptor;
  for (const part of PACKAGE.split('.')) at = at !== undefined && 'nested' in at ? at.nested?.[part] : undefined;
  return (at !== undefined && 'nested' in at ? at.nested : undefined) ?? {};
}
